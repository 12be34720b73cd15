"""A slide without a mask gets one: nuclei are found in the nuclear marker and grown into cells, tile by tile.

A tile is segmented with a halo of its surroundings. A cell belongs to the tile whose core holds the centroid of its
nucleus, and that tile writes all of it, so no cell is cut where tiles meet. What is nucleus and what is background is
decided by brightness levels measured once over the slide, and cells are numbered in the order they are read in; so
the mask does not depend on the tiles.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.segmentation import expand_labels, watershed

from mxsplicer.errors import InputError
from mxsplicer.images.markers import find_nuclear_marker
from mxsplicer.images.ngff import made_by_mxsplicer, open_finest_labels
from mxsplicer.images.slide import Slide, overview
from mxsplicer.images.tiles import Grid, Window, fit, grown
from mxsplicer.masks.polygons import Polygons, outlines_at, read_polygons
from mxsplicer.segmentation import EXPANSION_UM, NUCLEUS_DIAMETER_UM
from mxsplicer.segmentation.segmenters import SEGMENTERS, Segmenter, Setting, import_segmenter
from mxsplicer.segmentation.stitching import Found, UnfinishedMasks
from mxsplicer.system.cluster import is_cluster
from mxsplicer.system.fingerprints import fingerprint
from mxsplicer.system.locks import folder_lock
from mxsplicer.system.memory import Budget
from mxsplicer.system.workers import map_in_order

logger = logging.getLogger(__name__)

CellFinder = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # (C, Y, X) -> cells, nuclei, by the same labels

_STEP_PX = 128  # sides of tiles are multiples of it
_WINDOWS, _WINDOW_PX = 16, 512  # where brightness levels are measured on a large slide
_BYTES_PER_PX = {"built-in": 88, "named": 600, "own": 100}  # of a tile with its halo, beside the image
_PERCENTILES = (1.0, 99.8)  # become 0 and 1 for a named segmenter, over the tissue of the whole slide


def segment(
    slide: Slide,
    path: str | Path,
    *,
    nuclear_marker: str | None = None,
    expansion_um: float = EXPANSION_UM,
    nucleus_diameter_um: float = NUCLEUS_DIAMETER_UM,
    min_nucleus_area_um2: float = 8.0,
    membrane_marker: str | None = None,
    segmenter: str | Segmenter | None = None,
    nuclei_path: str | Path | None = None,
    roi: str | Path | None = None,
    halo_um: float = 50.0,
    tile_px: int = 2048,
    workers: int | None = None,
    executor: str = "threads",
    max_bytes: int | None = None,
    overwrite: bool = False,
) -> zarr.Array:
    """Find the cells of a slide and write them as a mask.

    Nuclei are bright blobs of about ``nucleus_diameter_um`` in the nuclear marker; each is grown by ``expansion_um``,
    or until it meets its neighbour. Only tiles are held in memory. Cells are numbered by their first pixel, row by row.

    What was interrupted goes on with the tile that was next, if the image is a file and all else is the same. With a
    function of yours it begins anew, since nobody can tell whether that has changed.

    Parameters
    ----------
    slide
        Image (C, Y, X) with its markers and pixel size.
    path
        Folder to create: an OME-Zarr 0.5 label image, of which array ``0`` is the mask and the others are coarser
        levels of it. It appears under this name only when it is complete.
    nuclear_marker
        The marker that shows nuclei; by default it is known by its name (DAPI, Hoechst, HH3, ...).
    expansion_um
        How far a cell reaches beyond its nucleus.
    nucleus_diameter_um
        Typical diameter of a nucleus; much larger ones are split, much smaller ones that touch are joined.
    min_nucleus_area_um2
        Smaller nuclei are taken for debris.
    membrane_marker
        The marker that shows the outlines of cells, for a named segmenter that then finds whole cells by it.
    segmenter
        What finds the cells instead of the built-in method. A name of
        :data:`~mxsplicer.segmentation.segmenters.SEGMENTERS` is given the nuclear marker, normalised
        over the slide, and the nuclei it finds are grown; or both markers, and finds whole cells. A function from an
        image (C, Y, X) to labels (Y, X), or its name ``module:function``, is given all channels of a tile with its
        halo, and its labels are taken as whole cells.
    nuclei_path
        Folder to create for the mask of the nuclei, each with the number of its cell; it is complete before the mask
        is. Only a segmenter that finds nuclei and grows them can tell: see :func:`knows_nuclei`.
    roi
        Outlines (GeoJSON), as QuPath exports annotations: only cells whose nucleus has its centroid in one.
    halo_um
        What a tile sees of its surroundings on each side.
    tile_px
        Longest side of the core of a tile.
    workers
        Threads of the built-in method; as many as there are processors, at most 4, by default. Others have one.
    executor
        The address of a dask scheduler, "tcp://...", whose cluster segments the tiles instead, by the built-in method
        or a function of yours; a named one runs here, where its network is. All else means threads.
    max_bytes
        Limit for the memory of the whole process, by which tiles are chosen; what a network takes is not known here. On
        a cluster that of a task.
    overwrite
        Replace what lies at ``path``.

    Returns
    -------
    The mask, its finest level, opened for reading: uint32 (Y, X), 0 background, cells numbered from 1.

    Raises
    ------
    InputError
        If a path exists or another process is writing it, if no marker shows nuclei, if no nucleus is found or none
        can be told from its cell, or if the segmenter is not there, has no weights or returns no labels.

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
    path, paths = Path(path), [Path(one) for one in (path, nuclei_path) if one is not None]
    _check_free(paths, overwrite=overwrite)
    if nuclei_path is not None and not knows_nuclei(segmenter, membrane_marker):
        msg = f"no nuclei can be written to {nuclei_path}: the segmenter is asked for whole cells, and tells no nuclei."
        raise InputError(msg)
    named = isinstance(segmenter, str) and ":" not in segmenter
    if membrane_marker is not None and not named:
        msg = f"--membrane-marker is for a segmenter that uses it: name one by --segmenter, {' or '.join(SEGMENTERS)}."
        raise InputError(msg)
    settings: dict[str, str | float] = {"pixel_size_um": slide.pixel_size_um, "halo_um": halo_um}
    if segmenter is None or named:
        nuclear_marker = nuclear_marker or _nuclear_marker_of(slide)
        settings |= {
            "nuclear_marker": nuclear_marker,
            "expansion_um": expansion_um,
            "nucleus_diameter_um": nucleus_diameter_um,
        }
    if segmenter is None:
        assert nuclear_marker is not None
        settings |= {"min_nucleus_area_um2": min_nucleus_area_um2}
        channels = slide.channels_of([nuclear_marker])
        find_cells = _built_in(slide, channels[0], nucleus_diameter_um, min_nucleus_area_um2, expansion_um)
        cost = _BYTES_PER_PX["built-in"]
    elif isinstance(segmenter, str) and named:
        shown = [one for one in (nuclear_marker, membrane_marker) if one is not None]
        settings |= {"segmenter": segmenter} | ({} if membrane_marker is None else {"membrane_marker": membrane_marker})
        channels = slide.channels_of(shown)
        find_cells = _by_name(segmenter, slide, channels, nucleus_diameter_um, expansion_um)
        cost, workers = _BYTES_PER_PX["named"], 1
    else:
        settings["segmenter"] = segmenter if isinstance(segmenter, str) else _name_of(segmenter)
        channels = list(range(len(slide.markers)))
        find_cells = _checked(import_segmenter(segmenter) if isinstance(segmenter, str) else segmenter)
        cost, workers = _BYTES_PER_PX["own"], 1

    halo_px = round(halo_um / slide.pixel_size_um)
    grid, n_workers = fit(
        slide.shape_px,
        (_STEP_PX, _STEP_PX),
        max_px=tile_px,
        bytes_per_px=cost + len(channels) * slide.image.dtype.itemsize,
        budget=Budget.of(max_bytes),
        workers=1 if is_cluster(executor) else workers,  # each takes a tile as large as one alone would
        halo_px=halo_px,
    )
    outlines = None if roi is None else read_polygons(Path(roi), slide.shape_px)
    if roi is not None:
        settings["roi"] = fingerprint(roi)
    own_function = segmenter is not None and not named
    with folder_lock(path):
        _check_free(paths, overwrite=overwrite)  # again: another command may have made it since
        unfinished = UnfinishedMasks(
            paths, grid, halo_px, None if own_function else _made_from(slide, channels, settings, grid, len(paths))
        )
        look = partial(_look, slide, channels, find_cells, halo_px, outlines)
        found = map_in_order(
            look, unfinished.tiles_left(), n_workers, executor="threads" if named else executor, activity="segmenting"
        )
        n_cells = unfinished.fill(found)
        if not n_cells:
            unfinished.discard()
            raise InputError(_nothing_found(slide, settings, roi))
        about = settings | {"cells": n_cells}
        unfinished.finish(pixel_size_um=slide.pixel_size_um, about=about, workers=n_workers)
    logger.info("%s: %d cells", path, n_cells)
    return open_finest_labels(path)


