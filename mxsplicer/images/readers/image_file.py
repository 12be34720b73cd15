"""The image and metadata of a file as a reader returns them, and the choice of its channel axis."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mxsplicer.errors import InputError
from mxsplicer.images.lazy_images import LazyImage, Reordered, Single
from mxsplicer.images.tiff import TiffSeries
from mxsplicer.system.location import Location, name_of

PLAUSIBLE_UM = (0.02, 20.0)  # light-sheet and electron microscopes below, coarse IMC and laser ablation above
_MOST_OBLONG = 0.05  # relative difference of height and width of a pixel that calibration may leave


@dataclass(frozen=True, eq=False)
class ImageFile:
    """An image (C, Y, X) and the metadata of its file."""

    image: LazyImage
    pyramid: tuple[LazyImage, ...]
    tile_px: tuple[int, int]
    storage: str
    markers: tuple[str, ...] | None = None
    pixel_size_um: float | None = None
    pixel_size_from: str = ""
    pixel_size_problem: str = ""  # why the pixel size in the file is not used


class Series(Protocol):
    """A multiscale image as a reader finds it, with its axes as in the file."""

    @property
    def image(self) -> LazyImage:
        """The finest level."""
        ...

    @property
    def pyramid(self) -> tuple[LazyImage, ...]:
        """The coarser levels."""
        ...

    @property
    def axes(self) -> str:
        """A letter per axis."""
        ...


def image_file(
    path: Location,
    series: TiffSeries,
    *,
    markers: tuple[str, ...] | None = None,
    size_um: float | None = None,
    size_from: str = "",
    aspect: float = 1.0,
) -> ImageFile:
    """Return the first image of a TIFF with its channel axis first, and the pixel size if it is plausible."""
    name = name_of(path)
    if "S" in series.axes and _is_colour(series):
        msg = f"{name} has the axes {series.axes} {series.image.shape}: a colour (RGB) image."
        raise InputError(msg, "Give the multiplex image, one grey channel per marker.")
    # The Z axis of an ImageJ stack may hold channels; that of an OME-TIFF holds focal planes.
    image, pyramid = channel_first(name, series, stands_for_channels="ZT" if series.kind == "imagej" else "")
    sizes = [(size_um, aspect, size_from), (series.resolution_um, series.aspect, "resolution tag")]
    size, source, problem = plausible_size(sizes)
    return ImageFile(
        image=image,
        pyramid=pyramid,
        tile_px=series.tile_px,
        storage=f"{series.compression}, {'pyramid, ' if pyramid else ''}tiles of {series.tile_px}",
        markers=markers,
        pixel_size_um=size,
        pixel_size_from=source,
        pixel_size_problem=problem,
    )


def plausible_size(candidates: Sequence[tuple[float | None, float, str]]) -> tuple[float | None, str, str]:
    """Return the first plausible pixel size that an image file has and its source, or why none is plausible.

    Parameters
    ----------
    candidates
        Width of a pixel (µm), its height as a multiple of the width, and their source; best first.
    """
    low, high = PLAUSIBLE_UM
    wrong = []
    for size, aspect, source in candidates:
        if size is None:
            continue
        if not low <= size <= high:
            wrong.append(f"it gives {size:g} µm, and {low:g} to {high:g} µm are plausible")
        elif abs(aspect - 1) > _MOST_OBLONG:
            wrong.append(f"it gives {size:g} x {size * aspect:g} µm, and pixels must be square: resample the image")
            break  # whatever the other sources give, the pixels are not square
        else:
            return size, source, ""
    return None, "", wrong[0] if wrong else ""


def channel_first(
    name: str, series: Series, *, stands_for_channels: str = ""
) -> tuple[LazyImage, tuple[LazyImage, ...]]:
    """Return an image file's pixels and pyramid as (C, Y, X), or raise if it has more than one channel axis.

    Without a channel axis, the image is the only channel. Z and T are channel axes only if they are listed in
    ``stands_for_channels``.
    """
    axes, shape = series.axes, tuple(series.image.shape)
    others = [axis for axis in axes if axis not in "YX"]
    found = f"{name} has the axes {axes} {shape}"
    if not others:
        order = [axes.index("Y"), axes.index("X")]
        return Single(Reordered.of(series.image, order)), tuple(
            Single(Reordered.of(level, order)) for level in series.pyramid
        )
    if len(others) > 1 or (others[0] in "ZT" and others[0] not in stands_for_channels):
        msg = f"{found}; one channel axis is needed, next to Y and X."
        raise InputError(msg, "Export a single plane and time point.")
    order = [axes.index(axis) for axis in (others[0], "Y", "X")]
    return Reordered.of(series.image, order), tuple(Reordered.of(level, order) for level in series.pyramid)


def _is_colour(series: TiffSeries) -> bool:
    # Integer samples are colours; float samples are markers that a writer stored as samples of a pixel.
    n_samples = series.image.shape[series.axes.index("S")]
    photometric = series.photometric in ("RGB", "YCBCR", "PALETTE")
    return n_samples in (3, 4) and photometric and np.dtype(series.image.dtype).kind in "ui"
