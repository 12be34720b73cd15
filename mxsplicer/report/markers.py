"""The section "Marker panel": one card per marker."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from anndata import AnnData

from mxsplicer.images.slide import Slide, overview
from mxsplicer.pl import colors
from mxsplicer.report.figures import inline_pixels
from mxsplicer.report.formatting import format_number
from mxsplicer.tl.reading import rows_by_slide

_MOST_IMAGES = 64
_IMAGE_PX = 300


def marker_cards(adata: AnnData, slides: Sequence[Slide]) -> list[dict[str, Any]]:
    """Return one card per marker: intensities of cells, slides without signal, and the slide where it is brightest."""
    by_name = {slide.name: slide for slide in slides}
    by_slide = rows_by_slide(adata)
    names = list(by_slide)
    cards = []
    for number, marker in enumerate(adata.var_names.astype(str)):
        values = _column(adata, number)  # one marker at a time: a copy of all for millions of cells is a gigabyte
        of_slides = [values[rows] for rows in by_slide.values()]
        top = [float(np.percentile(of_slide, 99)) for of_slide in of_slides]
        zero = [bool(of_slide.max() <= 0) for of_slide in of_slides]
        p1, p50, p99 = np.percentile(values, [1, 50, 99])
        card: dict[str, Any] = {
            "marker": marker,
            "p1": format_number(p1),
            "p50": format_number(p50),
            "p99": format_number(p99),
            "top": float(p99),
            "range": f"{p99 / p50:.1f}×" if p50 > 0 else "–",
            "zero_in": sum(zero),
            "zero_on": zero,
            "all_zero": all(zero),
            "medians": [float(np.median(of_slide)) for of_slide in of_slides],
            "n_slides": len(names),
            "histogram": _histogram(values),
            "image": None,
        }
        brightest = by_name.get(names[int(np.argmax(top))])
        if brightest is not None and marker in brightest.markers and number < _MOST_IMAGES:
            channel = overview(brightest, max_side_px=_IMAGE_PX, channels=brightest.channels_of([marker]))[0][0]
            grey = colors.composite(channel[None], [colors.contrast_limits(channel)], ["#ffffff"])[..., 0]
            card["image"] = inline_pixels(grey, f"{marker} on slide {brightest.name}")
        cards.append(card)
    return cards


def _column(adata: AnnData, number: int) -> np.ndarray:
    column = adata.X[:, number]
    return np.asarray(column.toarray() if hasattr(column, "toarray") else column).ravel()


def _histogram(values: np.ndarray) -> list[float]:
    logged = np.log1p(np.maximum(values, 0))
    counts, _ = np.histogram(logged, bins=24, range=(float(logged.min()), float(logged.max()) + 1e-6))
    return [float(n) for n in np.sqrt(counts / max(counts.max(), 1))]
