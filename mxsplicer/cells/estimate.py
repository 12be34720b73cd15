"""Estimate the number of cells of a slide in about a second: count nuclei in a few windows, and measure the tissue.

Only a small part of the slide is read: for a large file without a coarse level, the estimate uses the area alone.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from mxsplicer.images.lazy_images import LazyImage
from mxsplicer.images.markers import find_nuclear_marker
from mxsplicer.images.slide import Slide

_CELLS_PER_MM2 = 5000.0  # between sparse stroma, 2,000, and lymph nodes, 12,000
_TISSUE = 0.6  # share of tissue on a slide whose tissue was not measured
_OVERVIEW_PX = 4 << 20  # pixels of the largest level that is read whole
_WINDOW_PX, _WINDOWS = 512, 6
_WINDOW_COST_PX = 16 << 20  # decoded for all windows, at most


@dataclass(frozen=True)
class CellEstimate:
    """An estimated number of cells, accurate to a factor of about 1.5 if nuclei were counted, else of 3."""

    n_cells: int
    tissue_mm2: float
    basis: str  # what it was estimated from, as text


def estimate_cells(slide: Slide, *, nuclear_marker: str | None = None) -> CellEstimate:
    """Estimate the number of cells of a slide within about a second.

    Parameters
    ----------
    slide
        Image (C, Y, X); one channel is read, of a coarse level and in a few windows of the finest level.
    nuclear_marker
        The marker that stains nuclei; by default it is recognised by its name.
    """
    marker = nuclear_marker or find_nuclear_marker(slide.markers)
    levels = [level for level in (slide.image, *slide.pyramid) if level.shape[1] * level.shape[2] <= _OVERVIEW_PX]
    area_mm2 = slide.shape_px[0] * slide.shape_px[1] * (slide.pixel_size_um / 1000) ** 2
    level = next((one for one in reversed(levels) if max(one.shape[1:]) >= 512), levels[0] if levels else None)
    if marker is None or level is None or not _is_cheap(slide, level):
        why = "nuclear marker not known" if marker is None else "the file has no coarse level"
        basis = f"the area alone: {_TISSUE:.0%} tissue of {_CELLS_PER_MM2:,.0f} cells per mm² ({why})"
        return CellEstimate(_rounded(area_mm2 * _TISSUE * _CELLS_PER_MM2), area_mm2 * _TISSUE, basis)
    channel = slide.channels_of([marker])[0]
    scale = slide.shape_px[0] / level.shape[1]
    step = max(1, int(4 / (slide.pixel_size_um * scale)))  # pixels of 4 µm separate tissue from glass
    coarse = np.nan_to_num(np.asarray(level[channel], dtype=np.float32)[::step, ::step])
    scale *= step  # pixels of the slide in one of the overview
    tissue = _tissue(coarse, slide.pixel_size_um * scale)
    tissue_mm2 = area_mm2 * float(tissue.mean())
    counted, counted_mm2 = _counted(slide, channel, tissue, scale)
    if not counted_mm2:
        basis = f"{tissue_mm2:.3g} mm² of tissue, at {_CELLS_PER_MM2:,.0f} cells per mm²"
        return CellEstimate(_rounded(tissue_mm2 * _CELLS_PER_MM2), tissue_mm2, basis)
    density = counted / counted_mm2
    basis = f"{counted:,} nuclei counted in {counted_mm2:.2g} of {tissue_mm2:.3g} mm² of tissue"
    return CellEstimate(_rounded(density * tissue_mm2), tissue_mm2, basis)


def _is_cheap(slide: Slide, level: LazyImage) -> bool:
    # If the finest level is one strip, or one tile holds all channels, one window decodes all of it.
    return level is not slide.image or slide.image.shape[0] * level.shape[1] * level.shape[2] <= 32 * _OVERVIEW_PX


def _tissue(coarse: np.ndarray, um: float) -> np.ndarray:
    """Return where tissue is, (y, x), to estimate its cells: brighter than glass after blurring over several nuclei."""
    blurred = ndimage.gaussian_filter(np.log1p(np.maximum(coarse, 0)), max(1.0, 15 / um))
    low, high = np.percentile(blurred, [1, 99])
    if high - low < np.log(1.5):  # constant: tissue everywhere, or none
        return np.full(coarse.shape, bool(coarse.any()))
    tissue: np.ndarray = blurred > threshold_otsu(blurred)
    if high - low < np.log(6):  # the contrast of dense and loose tissue; glass is darker
        tissue = blurred > low - 1
    return tissue


def _counted(slide: Slide, channel: int, tissue: np.ndarray, scale: float) -> tuple[int, float]:
    """Count nuclei in windows of full resolution, spread over the tissue; return the count and its area in mm²."""
    um = slide.pixel_size_um
    places = np.argwhere(tissue)
    height, width = slide.shape_px
    whole = height * width <= _WINDOWS * _WINDOW_PX**2
    window = [n if whole else min(_WINDOW_PX, n) for n in slide.shape_px]
    tiles = [(-(-side // tile) + (side > tile)) * tile for side, tile in zip(window, slide.tile_px, strict=True)]
    n_windows = 1 if whole else min(_WINDOWS, _WINDOW_COST_PX // (tiles[0] * tiles[1]))
    if not len(places) or not n_windows:
        return 0, 0.0
    counted, pixels = 0, 0.0
    # At the middle of equal stretches of the tissue, so that its edges are represented in proportion.
    for y, x in places[((np.arange(n_windows) + 0.5) / n_windows * len(places)).astype(np.int64)] * scale:
        top, left = (
            int(np.clip(at - side / 2, 0, n - side)) // tile * tile if n > side else 0
            for at, side, n, tile in zip((y, x), window, slide.shape_px, slide.tile_px, strict=True)
        )
        image = np.asarray(slide.image[channel, top : top + window[0], left : left + window[1]], dtype=np.float32)
        nuclei = ndimage.gaussian_filter(np.nan_to_num(image), max(0.7, 1.2 / um))
        inside = _window_of(tissue, top, left, image.shape, scale)
        if nuclei.max() > nuclei.min() and inside.any():
            highest = ndimage.maximum_filter(nuclei, 2 * max(1, round(2.5 / um)) + 1)
            counted += int(((nuclei == highest) & (nuclei > threshold_otsu(nuclei)) & inside).sum())
        pixels += float(inside.sum())
    return counted, pixels * (um / 1000) ** 2


def _window_of(tissue: np.ndarray, top: int, left: int, shape: tuple[int, ...], scale: float) -> np.ndarray:
    rows, columns = (
        np.minimum((np.arange(first, first + side) / scale).astype(np.int64), n - 1)
        for first, side, n in zip((top, left), shape, tissue.shape, strict=True)
    )
    window: np.ndarray = tissue[np.ix_(rows, columns)]
    return window


def _rounded(n: float) -> int:
    """Round to two significant digits, the accuracy of the estimate."""
    return int(float(f"{n:.2g}"))