def knows_nuclei(segmenter: str | Segmenter | None = None, membrane_marker: str | None = None) -> bool:
    """Return whether :func:`segment` finds nuclei and grows them, rather than whole cells."""
    return segmenter is None or (isinstance(segmenter, str) and ":" not in segmenter and membrane_marker is None)


def _check_free(paths: Sequence[Path], *, overwrite: bool) -> None:
    for path in paths:
        if path.exists() and not (overwrite and made_by_mxsplicer(path)):
            what = "is not a mask that mxsplicer made, so it is not replaced" if overwrite else "exists"
            msg = f"{path} {what}; give another name{'' if overwrite else ', or --overwrite to replace it'}."
            raise InputError(msg)


def _nothing_found(slide: Slide, settings: dict[str, str | float], roi: str | Path | None) -> str:
    shown_by = settings.get("segmenter", settings.get("nuclear_marker"))
    where = f"slide {slide.name!r}" if roi is None else f"the outlines of {Path(roi).name} on slide {slide.name!r}"
    return (
        f"no nucleus was found in {where} by {shown_by} at {slide.pixel_size_um:g} µm per pixel; name "
        "another marker by --nuclear-marker, check the pixel size, or give a mask by --mask."
    )


def _made_from(
    slide: Slide, channels: list[int], settings: dict[str, str | float], grid: Grid, n_masks: int
) -> dict[str, Any] | None:
    """Return what decides the masks, where it can be told: an array in memory has no fingerprint."""
    if slide.path is None:
        return None
    image = {"image": fingerprint(slide.path), "channels": channels}
    tiles = {"shape_px": list(grid.shape_px), "tile_px": list(grid.tile_px), "masks": n_masks}
    return {"version": version("mxsplicer"), **image, **settings, **tiles}


