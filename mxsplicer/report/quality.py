"""The section "Quality of each slide": cells, areas, cut cells, and markers that differ from the other slides."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from anndata import AnnData

from mxsplicer.pl import colors
from mxsplicer.report.figures import InlineImage, inline_figure, new_figure
from mxsplicer.report.formatting import format_ratio, list_names, shorten
from mxsplicer.tl.reading import rows_by_slide

_PSEUDOCOUNT = 0.02  # of the 99th percentile over all cells
_FLAGGED_LOG2 = 2.0  # a median that is 4 times brighter or darker than on the median slide
_COLUMNS: dict[str, tuple[str, Callable[[np.ndarray], str]]] = {
    "median area, µm²": ("area_um2", lambda values: f"{np.median(values):.0f}"),
    "cells at the edge": ("at_border", lambda values: f"{values.astype(bool).mean():.1%}"),
    "patches over the edge": ("patch_valid_fraction", lambda values: f"{(values < 1).mean():.1%}"),
}


def quality_section(adata: AnnData, cards: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return one row per slide, and a heatmap of the median intensities if there are several slides.

    Parameters
    ----------
    adata
        Cells.
    cards
        Cards of the markers, as :func:`mxsplicer.report.markers.marker_cards` returns them.
    """
    by_slide = rows_by_slide(adata)
    log2_ratio = _log2_ratio_to_median_slide(cards)  # (slides, markers)
    columns = {heading: column for heading, column in _COLUMNS.items() if column[0] in adata.obs}
    rows = []
    for number, (name, cells) in enumerate(by_slide.items()):
        values = [write(adata.obs[key].to_numpy()[cells]) for key, write in columns.values()]
        ratios = log2_ratio[number] if len(by_slide) > 2 else np.zeros(len(cards))
        rows.append({"name": name, "cells": [f"{len(cells):,}", *values], "flags": _flags(cards, number, ratios)})
    heatmap = _draw(log2_ratio, list(by_slide), cards) if len(by_slide) > 1 else None
    return {"columns": ["cells", *columns], "rows": rows, "heatmap": heatmap}


def _log2_ratio_to_median_slide(cards: Sequence[dict[str, Any]]) -> np.ndarray:
    medians = np.array([card["medians"] for card in cards]).T  # (slides, markers)
    # A median near 0 does not measure staining, so a fraction of the intensity of bright cells is added to both.
    pseudocount = np.array([max(_PSEUDOCOUNT * card["top"], 1e-9) for card in cards])
    return np.asarray(np.log2((medians + pseudocount) / (np.median(medians, axis=0) + pseudocount)))


def _flags(cards: Sequence[dict[str, Any]], number: int, log2_ratio: np.ndarray) -> str:
    zero = [card["marker"] for card in cards if card["zero_on"][number]]
    different = [
        f"{card['marker']} ({format_ratio(2 ** float(one))})"
        for card, one in sorted(zip(cards, log2_ratio, strict=True), key=lambda pair: -abs(pair[1]))
        if abs(one) > _FLAGGED_LOG2 and card["marker"] not in zero
    ]
    flags = [f"no signal: {list_names(zero)}"] if zero else []
    flags += [f"differs from other slides: {list_names(different)}"] if different else []
    return "; ".join(flags) or "–"


def _draw(log2_ratio: np.ndarray, names: list[str], cards: Sequence[dict[str, Any]]) -> InlineImage:
    figure = new_figure(min(9.6, 2.4 + 0.2 * len(cards)), min(10, 1.6 + 0.17 * len(names)))
    ax = figure.subplots()
    drawn = ax.pcolormesh(np.clip(log2_ratio, -3, 3), cmap=colors.SIGNED, vmin=-3, vmax=3, rasterized=True)
    ax.set_yticks(np.arange(len(names)) + 0.5, [shorten(name) for name in names], fontsize=min(8, 400 / len(names)))
    ax.set_xticks(np.arange(len(cards)) + 0.5, [card["marker"] for card in cards], fontsize=7, rotation=90)
    ax.invert_yaxis()
    figure.colorbar(drawn, ax=ax, label="log2 fold change", fraction=0.03, pad=0.01)
    return inline_figure(figure, "Heatmap: median intensity of each marker on each slide.", vector=True)
