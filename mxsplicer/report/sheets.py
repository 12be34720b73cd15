"""Contact sheets: cells of each cluster cut from the slides again, so that a reader sees what a cluster is."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from mxsplicer.images.markers import find_nuclear_marker, is_control, is_nuclear
from mxsplicer.images.slide import LazyImage, Slide
from mxsplicer.patches.blocks import choose_tile
from mxsplicer.pl import colors
from mxsplicer.pl.galleries import contact_sheet, cut_cells
from mxsplicer.report.pictures import of_pixels
from mxsplicer.tl.examples import KINDS, pick_examples
from mxsplicer.tl.naming import NOTHING, cluster_codes, suggest_names
from mxsplicer.tl.rows import learned_features

_CELLS = 8  # of each kind
_SIDE_PX = 64  # of a cell on the page, at least
_LEAST_UM = 24.0  # so that its neighbours are seen
_PIXELS_TO_READ = 1.5e9  # over all markers: about a minute of decoding
_NEEDED = ("slide", "cell_id", "x_px", "y_px")


def contact_sheets(
    adata: AnnData, profiles: pd.DataFrame | None, slides: Sequence[Slide], masks: Sequence[LazyImage]
) -> dict[str, Any] | None:
    """Return for each cluster its suggested name, and a picture of typical, borderline and outlying cells."""
    if profiles is None or not masks or not set(_NEEDED) <= set(adata.obs.columns):
        return None
    use_rep = learned_features(adata)
    if use_rep not in adata.obsm:
        return None
    chosen = {str(name): _markers_of(row) for name, row in profiles.iterrows()}
    wanted = [marker for marker in profiles.columns if any(marker in markers for markers in chosen.values())]
    wanted = [marker for marker in wanted if all(marker in slide.markers for slide in slides)]
    among, n_tiles = _within_reach(adata, slides, len(wanted))
    examples = pick_examples(adata, use_rep=use_rep, n=_CELLS, among=among)
    size_um = _size_um(adata)
    images = cut_cells(examples, slides, masks, markers=wanted, patch_size_um=size_um)
    limits = images.limits()
    scale = max(1, -(-_SIDE_PX // images.patches.shape[-1]))
    names = suggest_names(profiles)
    group, kind = examples["group"].to_numpy(), examples["kind"].to_numpy()
    sheets = []
    for name in profiles.index:
        rows = [np.flatnonzero((group == name) & (kind == one) & images.found).tolist() for one in KINDS]
        if not any(rows):
            continue
        markers = [marker for marker in chosen[name] if marker in wanted]
        pixels = contact_sheet(images, [row for row in rows if row], markers=markers, limits=limits, scale=scale)
        words = names[name] if names[name] != NOTHING else "no marker stands out"
        sheets.append(
            {
                "name": name,
                "words": words,
                "picture": of_pixels(pixels, f"Cells of cluster {name}: {', '.join(KINDS)}, a row each."),
                "markers": list(zip(markers, colors.CHANNELS, strict=False)),
                "rows": [one for one, row in zip(KINDS, rows, strict=True) if row],
            }
        )
    return {"sheets": sheets, "size_um": f"{size_um:g}", "n_tiles": n_tiles}


def _size_um(adata: AnnData) -> float:
    return max(_LEAST_UM, float(adata.uns.get("mxsplicer", {}).get("patch_size_um", 32.0)))


def _markers_of(row: "pd.Series[float]") -> list[str]:
    """Return the nuclear marker and the three that stand out most, which make the colours of a cluster's sheet."""
    names = [str(name) for name in row.index]
    nuclear = find_nuclear_marker(names)
    others = row.drop([name for name in names if is_nuclear(name) or is_control(name)])
    bright = [str(name) for name in others.sort_values(ascending=False, kind="stable").index[:3]]
    return [nuclear, *bright] if nuclear else bright


def _within_reach(adata: AnnData, slides: Sequence[Slide], n_markers: int) -> tuple[np.ndarray | None, int]:
    """Return which cells may be shown, and on how many tiles they lie; None and 0 where all may.

    Cells all over a large slide would have nearly all of it decoded. So some tiles are chosen, those of cells drawn at
    random from each cluster, and the cells well inside them.
    """
    slide_of = adata.obs["slide"].astype(str).astype("category").cat
    names, of_slide = [str(name) for name in slide_of.categories], slide_of.codes.to_numpy()
    x, y = adata.obs["x_px"].to_numpy(), adata.obs["y_px"].to_numpy()
    tile = np.full(adata.n_obs, -1, dtype=np.int64)
    inside = np.zeros(adata.n_obs, dtype=bool)
    first, pixels = 0, 1
    for slide in slides:
        if slide.name not in names:
            continue
        here = np.flatnonzero(of_slide == names.index(slide.name))
        high, wide = choose_tile(slide.tile_px, slide.shape_px)
        across, down = -(-slide.shape_px[1] // wide), -(-slide.shape_px[0] // high)
        tile[here] = first + (y[here] // high).astype(int) * across + (x[here] // wide).astype(int)
        margin = _size_um(adata) / slide.pixel_size_um / 2 + 1
        within = [
            np.minimum(along % side, side - along % side) >= margin
            for along, side in ((y[here], high), (x[here], wide))
        ]
        inside[here] = within[0] & within[1]
        first, pixels = first + across * down, max(pixels, high * wide)
    most = max(8, int(_PIXELS_TO_READ / pixels / max(n_markers, 1)))
    if len(np.unique(tile[tile >= 0])) <= most:
        return None, 0
    clusters, codes = cluster_codes(adata, "leiden")
    rng = np.random.default_rng(0)
    usable = inside & (tile >= 0)
    taken: set[int] = set()
    for code in range(len(clusters)):
        rows = np.flatnonzero((codes == code) & usable)
        drawn = rng.choice(rows, min(len(rows), max(1, most // len(clusters))), replace=False) if len(rows) else rows
        taken |= set(tile[drawn].tolist())
    return usable & np.isin(tile, list(taken)), len(taken)