def _look(
    slide: Slide, channels: list[int], find_cells: CellFinder, halo_px: int, outlines: Polygons | None, core: Window
) -> Found:
    """Return the cells and nuclei of a tile with its halo, and which of them are the tile's own."""
    window = grown(core, halo_px, slide.shape_px)
    if outlines is not None and not outlines[core].any():
        nothing = np.zeros([side.stop - side.start for side in window], dtype=np.uint32)
        return nothing, nothing, np.zeros(1, dtype=bool)
    adjacent = np.all(np.diff(channels) == 1)
    image = slide.image[channels[0] : channels[-1] + 1, *window] if adjacent else _stacked(slide, channels, window)
    cells, nuclei = find_cells(np.asarray(image))
    return cells, nuclei, _owned(nuclei, core, window, outlines)


def _stacked(slide: Slide, channels: list[int], window: Window) -> np.ndarray:
    return np.stack([np.asarray(slide.image[channel, *window]) for channel in channels])


def _owned(nuclei: np.ndarray, core: Window, window: Window, outlines: Polygons | None) -> np.ndarray:
    """Return for each label up to the largest whether its centroid lies in the core, and in an outline if there are."""
    points = np.nonzero(nuclei)
    labels = nuclei[points]
    n = np.bincount(labels, minlength=1)
    centroid = [
        np.bincount(labels, weights=points[axis], minlength=1) / np.maximum(n, 1) + window[axis].start
        for axis in (0, 1)
    ]
    owned = n > 0
    for at, side in zip(centroid, core, strict=True):
        owned &= (at >= side.start - 0.5) & (at < side.stop - 0.5)  # pixel centres are whole
    if outlines is not None:
        owned[owned] = outlines_at(outlines, centroid[1][owned], centroid[0][owned]) > 0
    return owned


