"""Open masks: label images from files, read lazily as unsigned integers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mxsplicer.errors import InputError
from mxsplicer.images.lazy_images import Cropped, LazyImage, complete_key
from mxsplicer.images.slide import Slide
from mxsplicer.images.tiles import Window
from mxsplicer.masks.copies import tiled
from mxsplicer.masks.formats import open_levels
from mxsplicer.masks.geojson import OutlineOf, is_geojson
from mxsplicer.masks.nuclei import match_nuclei
from mxsplicer.masks.placement import place_outlines
from mxsplicer.system.location import locate, name_of

_LARGEST_ID = 2**32 - 1


class NotLabelsError(InputError):
    """A mask holds numbers that are not ids of cells; this is found when its pixels are read."""


def open_mask(
    path: str | Path,
    *,
    page: int | None = None,
    slide: Slide | None = None,
    outline_of: OutlineOf = "cell",
    must_fit: bool = True,
) -> LazyImage:
    """Open a label image (Y, X) whose slices are uint32: 0 is background, every other value one cell.

    Masks of 64-bit integers or floats are accepted if their values are whole numbers below 2³²; this is checked as
    their pixels are read.

    Parameters
    ----------
    path
        A TIFF or OME-TIFF; a PNG, ``.npy`` or ``.npz`` file; the ``mask.zarr`` of a result; any zarr array; the labels
        of an OME-Zarr, ``slide.ome.zarr/labels/cells``, or the OME-Zarr itself if it holds one label image, also by
        its URL; or outlines of cells in GeoJSON as QuPath exports them.
    page
        Which page of a file that holds several, from 0; of Mesmer's (Y, X, 2), 0 is the cells and 1 the nuclei.
    slide
        The slide that the mask belongs to. Outlines need it for their height and width; from a pyramid, the level that
        fits the slide is opened.
    outline_of
        Which outlines of a GeoJSON file are read: those of the cells, or those of their nuclei, which have the ids of
        their cells.
    must_fit
        Raise if the mask is not as high and wide as ``slide``.

    Raises
    ------
    InputError
        If the file is missing, does not hold a label image, or does not fit the slide.
    """
    return _open(path, page, slide, outline_of, must_fit=must_fit)


def _open(
    path: str | Path,
    page: int | None,
    slide: Slide | None,
    outline_of: OutlineOf,
    *,
    must_fit: bool,
    argument: str = "page",
) -> LazyImage:
    """Open a mask; ``argument`` names the page in messages."""
    location = locate(path)
    if isinstance(location, Path) and not location.exists():
        msg = f"mask {path} not found."
        raise InputError(msg)
    name = name_of(location)
    if isinstance(location, Path) and location.is_file() and is_geojson(location):
        if slide is None:
            msg = f"mask {name} holds outlines, which need the height and width of the slide."
            raise InputError(msg, "Give `slide` too.")
        return place_outlines(location, slide, outline_of=outline_of)
    if outline_of != "cell":
        msg = f"mask {name} is a label image and has no outlines of each {outline_of}."
        raise InputError(msg, f"Give the mask of each {outline_of} in its own file.")
    mask = _open_image(location, name, page, slide, argument)
    if slide is not None and tuple(mask.shape) == slide.uncropped_px:
        return Cropped(mask, slide.shape_px)  # as the channels of the slide
    if slide is not None and must_fit:
        check_mask(mask, slide)
    return mask


def _open_image(location: Path | str, name: str, page: int | None, slide: Slide | None, argument: str) -> "Mask":
    levels = [_squeezed(level) for level in open_levels(location)]
    if levels[0].ndim == 3:
        axis = _page_axis(levels[0].shape, slide)
        page = _checked_page(levels[0], axis, page, name, argument)
        levels = [_Plane(level, {axis: page}) for level in levels if level.ndim == 3]
    elif page not in (None, 0) or levels[0].ndim != 2:
        msg = f"mask {name} has the shape {tuple(levels[0].shape)}; a label image (Y, X) is needed."
        raise InputError(msg, f"It has no page {page}." if page is not None else "")
    shapes = [tuple(level.shape) for level in levels]
    if slide is not None and slide.shape_px in shapes:
        levels = levels[shapes.index(slide.shape_px) :]
    labels = levels[0]
    chunk = _chunk_of(labels)
    pyramid = tuple(Mask(level, name) for level in levels[1:] if level.ndim == 2)
    return Mask(labels if chunk is None else tiled(labels, chunk, name), name, pyramid)


def _page_axis(shape: Sequence[int], slide: Slide | None) -> int:
    """Return which of three axes of a mask counts its pages: the one without which it fits the slide, or the shortest.

    Pages come first in most files, and last in those of Mesmer, (Y, X, 2).
    """
    without = [tuple(n for place, n in enumerate(shape) if place != axis) for axis in range(3)]
    for needed in (slide.shape_px, slide.uncropped_px) if slide is not None else ():
        if needed in without:
            return without.index(needed)
    return int(np.argmin(shape))


def _checked_page(labels: LazyImage, axis: int, page: int | None, name: str, argument: str) -> int:
    n = labels.shape[axis]
    if page is None and axis == 2 and n in (3, 4) and np.dtype(labels.dtype).itemsize == 1:
        msg = f"mask {name} is a colour picture {tuple(labels.shape)}, and its colours are not the ids of cells."
        raise InputError(msg, "Give the label image that the segmentation wrote, not a picture of it.")
    if page is None:
        msg = f"mask {name} holds {n} label images, {tuple(labels.shape)}."
        cells_first = " Mesmer writes the cells as page 0 and the nuclei as page 1." if axis == 2 and n == 2 else ""
        raise InputError(msg, f"Choose one by `{argument}`, from 0.{cells_first}")
    if not 0 <= page < n:
        msg = f"mask {name} has no page {page}; its {n} pages are counted from 0."
        raise InputError(msg)
    return page


def open_nuclei(
    path: str | Path,
    slide: Slide,
    *,
    page: int | None = None,
    mask: LazyImage | None = None,
    must_fit: bool = True,
) -> LazyImage:
    """Open the mask file of the nuclei of a slide, as :func:`open_mask` opens that of its cells.

    Parameters
    ----------
    path
        A label image of the nuclei, or outlines of cells with their nuclei in GeoJSON; see :func:`open_mask`.
    slide, page, must_fit
        As for :func:`open_mask`.
    mask
        The mask of the cells. Nuclei that are numbered apart get the ids of the cells that they overlap most; see
        :func:`mxsplicer.masks.nuclei.match_nuclei`. Without it, nuclei keep their ids.
    """
    outline_of: OutlineOf = "nucleus" if is_geojson(Path(path)) else "cell"
    nuclei = _open(path, page, slide, outline_of, must_fit=must_fit, argument="nuclei_page")
    return nuclei if mask is None else match_nuclei(nuclei, mask, name=slide.name)


class Mask:
    """A label image (Y, X) of any number type, read as uint32; ``pyramid`` holds its coarser levels, finest first."""

    dtype = np.dtype(np.uint32)
    ndim = 2

    def __init__(self, labels: LazyImage, name: str, pyramid: "tuple[Mask, ...]" = ()) -> None:
        if np.dtype(labels.dtype).kind not in "uifb":
            msg = f"mask {name} holds {labels.dtype}; integers are needed."
            raise InputError(msg)
        self._labels, self._name = labels, name
        self.shape = (labels.shape[0], labels.shape[1])
        self.pyramid = pyramid

    def __getitem__(self, key: Any) -> np.ndarray:
        labels = np.asarray(self._labels[key])
        if labels.dtype.kind == "u" and labels.dtype.itemsize <= 4:
            return labels.astype(np.uint32, copy=False)
        if labels.dtype.kind == "b":
            labels = labels.astype(np.uint8)
        if labels.size:
            self._check(labels)
        return labels.astype(np.uint32)

    def _check(self, labels: np.ndarray) -> None:
        if labels.dtype.kind == "f" and not (np.isfinite(labels).all() and (labels == np.floor(labels)).all()):
            strange = labels[~np.isfinite(labels) | (labels != np.floor(labels))][0]
            msg = f"mask {self._name} holds {strange:g}, which is not a cell id."
            remedy = "It looks like an image of intensities or probabilities: give the label image."
            raise NotLabelsError(msg, remedy)
        if labels.min() < 0 or labels.max() > _LARGEST_ID:
            strange = labels.min() if labels.min() < 0 else labels.max()
            msg = f"mask {self._name} holds the id {strange:.0f}; ids from 0 to {_LARGEST_ID} are needed."
            raise NotLabelsError(msg, "Relabel it.")


class _Plane:
    """A mask in a file with more axes, with a fixed index along some of them."""

    def __init__(self, image: LazyImage, fixed: dict[int, int]) -> None:
        self._image, self._fixed = image, fixed
        self.dtype = image.dtype
        self.shape = tuple(n for axis, n in enumerate(image.shape) if axis not in fixed)
        self.ndim = len(self.shape)
        chunk = _chunk_of(image)
        self.chunk = chunk and tuple(n for axis, n in enumerate(chunk) if axis not in fixed)

    def __getitem__(self, key: Any) -> Any:
        free = iter(complete_key(key, self.ndim))
        axes = range(self._image.ndim)
        return self._image[tuple(self._fixed[axis] if axis in self._fixed else next(free) for axis in axes)]


def _squeezed(labels: LazyImage) -> LazyImage:
    """Drop axes of length one of a mask, as long as two axes remain."""
    single = [axis for axis, n in enumerate(labels.shape) if n == 1][: max(0, labels.ndim - 2)]
    return _Plane(labels, dict.fromkeys(single, 0)) if single else labels


def _chunk_of(labels: LazyImage) -> tuple[int, ...] | None:
    """Return the shape of the stored chunks of a mask, or None if it is not known."""
    chunk: tuple[int, ...] | None = getattr(labels, "chunk", None) or getattr(labels, "chunks", None)
    return chunk


def check_mask(mask: LazyImage, slide: Slide) -> None:
    """Raise if the shape of ``mask`` is not that of ``slide``, (Y, X).

    A mask from a file is checked where it is opened, by :func:`mxsplicer.open_mask`; functions that take a mask as an
    array check it themselves, once.
    """
    if tuple(mask.shape) != slide.shape_px:
        msg = f"mask is {tuple(mask.shape)} but slide {slide.name!r} is {slide.shape_px} (Y, X) at level {slide.level}."
        raise InputError(msg, _shape_hint(tuple(mask.shape), slide.shape_px))


def _shape_hint(found: tuple[int, ...], needed: tuple[int, int]) -> str:
    if len(found) != 2:
        return "A mask has the two axes (Y, X); if a file holds several masks, choose one by `page`."
    if found == needed[::-1]:
        return "Height and width look swapped: transpose the mask."
    ratios = [needed[0] / found[0], needed[1] / found[1]]
    ratio = sum(ratios) / 2
    # A level of a pyramid rounds each side, so allow the ratio of one pixel more or less.
    if abs(ratios[0] - ratios[1]) < 2 * max(1, ratio) / min(found) and abs(ratio - 1) > 0.2:
        size = f"{ratio:.3g} times smaller" if ratio > 1 else f"{1 / ratio:.3g} times larger"
        return f"It is {size}: give the mask of the level that the slide is read at."
    return "It may belong to another slide."


def read_labels(what: str, mask: LazyImage, slide: Slide, window: Window) -> np.ndarray:
    """Return a window of a mask as uint32, or raise if it holds a number that is not an id; ``what`` is its name."""
    labels = np.asarray(mask[window])
    if labels.dtype.itemsize > 4 or labels.dtype.kind == "i":
        lowest, highest = labels.min(), labels.max()
        if lowest < 0 or highest > _LARGEST_ID:
            wrong = lowest if lowest < 0 else highest
            msg = f"{what} of slide {slide.name!r} holds {wrong}; ids of cells are between 1 and {_LARGEST_ID}."
            raise InputError(msg)
    return labels.astype(np.uint32, copy=False)
