"""What a file says of itself, before the user has added anything; and the choice of its channel axis."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mxsplicer.errors import InputError
from mxsplicer.slides.slide import LazyImage, complete_key
from mxsplicer.slides.tiff import TiffSeries

PLAUSIBLE_UM = (0.02, 20.0)  # light-sheet and electron microscopes below, coarse IMC and laser ablation above


@dataclass(frozen=True, eq=False)
class ImageFile:
    """An image (C, Y, X) and what its file says of it."""

    image: LazyImage
    pyramid: tuple[LazyImage, ...]
    tile_px: tuple[int, int]
    storage: str
    markers: tuple[str, ...] | None = None
    pixel_size_um: float | None = None
    pixel_size_from: str = ""
    pixel_size_said: str = ""  # what the file says where that is implausible


def image_file(
    path: Path,
    series: TiffSeries,
    *,
    markers: tuple[str, ...] | None = None,
    size_um: float | None = None,
    size_from: str = "",
) -> ImageFile:
    """Return a TIFF's first image with its channel axis first, and the pixel size where it is plausible."""
    move = _channel_axis(path, series)
    candidates = [(size_um, size_from), (series.resolution_um, "resolution tag")]
    said = [(size, source) for size, source in candidates if size is not None]
    good = [(size, source) for size, source in said if PLAUSIBLE_UM[0] <= size <= PLAUSIBLE_UM[1]]
    size, source = good[0] if good else (None, "")
    return ImageFile(
        image=_ChannelFirst.of(series.image, move),
        pyramid=tuple(_ChannelFirst.of(level, move) for level in series.pyramid),
        tile_px=series.tile_px,
        storage=f"{series.compression}, {'pyramid, ' if series.pyramid else ''}tiles of {series.tile_px}",
        markers=markers,
        pixel_size_um=size,
        pixel_size_from=source,
        pixel_size_said="" if good or not said else f"{said[0][0]:g} µm",
    )


def _channel_axis(path: Path, series: TiffSeries) -> int:
    """Return the place of the channel axis, or raise where there is none or more than one."""
    axes, shape = series.axes, series.image.shape
    found = f"{path.name} has the axes {axes} {tuple(shape)}"
    if "S" in axes:
        if shape[axes.index("S")] in (3, 4) and _is_colour(series):
            msg = f"{found}: a colour (RGB) picture. Give the multiplex image, one grey channel per marker."
            raise InputError(msg)
        if len(axes) == 3:
            return axes.index("S")
    others = [axis for axis in axes if axis not in "YX"]
    if not others:
        msg = f"{found} and no channel axis. Give an image of several markers, (C, Y, X)."
        raise InputError(msg)
    if len(others) > 1:
        msg = f"{found}; one channel axis beside Y and X is needed. Export a single plane and time point."
        raise InputError(msg)
    return axes.index(others[0])


def _is_colour(series: TiffSeries) -> bool:
    # Four float samples are proteins that somebody's writer put into a pixel; 8- and 16-bit integers are colours.
    return series.photometric in ("RGB", "YCBCR", "PALETTE") and np.dtype(series.image.dtype).kind in "ui"


class _ChannelFirst:
    """A view of an image whose channel axis comes last."""

    def __init__(self, image: LazyImage) -> None:
        self._image = image
        self.shape = (image.shape[-1], *image.shape[:-1])
        self.dtype = image.dtype
        self.ndim = 3

    @classmethod
    def of(cls, image: LazyImage, channel_axis: int) -> LazyImage:
        """Return the image itself where its channels come first already."""
        return image if channel_axis == 0 else cls(image)

    def __getitem__(self, key: Any) -> np.ndarray:
        channels, rows, columns = complete_key(key, self.ndim)
        window = np.asarray(self._image[rows, columns])  # (y, x, C), y and x absent where an integer asked for one
        moved: np.ndarray = np.moveaxis(window, -1, 0)[channels]
        return moved
