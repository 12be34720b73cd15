"""The section "Tissue and cells": images of the slides, and a window with outlined cells."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from anndata import AnnData

from mxsplicer import pl
from mxsplicer.images.lazy_images import LazyImage
from mxsplicer.images.slide import Slide
from mxsplicer.pl import colors
from mxsplicer.pl.contrast import contrasting_markers
from mxsplicer.report.figures import InlineImage, grid_of_slides, inline_figure, new_figure

MOST_SLIDES = 60  # images of slides on one page
_WINDOW_UM = 150.0


def tissue_section(adata: AnnData, slides: Sequence[Slide], masks: Sequence[LazyImage]) -> dict[str, Any] | None:
    """Return images of the slides, a window of one of them with outlined cells, and how each slide was read."""
    if not slides:
        return None
    shown = slides[:MOST_SLIDES]
    markers = [marker for marker in contrasting_markers(adata) if all(marker in slide.markers for slide in shown)]
    largest = int(np.argmax([(adata.obs["slide"] == slide.name).sum() for slide in slides]))
    window = _draw_window(adata, slides[largest], masks[largest], markers) if masks else None
    return {
        "whole": _draw_slides(shown, markers),
        "window": window,
        "window_slide": slides[largest].name,
        "markers": list(zip(markers, colors.CHANNELS, strict=False)),
        "not_shown": len(slides) - len(shown),
        "slides": [_describe(slide) for slide in slides],
    }


def _draw_slides(slides: Sequence[Slide], markers: list[str]) -> InlineImage:
    names = ", ".join(markers)
    if len(slides) == 1:
        height, width = slides[0].shape_px
        figure = new_figure(7, min(max(7 * height / width, 2), 12))
        pl.slide(slides[0], markers=markers, max_side_px=1200, legend=False, ax=figure.subplots())
        return inline_figure(figure, f"Slide {slides[0].name} in the colours of {names}.", dpi=150)
    by_name = {slide.name: slide for slide in slides}
    return grid_of_slides(
        list(by_name),
        lambda name, ax: pl.slide(by_name[name], markers=markers, max_side_px=320, legend=False, ax=ax),
        f"{len(slides)} slides in the colours of {names}.",
    )


def _draw_window(adata: AnnData, slide: Slide, mask: LazyImage, markers: list[str]) -> InlineImage:
    figure = new_figure(7, 7)
    window = _densest_window(adata, slide)
    pl.slide(slide, markers=markers, mask=mask, window=window, legend=False, ax=figure.subplots())
    return inline_figure(figure, f"A window of slide {slide.name} with the outline of every cell in white.", dpi=130)


def _describe(slide: Slide) -> dict[str, str]:
    height_mm, width_mm = (side * slide.pixel_size_um / 1000 for side in slide.shape_px)
    return {
        "name": slide.name,
        "size": f"{slide.shape_px[1]:,} × {slide.shape_px[0]:,} px",
        "mm": f"{width_mm:.2f} × {height_mm:.2f} mm",
        "pixel": f"{slide.pixel_size_um:.4g} µm ({slide.pixel_size_from})",
        "markers": f"{len(slide.markers)} ({slide.markers_from})",
        "storage": f"{slide.storage}; {slide.images_in_file}" if slide.images_in_file else slide.storage,
    }


def _densest_window(adata: AnnData, slide: Slide) -> tuple[slice, slice]:
    height, width = slide.shape_px
    side = min(round(_WINDOW_UM / slide.pixel_size_um), height, width)
    here = (adata.obs["slide"] == slide.name).to_numpy() if "slide" in adata.obs else np.full(adata.n_obs, True)
    points = np.asarray(adata.obsm["spatial"])[here] / slide.pixel_size_um  # x, y in pixels
    rows, columns = max(1, height // side), max(1, width // side)
    counts, _, _ = np.histogram2d(points[:, 1], points[:, 0], bins=(rows, columns), range=((0, height), (0, width)))
    row, column = np.unravel_index(int(counts.argmax()), counts.shape)
    top, left = min(int(row) * height // rows, height - side), min(int(column) * width // columns, width - side)
    return slice(top, top + side), slice(left, left + side)
