"""The section "Example cells of each cluster": typical, borderline and outlying cells, cut from the slides."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from mxsplicer.images.lazy_images import LazyImage
from mxsplicer.images.markers import find_nuclear_marker, is_control, is_nuclear
from mxsplicer.images.slide import Slide
from mxsplicer.pl import colors
from mxsplicer.pl.galleries import CellImages, contact_sheet, cut_cells, examples_within_reach, gallery_size_um
from mxsplicer.report.figures import inline_pixels
from mxsplicer.tl.clustering import NOTHING, suggest_cluster_names
from mxsplicer.tl.examples import KINDS, pick_examples
from mxsplicer.tl.representations import learned_key

_CELLS = 8  # of each kind
_SIDE_PX = 64  # of a cell on the page, at least
_COLUMNS = ("slide", "cell_id", "x_px", "y_px")


def examples_section(
    adata: AnnData, profiles: pd.DataFrame | None, slides: Sequence[Slide], masks: Sequence[LazyImage]
) -> dict[str, Any] | None:
    """Return for each cluster its suggested name and an image of typical, borderline and outlying cells."""
    if profiles is None or not masks or not set(_COLUMNS) <= set(adata.obs.columns):
        return None
    use_rep = learned_key(adata)
    if use_rep not in adata.obsm:
        return None
    markers_of = {str(name): _brightest_markers(row) for name, row in profiles.iterrows()}
    wanted = [
        marker
        for marker in profiles.columns
        if any(marker in markers for markers in markers_of.values())
        and all(marker in slide.markers for slide in slides)
    ]
    among, n_tiles = examples_within_reach(adata, slides, len(wanted))
    examples = pick_examples(adata, use_rep=use_rep, n=_CELLS, among=among)
    size_um = gallery_size_um(adata)
    images = cut_cells(examples, slides, masks, markers=wanted, patch_size_um=size_um)
    shown = {name: [marker for marker in markers if marker in wanted] for name, markers in markers_of.items()}
    return {"sheets": _draw_sheets(profiles, examples, images, shown), "size_um": f"{size_um:g}", "n_tiles": n_tiles}


def _draw_sheets(
    profiles: pd.DataFrame, examples: pd.DataFrame, images: CellImages, markers_of: dict[str, list[str]]
) -> list[dict[str, Any]]:
    limits = images.limits()
    scale = max(1, -(-_SIDE_PX // images.patches.shape[-1]))
    suggested = suggest_cluster_names(profiles)
    group, kind = examples["group"].to_numpy(), examples["kind"].to_numpy()
    sheets = []
    for name in profiles.index:
        rows = {one: np.flatnonzero((group == name) & (kind == one) & images.found).tolist() for one in KINDS}
        rows = {one: cells for one, cells in rows.items() if cells}
        if not rows:
            continue
        markers = markers_of[name]
        pixels = contact_sheet(images, list(rows.values()), markers=markers, limits=limits, scale=scale)
        sheets.append(
            {
                "name": name,
                "suggested": suggested[name] if suggested[name] != NOTHING else "no marker stands out",
                "image": inline_pixels(pixels, f"Cells of cluster {name}, one row each: {', '.join(rows)}."),
                "markers": list(zip(markers, colors.CHANNELS, strict=False)),
                "rows": list(rows),
            }
        )
    return sheets


def _brightest_markers(row: "pd.Series[float]") -> list[str]:
    """Return the markers in a cluster's example images: the nuclear one and the three brightest others."""
    names = [str(name) for name in row.index]
    nuclear = find_nuclear_marker(names)
    others = row.drop([name for name in names if is_nuclear(name) or is_control(name)])
    bright = [str(name) for name in others.sort_values(ascending=False, kind="stable").index[:3]]
    return [nuclear, *bright] if nuclear else bright
