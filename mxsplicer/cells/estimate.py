"""Estimate the number of cells of a slide in about a second: count nuclei in a few windows, and measure the tissue.

Only a small part of the slide is read; where even that takes too long, the estimate uses the area alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from mxsplicer.images.markers import find_nuclear_marker
from mxsplicer.images.slide import Slide
from mxsplicer.images.tiles import Window
from mxsplicer.images.tissue import READ_PX, Tissue, find_tissue

_CELLS_PER_MM2 = 5000.0  # between sparse stroma, 2,000, and lymph nodes, 12,000
_TISSUE = 0.6  # share of tissue on a slide whose tissue was not measured
_WINDOW_PX, _WINDOWS = 512, 6


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
        Image (C, Y, X); one channel is read, of a coarse level and in a few windows of the finest level. If the nuclear
        marker is not known, all channels are read to find the tissue.
    nuclear_marker
        The marker that stains nuclei; by default it is recognised by its name.
    """
    marker = nuclear_marker or find_nuclear_marker(slide.markers)
    channels = list(range(len(slide.markers))) if marker is None else slide.channels_of([marker])
    tissue = find_tissue(slide, channels)
    if tissue is None:
        area_mm2 = slide.shape_px[0] * slide.shape_px[1] * (slide.pixel_size_um / 1000) ** 2
        basis = f"the area alone: {_TISSUE:.0%} tissue of {_CELLS_PER_MM2:,.0f} cells per mm² (no coarse level)"
        return CellEstimate(_rounded(area_mm2 * _TISSUE * _CELLS_PER_MM2), area_mm2 * _TISSUE, basis)
    counted, counted_mm2 = (0, 0.0) if marker is None else _count(slide, channels[0], tissue)
    tissue_mm2 = tissue.area_mm2
    if not counted_mm2:
        why = " (nuclear marker not known)" if marker is None else ""
        basis = f"{tissue_mm2:.3g} mm² of tissue, at {_CELLS_PER_MM2:,.0f} cells per mm²{why}"
        return CellEstimate(_rounded(tissue_mm2 * _CELLS_PER_MM2), tissue_mm2, basis)
    density = counted / counted_mm2
    basis = f"{counted:,} nuclei counted in {counted_mm2:.2g} of {tissue_mm2:.3g} mm² of tissue"
    return CellEstimate(_rounded(density * tissue_mm2), tissue_mm2, basis)


def _count(slide: Slide, channel: int, tissue: Tissue) -> tuple[int, float]:
    """Count nuclei for an estimate, in windows of full resolution inside the tissue; return count and area in mm²."""
    um = slide.pixel_size_um
    counted, pixels = 0, 0.0
    for window, inside in _windows(slide, tissue):
        image = np.asarray(slide.image[channel, *window], dtype=np.float32)
        nuclei = ndimage.gaussian_filter(np.nan_to_num(image), max(0.7, 1.2 / um))
        if nuclei.max() > nuclei.min() and inside.any():
            highest = ndimage.maximum_filter(nuclei, 2 * max(1, round(2.5 / um)) + 1)
            counted += int(((nuclei == highest) & (nuclei > threshold_otsu(nuclei)) & inside).sum())
        pixels += float(inside.sum())
    return counted, pixels * (um / 1000) ** 2


def _windows(slide: Slide, tissue: Tissue) -> Iterator[tuple[Window, np.ndarray]]:
    """Yield windows to estimate the number of cells in, each with where the tissue is in it, (y, x)."""
    if tissue.is_sample:
        for window, inside in zip(tissue.windows, tissue.inside, strict=True):
            yield window, _enlarged(inside, 0, 0, window, tissue.scale)
        return
    inside = tissue.inside[0]
    places = np.argwhere(inside)
    height, width = slide.shape_px
    whole = height * width <= _WINDOWS * _WINDOW_PX**2
    sides = [n if whole else min(_WINDOW_PX, n) for n in slide.shape_px]
    decoded = [(-(-side // tile) + (side > tile)) * tile for side, tile in zip(sides, slide.tile_px, strict=True)]
    n_windows = 1 if whole else min(_WINDOWS, READ_PX // (decoded[0] * decoded[1]))
    if not len(places) or not n_windows:
        return
    # At the middle of equal stretches of the tissue, so that its edges are represented in proportion.
    for place in places[((np.arange(n_windows) + 0.5) / n_windows * len(places)).astype(np.int64)] * tissue.scale:
        top, left = (
            int(np.clip(at - side / 2, 0, n - side)) // tile * tile if n > side else 0
            for at, side, n, tile in zip(place, sides, slide.shape_px, slide.tile_px, strict=True)
        )
        window = (slice(top, min(top + sides[0], height)), slice(left, min(left + sides[1], width)))
        yield window, _enlarged(inside, top, left, window, tissue.scale)


def _enlarged(inside: np.ndarray, top: int, left: int, window: Window, scale: float) -> np.ndarray:
    """Return a part of a coarse map of tissue for an estimate, from (top, left), one entry per pixel of the window."""
    rows, columns = (
        np.minimum((np.arange(first, first + side.stop - side.start) / scale).astype(np.int64), n - 1)
        for first, side, n in zip((top, left), window, inside.shape, strict=True)
    )
    enlarged: np.ndarray = inside[np.ix_(rows, columns)]
    return enlarged


def _rounded(n: float) -> int:
    """Round an estimate to two significant digits, its accuracy."""
    return int(float(f"{n:.2g}"))
