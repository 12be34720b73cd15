"""A slide without a mask gets one: nuclei are found in the nuclear marker and grown into cells, tile by tile.

A tile is segmented with a halo of its surroundings. A cell belongs to the tile whose core holds the centroid of its
nucleus, and that tile writes all of it, so no cell is cut where tiles meet. What is nucleus and what is background is
decided by brightness levels measured once over the slide; so the cells do not depend on the tiles.
"""

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.segmentation import expand_labels, watershed

from mxsplicer.errors import InputError
from mxsplicer.progress import track
from mxsplicer.slides.panel import find_nuclear_marker
from mxsplicer.slides.slide import Slide, overview

logger = logging.getLogger(__name__)

Segmenter = Callable[[np.ndarray], np.ndarray]  # (C, Y, X) -> labels (Y, X), 0 background
CellFinder = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # (C, Y, X) -> cells, nuclei, by the same labels
Window = tuple[slice, slice]  # rows and columns of a slide

_CHUNK_PX = 512
_WINDOWS, _WINDOW_PX = 16, 512  # where brightness levels are measured on a large slide


def segment(
    slide: Slide,
    path: str | Path,
    *,
    nuclear_marker: str | None = None,
    expansion_um: float = 3.0,
    nucleus_diameter_um: float = 7.0,
    min_nucleus_area_um2: float = 8.0,
    segmenter: Segmenter | None = None,
    halo_um: float = 50.0,
    tile_px: int = 2048,
    overwrite: bool = False,
) -> zarr.Array:
    """Find the cells of a slide and write them as a mask.

    Nuclei are bright blobs of about ``nucleus_diameter_um`` in the nuclear marker; each is grown by ``expansion_um``,
    or until it meets its neighbour. Only a tile is held in memory.

    Parameters
    ----------
    slide
        Image (C, Y, X) with its markers and pixel size.
    path
        Folder to create, a zarr v3 array. It appears under this name only when it is complete.
    nuclear_marker
        The marker that shows nuclei; by default it is known by its name (DAPI, Hoechst, HH3, ...).
    expansion_um
        How far a cell reaches beyond its nucleus.
    nucleus_diameter_um
        Typical diameter of a nucleus; much larger ones are split, much smaller ones that touch are joined.
    min_nucleus_area_um2
        Smaller nuclei are taken for debris.
    segmenter
        Anything that turns an image (C, Y, X) into labels (Y, X) instead of the built-in method; it is given all
        channels of a tile with its halo, and its labels are taken as whole cells.
    halo_um
        What a tile sees of its surroundings on each side.
    tile_px
        Side of the core of a tile.
    overwrite
        Replace what lies at ``path``.

    Returns
    -------
    The mask, opened for reading: uint32 (Y, X), 0 background, cells numbered from 1.

    Raises
    ------
    InputError
        If ``path`` exists, if no marker shows nuclei, or if no nucleus is found.

    Examples
    --------
    >>> import tempfile
    >>> image = np.zeros((1, 64, 64), np.uint16)
    >>> image[0, 20:34, 10:24] = image[0, 20:34, 40:54] = 500
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     mask = segment(Slide("S01", image, ("DAPI",), pixel_size_um=0.5), f"{folder}/mask.zarr")[:]
    >>> np.unique(mask).tolist()
    [0, 1, 2]
    """
    path = Path(path)
    if path.exists() and not (overwrite and (path / "zarr.json").is_file()):
        what = "is not a zarr array, so it is not replaced" if overwrite else "exists"
        msg = f"{path} {what}; give another name{'' if overwrite else ', or --overwrite to replace it'}."
        raise InputError(msg)
    settings: dict[str, str | float] = {"pixel_size_um": slide.pixel_size_um, "halo_um": halo_um, "tile_px": tile_px}
    if segmenter is None:
        nuclear_marker = nuclear_marker or _nuclear_marker_of(slide)
        settings |= {
            "nuclear_marker": nuclear_marker,
            "expansion_um": expansion_um,
            "nucleus_diameter_um": nucleus_diameter_um,
            "min_nucleus_area_um2": min_nucleus_area_um2,
        }
        channel = slide.channels_of([nuclear_marker])[0]
        channels = slice(channel, channel + 1)
        find_cells = _built_in(slide, channel, nucleus_diameter_um, min_nucleus_area_um2, expansion_um)
    else:
        settings["segmenter"] = getattr(segmenter, "__qualname__", type(segmenter).__qualname__)
        channels, find_cells = slice(None), _checked(segmenter)

    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    height, width = slide.shape_px
    chunks = (min(_CHUNK_PX, height), min(_CHUNK_PX, width))
    mask = zarr.create_array(partial, shape=(height, width), chunks=chunks, dtype="uint32", zarr_format=3)
    halo_px = round(halo_um / slide.pixel_size_um)
    n_cells = 0
    for core in track(_cores(slide.shape_px, tile_px), "Segmenting"):
        window = _grown(core, halo_px, slide.shape_px)
        cells, nuclei = find_cells(np.asarray(slide.image[channels, *window]))
        n_cells += _write(mask, cells, _owned(nuclei, core, window), window, n_cells)
    if not n_cells:
        shutil.rmtree(partial)
        shown_by = settings.get("nuclear_marker", settings.get("segmenter"))
        msg = (
            f"no nucleus was found in slide {slide.name!r} by {shown_by} at {slide.pixel_size_um:g} µm per pixel; name "
            "another marker by --nuclear-marker, check the pixel size, or give a mask by --mask."
        )
        raise InputError(msg)
    mask.update_attributes({"mxsplicer": settings | {"cells": n_cells}})
    if path.exists():
        shutil.rmtree(path)
    partial.rename(path)
    logger.info("%s: %d cells", path, n_cells)
    return zarr.open_array(path, mode="r")


