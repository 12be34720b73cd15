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
from skimage.measure import regionprops_table
from skimage.segmentation import expand_labels, watershed

from mxsplicer.errors import InputError
from mxsplicer.progress import track
from mxsplicer.slides.panel import find_nuclear_marker
from mxsplicer.slides.slide import Slide, overview

logger = logging.getLogger(__name__)

Segmenter = Callable[[np.ndarray], np.ndarray]  # (C, Y, X) -> labels (Y, X), 0 background

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

    Nuclei are bright blobs of about ``nucleus_diameter_um`` in the nuclear marker; each is grown by ``expansion_um``, or
    until it meets its neighbour. Only a tile is held in memory.

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
        Typical diameter of a nucleus; blobs much smaller are joined, blobs much larger are split.
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
    """
    path = Path(path)
    if path.exists() and not overwrite:
        msg = f"{path} exists; give another name, or --overwrite to replace it."
        raise InputError(msg)
    settings: dict[str, str | float] = {"pixel_size_um": slide.pixel_size_um, "halo_um": halo_um, "tile_px": tile_px}
    if segmenter is None:
        channels, find_cells = _built_in(slide, nuclear_marker, nucleus_diameter_um, min_nucleus_area_um2, expansion_um)
        settings |= {
            "nuclear_marker": slide.markers[channels.start],
            "expansion_um": expansion_um,
            "nucleus_diameter_um": nucleus_diameter_um,
            "min_nucleus_area_um2": min_nucleus_area_um2,
        }
    else:
        channels, find_cells = slice(None), _checked(segmenter)
        settings["segmenter"] = getattr(segmenter, "__qualname__", type(segmenter).__qualname__)

    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    mask = zarr.create_array(
        partial,
        shape=slide.shape_px,
        chunks=(min(_CHUNK_PX, slide.shape_px[0]), min(_CHUNK_PX, slide.shape_px[1])),
        dtype="uint32",
        attributes={"mxsplicer": settings},
        zarr_format=3,
    )
    halo_px = round(halo_um / slide.pixel_size_um)
    cores = _cores(slide.shape_px, tile_px)
    n_cells = 0
    for core in track(cores, "Segmenting"):
        n_cells += _segment_tile(slide, mask, channels, find_cells, core, halo_px, n_cells)
    if not n_cells:
        shutil.rmtree(partial)
        msg = (
            f"no nucleus was found in slide {slide.name!r} ({', '.join(map(str, settings.values()))}); choose the marker "
            "by --nuclear-marker, check the pixel size, or give a mask by --mask."
        )
        raise InputError(msg)
    if path.exists():
        shutil.rmtree(path)
    partial.rename(path)
    logger.info("%s: %d cells", path, n_cells)
    return zarr.open_array(path, mode="r")


def _cores(shape_px: tuple[int, int], tile_px: int) -> list[tuple[slice, slice]]:
    height, width = shape_px
    return [
        (slice(top, min(height, top + tile_px)), slice(left, min(width, left + tile_px)))
        for top in range(0, height, tile_px)
        for left in range(0, width, tile_px)
    ]


def _segment_tile(
    slide: Slide,
    mask: zarr.Array,
    channels: slice,
    find_cells: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    core: tuple[slice, slice],
    halo_px: int,
    n_before: int,
) -> int:
    """Write the cells that belong to one tile, numbered on from ``n_before``; return how many they are."""
    window = tuple(
        slice(max(0, one.start - halo_px), min(side, one.stop + halo_px))
        for one, side in zip(core, slide.shape_px, strict=True)
    )
    cells, nuclei = find_cells(np.asarray(slide.image[channels, window[0], window[1]]))
    found = regionprops_table(nuclei, properties=["label", "centroid"])
    owned = np.ones(len(found["label"]), dtype=bool)
    for axis in (0, 1):
        centre = found[f"centroid-{axis}"] + window[axis].start
        owned &= (centre >= core[axis].start - 0.5) & (centre < core[axis].stop - 0.5)
    there = np.asarray(mask[window])
    number = np.zeros(int(cells.max(initial=0)) + 1, dtype=np.uint32)
    number[found["label"][owned]] = n_before + 1 + np.arange(owned.sum())
    ours = number[cells]
    mask[window] = np.where(there == 0, ours, there)
    return int(owned.sum())


def _checked(segmenter: Segmenter) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    def find_cells(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        labels = np.asarray(segmenter(image))
        if labels.shape != image.shape[1:] or labels.dtype.kind not in "iu":
            msg = (
                f"the segmenter returned {labels.dtype} {labels.shape} for an image of {image.shape} (C, Y, X); "
                f"it must return whole numbers of shape {image.shape[1:]}."
            )
            raise InputError(msg)
        values, labels = np.unique(labels, return_inverse=True)
        labels = labels.reshape(image.shape[1:]) + int(values[0] != 0)
        return labels, labels

    return find_cells


def _built_in(
    slide: Slide, nuclear_marker: str | None, diameter_um: float, min_area_um2: float, expansion_um: float
) -> tuple[slice, Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]]:
    nuclear_marker = nuclear_marker or find_nuclear_marker(slide.markers)
    if nuclear_marker is None:
        msg = (
            f"none of the markers of slide {slide.name!r} is known to show nuclei: {', '.join(slide.markers)}; "
            "name one by --nuclear-marker, or give a mask by --mask."
        )
        raise InputError(msg)
    channel = slide.channels_of([nuclear_marker])[0]
    diameter_px = diameter_um / slide.pixel_size_um
    min_area_px = max(4, round(min_area_um2 / slide.pixel_size_um**2))
    expansion_px = expansion_um / slide.pixel_size_um
    levels = _measure_levels(slide, channel, diameter_px)

    def find_cells(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        nuclei = _find_nuclei(image[0], levels, diameter_px, min_area_px)
        return expand_labels(nuclei, expansion_px), nuclei

    return slice(channel, channel + 1), find_cells


@dataclass(frozen=True)
class _Levels:
    """Brightness of the smoothed nuclear marker: of the background, and what best parts nuclei from it."""

    background: float
    nucleus: float


def _smooth(nuclear: np.ndarray, diameter_px: float) -> np.ndarray:
    # The root evens out bright and dim nuclei, and the noise of counts.
    finite = np.nan_to_num(nuclear.astype(np.float32), nan=0, posinf=0, neginf=0)
    return np.sqrt(np.maximum(ndimage.gaussian_filter(finite, 0.12 * diameter_px), 0))


def _measure_levels(slide: Slide, channel: int, diameter_px: float) -> _Levels:
    windows = _windows(slide, channel)
    values = np.concatenate([_smooth(np.asarray(slide.image[channel, y, x]), diameter_px).ravel() for y, x in windows])
    return _Levels(background=float(np.percentile(values, 5)), nucleus=float(threshold_otsu(values)))


def _windows(slide: Slide, channel: int) -> list[tuple[slice, slice]]:
    # The whole of a small slide; of a large one windows spread evenly over its light, so that they lie in the tissue.
    cores = _cores(slide.shape_px, _WINDOW_PX)
    if len(cores) <= _WINDOWS:
        return cores
    small, factor = overview(slide, channels=[channel])
    brightness = np.array(
        [
            small[0][y.start // factor : -(-y.stop // factor), x.start // factor : -(-x.stop // factor)].mean()
            for y, x in cores
        ]
    )
    order = np.argsort(brightness, kind="stable")
    light = np.cumsum(brightness[order] - brightness.min())
    at = np.searchsorted(light, (np.arange(_WINDOWS) + 0.5) / _WINDOWS * light[-1])
    return [cores[order[place]] for place in np.unique(at)]


def _find_nuclei(nuclear: np.ndarray, levels: _Levels, diameter_px: float, min_area_px: int) -> np.ndarray:
    smooth = _smooth(nuclear, diameter_px)
    around = ndimage.gaussian_filter(smooth, 1.5 * diameter_px, truncate=3)
    floor = levels.background + 0.5 * (levels.nucleus - levels.background)
    inside = smooth > np.maximum(floor, (levels.nucleus + around) / 2)
    inside = ndimage.binary_fill_holes(ndimage.binary_opening(inside, iterations=1))
    blobs = -ndimage.gaussian_laplace(smooth, 0.25 * diameter_px)
    peaks = peak_local_max(
        blobs,
        min_distance=max(1, round(0.3 * diameter_px)),
        threshold_abs=0,
        labels=inside.astype(np.uint8),
        exclude_border=False,
    )
    seeds = np.zeros(smooth.shape, dtype=np.int32)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    nuclei = watershed(-blobs, seeds, mask=inside)
    large = np.bincount(nuclei.ravel()) >= min_area_px
    large[0] = False
    return np.where(large[nuclei], nuclei, 0)