def _by_name(
    name: str, slide: Slide, channels: list[int], nucleus_diameter_um: float, expansion_um: float
) -> CellFinder:
    if name not in SEGMENTERS:
        import_segmenter(name)  # says what there is
    has_membrane = len(channels) > 1
    diameter_um = nucleus_diameter_um + (2 * expansion_um if has_membrane else 0)
    find = _checked(SEGMENTERS[name](Setting(slide.pixel_size_um, diameter_um, has_membrane)))
    levels = _percentiles(slide, channels)

    def find_cells(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        low, high = levels[:, :, None, None]
        numbers = np.nan_to_num(image.astype(np.float32), nan=0, posinf=0, neginf=0)
        cells, nuclei = find((numbers - low) / np.maximum(high - low, 1e-6))
        return (cells if has_membrane else expand_labels(nuclei, expansion_um / slide.pixel_size_um)), nuclei

    return find_cells


def _percentiles(slide: Slide, channels: list[int]) -> np.ndarray:
    """Return what is dark and what is bright in each channel (2, C), over the tissue."""
    windows = _bright_windows(slide, channels[0])
    values = [np.concatenate([np.asarray(slide.image[one, *at]).ravel() for at in windows]) for one in channels]
    return np.stack([np.nanpercentile(one.astype(np.float32), _PERCENTILES) for one in values], axis=1).astype(
        np.float32
    )


def _name_of(segmenter: Segmenter) -> str:
    return str(getattr(segmenter, "__qualname__", type(segmenter).__qualname__))


def _checked(segmenter: Segmenter) -> CellFinder:
    return partial(_find_by, segmenter)


def _find_by(segmenter: Segmenter, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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
    return partial(_find_and_grow, levels, diameter_px, min_area_px, expansion_um / slide.pixel_size_um)


def _find_and_grow(
    levels: "_Levels", diameter_px: float, min_area_px: int, expansion_px: float, image: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    nuclei = _find_nuclei(image[0], levels, diameter_px, min_area_px)
    return expand_labels(nuclei, expansion_px), nuclei


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
    windows = list(Grid(slide.shape_px, (_WINDOW_PX, _WINDOW_PX)))
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
    # A nucleus has one peak of the Laplacian of Gaussian of nearly its size (it is greatest at 0.35 of the diameter;
    # a little less keeps small neighbours apart).
    blobs = -ndimage.gaussian_laplace(smooth, 0.29 * diameter_px)
    # Half of the threshold is global, half follows the surroundings: higher between crowded nuclei, lower for dim ones.
    surroundings = ndimage.gaussian_filter(smooth, 1.5 * diameter_px, truncate=3)
    lowest = (levels.background + levels.nucleus) / 2
    inside = smooth > np.maximum(lowest, (levels.nucleus + surroundings) / 2)
    # A dim nucleus among bright ones shows as a blob all the same.
    inside |= (smooth > lowest) & (blobs > 0)
    inside = _without_small_holes(ndimage.binary_opening(inside), 0.2 * diameter_px**2)  # a quarter of a nucleus

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