def _cores(shape_px: tuple[int, int], side_px: int) -> list[Window]:
    height, width = shape_px
    return [
        (slice(top, min(height, top + side_px)), slice(left, min(width, left + side_px)))
        for top in range(0, height, side_px)
        for left in range(0, width, side_px)
    ]


def _grown(core: Window, halo_px: int, shape_px: tuple[int, int]) -> Window:
    rows, columns = core
    return (
        slice(max(0, rows.start - halo_px), min(shape_px[0], rows.stop + halo_px)),
        slice(max(0, columns.start - halo_px), min(shape_px[1], columns.stop + halo_px)),
    )


def _owned(nuclei: np.ndarray, core: Window, window: Window) -> np.ndarray:
    """Return for each label up to the largest whether its centroid lies in the core."""
    points = np.nonzero(nuclei)
    labels = nuclei[points]
    n = np.bincount(labels, minlength=1)
    owned = n > 0
    for axis in (0, 1):
        centroid = np.bincount(labels, weights=points[axis], minlength=1) / np.maximum(n, 1) + window[axis].start
        owned &= (centroid >= core[axis].start - 0.5) & (centroid < core[axis].stop - 0.5)  # pixel centres are whole
    return owned


def _write(mask: zarr.Array, cells: np.ndarray, owned: np.ndarray, window: Window, n_before: int) -> int:
    """Write a tile's own cells where no other tile has written, numbered on from ``n_before``; return how many."""
    there = np.asarray(mask[window])
    n = np.bincount(cells.ravel(), minlength=len(owned))
    free = np.bincount(cells[there == 0], minlength=len(owned))
    owned = owned & (2 * free > n)  # the rest was found by the neighbouring tile too, a little differently
    numbers = np.zeros(len(owned), dtype=np.uint32)
    numbers[owned] = n_before + 1 + np.arange(owned.sum())
    written = np.where(there == 0, numbers[cells], there)
    changed = np.nonzero(written != there)
    if len(changed[0]):
        box = tuple(slice(int(at.min()), int(at.max()) + 1) for at in changed)
        mask[
            window[0].start + box[0].start : window[0].start + box[0].stop,
            window[1].start + box[1].start : window[1].start + box[1].stop,
        ] = written[box]
    return int(owned.sum())


