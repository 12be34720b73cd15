"""The image and metadata of a file as a reader returns them: which image, which axis is C, which pixel size."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from mxsplicer.errors import InputError
from mxsplicer.images.choosing import Candidate, Choice, choose_image
from mxsplicer.images.lazy_images import LazyImage, Reordered, Single, Stacked
from mxsplicer.images.tiff import TiffEntry, TiffSeries
from mxsplicer.images.units import PixelSize, choose_pixel_size, disagreement
from mxsplicer.system.location import Location, name_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ImageFile:
    """An image file as a reader returns it: an image (C, Y, X) and metadata."""

    image: LazyImage
    pyramid: tuple[LazyImage, ...]
    tile_px: tuple[int, int]
    storage: str
    markers: tuple[str, ...] | None = None
    pixel_size_um: float | None = None
    pixel_size_from: str = ""
    pixel_size_problem: str = ""  # why the pixel size in the file is not used
    choice: Choice = field(default_factory=lambda: Choice((0,)))  # of the images in the file
    any_order: bool = False  # whether the order of the channels means nothing, as that of files in a folder
    uncropped_px: tuple[int, int] | None = None  # of the largest channel, where channels differ by a few pixels
    unless_named: InputError | None = None  # why it is not read unless the user names each plane as a marker


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


def read_chosen(
    path: Location, images: Sequence[Candidate], wanted: str | None, read_one: Callable[[int], ImageFile]
) -> ImageFile:
    """Return the image file of the slide: of the image that is chosen, or of those that are its channels, joined.

    Parameters
    ----------
    images, wanted
        See :func:`~mxsplicer.images.choosing.choose_image`.
    read_one
        From the number of an image to the image.
    """
    choice = choose_image(name_of(path), images, wanted)
    files = [read_one(number) for number in choice.numbers]
    if len(files) == 1:
        return replace(files[0], markers=files[0].markers or choice.names or None, choice=choice)
    return replace(join_channels(files), markers=choice.names or None, choice=choice)


def join_channels(files: Sequence[ImageFile]) -> ImageFile:
    """Return image files of equal height and width as the channels of one; its markers are theirs, if all have them."""
    n_levels = min(len(one.pyramid) for one in files)
    levels = [[one.image for one in files], *([one.pyramid[number] for one in files] for number in range(n_levels))]
    # Writers round the sides of levels in different ways.
    alike = [level for level in levels if len({one.shape[1:] for one in level}) == 1]
    names = tuple(name for one in files for name in one.markers or ("",) * one.image.shape[0])
    sized = next((one for one in files if one.pixel_size_um or one.pixel_size_problem), files[0])
    return replace(
        sized,
        image=Stacked(alike[0]),
        pyramid=tuple(Stacked(level) for level in alike[1:]),
        storage=f"{files[0].storage}, {len(files)} images joined",
        markers=names if all(names) else None,
    )


def image_file(
    path: Location,
    series: TiffSeries,
    *,
    markers: tuple[str, ...] | None = None,
    size: PixelSize | None = None,
) -> ImageFile:
    """Return an image file made of a TIFF: channel axis first, and the pixel size if it is plausible."""
    name = name_of(path)
    unless_named = None
    shape = tuple(series.image.shape)
    if TiffEntry("", series.axes, shape, 1, str(series.image.dtype), series.photometric).is_colour:
        msg = f"{name} has the axes {series.axes} {shape}: a colour (RGB) image."
        remedy = (
            "Give the multiplex image, one grey channel per marker; or name the colours by `markers`, if they are "
            "markers."
        )
        unless_named = InputError(msg, remedy)
    plane_names = series.page_names if _are_distinct(series.page_names) else ()
    # Planes with names of their own are channels, and so may be the Z axis of an ImageJ stack.
    named = bool(plane_names) or series.kind == "imagej" or _names_planes(markers or (), series)
    image, pyramid, not_channels = channel_first(name, series, named=named)
    if markers is None and len(plane_names) == image.shape[0]:
        markers = plane_names
    sizes = [*([size] if size else []), PixelSize(series.resolution_um, "resolution tag", series.aspect)]
    if contradiction := disagreement(sizes):
        logger.warning("%s: %s", name, contradiction)
    size_um, source, problem = choose_pixel_size(sizes)
    return ImageFile(
        image=image,
        pyramid=pyramid,
        tile_px=series.tile_px,
        storage=f"{series.compression}, {'pyramid, ' if pyramid else ''}tiles of {series.tile_px}",
        markers=markers,
        pixel_size_um=size_um,
        pixel_size_from=source,
        pixel_size_problem=problem,
        unless_named=unless_named or not_channels,
    )


def channel_first(
    name: str, series: Series, *, named: bool = False
) -> tuple[LazyImage, tuple[LazyImage, ...], InputError | None]:
    """Return an image file's pixels and pyramid as (C, Y, X), or raise if it has more than one channel axis.

    Without a channel axis, the image is the only channel. Z and T are channel axes only if their planes are ``named``;
    otherwise the error to raise unless the user names them is returned too.
    """
    axes, shape = series.axes, tuple(series.image.shape)
    others = [axis for axis in axes if axis not in "YX"]
    msg = f"{name} has the axes {axes} {shape}; one channel axis is needed, next to Y and X."
    remedy = "Export a single plane and time point"
    if len(others) > 1:
        raise InputError(msg, f"{remedy}.")
    order = [axes.index(axis) for axis in (*others, "Y", "X")]
    levels = [Reordered.of(level, order) for level in (series.image, *series.pyramid)]
    if not others:
        levels = [Single(level) for level in levels]
    problem = None
    if others and others[0] in "ZT" and not named:
        problem = InputError(msg, f"{remedy}; or name the planes by `markers`, if they are channels.")
    return levels[0], tuple(levels[1:]), problem


def _are_distinct(names: Sequence[str]) -> bool:
    return len(names) > 1 and all(names) and len(set(names)) > 1


def _names_planes(markers: Sequence[str], series: TiffSeries) -> bool:
    """Return whether the names of channels in an image file are those of the planes along Z or T."""
    others = [n for n, axis in zip(series.image.shape, series.axes, strict=True) if axis in "ZT"]
    return others == [len(markers)] and _are_distinct(markers)