def _checked(segmenter: Segmenter) -> CellFinder:
    def find_cells(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        labels = np.asarray(segmenter(image))
        if labels.shape != image.shape[1:] or labels.dtype.kind not in "iu" or labels.min() < 0:
            msg = (
                f"the segmenter returned {labels.dtype} {labels.shape} for an image of {image.shape} (C, Y, X); "
                f"it must return labels {image.shape[1:]}: whole numbers, 0 for background."
            )
            raise InputError(msg)
        values, labels = np.unique(labels, return_inverse=True)
        labels = labels.reshape(image.shape[1:]) + int(values[0] != 0)
        return labels, labels

    return find_cells


def _nuclear_marker_of(slide: Slide) -> str:
    marker = find_nuclear_marker(slide.markers)
    if marker is None:
        msg = (
            f"none of the markers of slide {slide.name!r} is known to show nuclei: {', '.join(slide.markers)}; "
            "name one by --nuclear-marker, or give a mask by --mask."
        )
        raise InputError(msg)
    return marker


def _built_in(slide: Slide, channel: int, diameter_um: float, min_area_um2: float, expansion_um: float) -> CellFinder:
    diameter_px = diameter_um / slide.pixel_size_um
    min_area_px = max(1, round(min_area_um2 / slide.pixel_size_um**2))
    levels = _measure_levels(slide, channel, diameter_px)

    def find_cells(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        nuclei = _find_nuclei(image[0], levels, diameter_px, min_area_px)
        return expand_labels(nuclei, expansion_um / slide.pixel_size_um), nuclei

    return find_cells


@dataclass(frozen=True)
class _Levels:
    """Brightness of the smoothed nuclear marker: of the background, and what best parts nuclei from it."""

    background: float
    nucleus: float


def _measure_levels(slide: Slide, channel: int, diameter_px: float) -> _Levels:
    smooth = [_smooth(np.asarray(slide.image[channel, *one]), diameter_px) for one in _bright_windows(slide, channel)]
    brightest_near = [ndimage.maximum_filter(one, round(2 * diameter_px)) for one in smooth]
    values = np.concatenate([one.ravel() for one in smooth])
    threshold = float(threshold_otsu(values))
    # Bare glass is darker than the tissue between nuclei, and there may be much of it: look again without it.
    nearby = np.concatenate([one.ravel() for one in brightest_near]) > threshold
    if nearby.any():
        values = values[nearby]
        threshold = float(threshold_otsu(values))
    return _Levels(background=float(np.median(values[values <= threshold])), nucleus=threshold)


def _bright_windows(slide: Slide, channel: int) -> list[Window]:
    # The whole of a small slide; of a large one windows spread evenly over its light, so that they lie in the tissue.
    windows = _cores(slide.shape_px, _WINDOW_PX)
    if len(windows) <= _WINDOWS:
        return windows
    copy, factor = overview(slide, channels=[channel])
    small = np.nan_to_num(copy[0].astype(np.float64), nan=0, posinf=0, neginf=0)
    centres = [((y.start + y.stop) // 2 // factor, (x.start + x.stop) // 2 // factor) for y, x in windows]
    reach = max(1, _WINDOW_PX // factor)
    brightness = ndimage.uniform_filter(small, reach)[
        tuple(np.minimum(np.transpose(centres), np.array([small.shape]).T - 1))
    ]
    order = np.argsort(brightness, kind="stable")
    light = np.cumsum(brightness[order] - brightness.min())
    chosen = np.searchsorted(light, (np.arange(_WINDOWS) + 0.5) / _WINDOWS * light[-1])
    return [windows[order[place]] for place in np.unique(chosen)]


def _smooth(nuclear: np.ndarray, diameter_px: float) -> np.ndarray:
    # The root evens out bright and dim nuclei, and the noise of counts.
    numbers = np.nan_to_num(nuclear.astype(np.float32), nan=0, posinf=0, neginf=0)
    smooth: np.ndarray = np.sqrt(np.maximum(ndimage.gaussian_filter(numbers, 0.12 * diameter_px), 0))
    return smooth


def _find_nuclei(nuclear: np.ndarray, levels: _Levels, diameter_px: float, min_area_px: int) -> np.ndarray:
    smooth = _smooth(nuclear, diameter_px)
    # Half of the threshold is global, half follows the surroundings: higher between crowded nuclei, lower for dim ones.
    surroundings = ndimage.gaussian_filter(smooth, 1.5 * diameter_px, truncate=3)
    lowest = (levels.background + levels.nucleus) / 2
    inside = smooth > np.maximum(lowest, (levels.nucleus + surroundings) / 2)
    inside = _without_small_holes(ndimage.binary_opening(inside), 0.2 * diameter_px**2)  # a quarter of a nucleus

    # A nucleus has one peak of the Laplacian of Gaussian of nearly its size (it is greatest at 0.35 of the diameter;
    # a little less keeps small neighbours apart).
    blobs = -ndimage.gaussian_laplace(smooth, 0.29 * diameter_px)
    apart_px = max(1, round(0.3 * diameter_px))
    peaks = peak_local_max(np.where(inside, blobs, 0), min_distance=apart_px, threshold_abs=0, exclude_border=False)
    seeds = np.zeros(smooth.shape, dtype=np.int32)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    nuclei = watershed(-blobs, seeds, mask=inside)
    large = np.bincount(nuclei.ravel()) >= min_area_px
    large[0] = False
    return np.where(large[nuclei], nuclei, 0)


def _without_small_holes(inside: np.ndarray, smaller_than_px: float) -> np.ndarray:
    # Large ones are gaps in the tissue with nuclei all around.
    holes, _ = ndimage.label(~inside)
    filled: np.ndarray = inside | (np.bincount(holes.ravel()) < smaller_than_px)[holes]
    return filled
