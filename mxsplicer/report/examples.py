"""The section "Example cells of each cluster": typical, borderline and outlying cells, cut from the slides."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from mxsplicer.images.lazy_images import LazyImage
from mxsplicer.images.markers import find_nuclear_marker, is_control, is_nuclear
from mxsplicer.images.slide import Slide
from mxsplicer.images.tiles import reading_tile
from mxsplicer.patches import PATCH_SIZE_UM
from mxsplicer.pl import colors
from mxsplicer.pl.galleries import CellImages, contact_sheet, cut_cells
from mxsplicer.report.figures import inline_pixels
from mxsplicer.tl.clustering import NOTHING, cluster_codes, suggest_cluster_names
from mxsplicer.tl.examples import KINDS, pick_examples
from mxsplicer.tl.representations import learned_key

_CELLS = 8  # of each kind
_SIDE_PX = 64  # of a cell on the page, at least
_LEAST_UM = 24.0  # wide enough to show the neighbours
_PIXELS_TO_READ = 1.5e9  # over all markers: about a minute of decoding
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
    among, n_tiles = _choose_tiles(adata, slides, len(wanted))
    examples = pick_examples(adata, use_rep=use_rep, n=_CELLS, among=among)
    size_um = _size_um(adata)
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


def _size_um(adata: AnnData) -> float:
    return max(_LEAST_UM, float(adata.uns.get("mxsplicer", {}).get("patch_size_um", PATCH_SIZE_UM)))


def _brightest_markers(row: "pd.Series[float]") -> list[str]:
    """Return the markers in a cluster's example images: the nuclear one and the three brightest others."""
    names = [str(name) for name in row.index]
    nuclear = find_nuclear_marker(names)
    others = row.drop([name for name in names if is_nuclear(name) or is_control(name)])
    bright = [str(name) for name in others.sort_values(ascending=False, kind="stable").index[:3]]
    return [nuclear, *bright] if nuclear else bright


def _choose_tiles(adata: AnnData, slides: Sequence[Slide], n_markers: int) -> tuple[np.ndarray | None, int]:
    """Return which example cells may be shown, and on how many tiles they lie; None and 0 if all may be shown.

    Cells from all over a large slide would need nearly all of it to be decoded. So some tiles are chosen, those of
    cells drawn at random from each cluster, and the cells that lie completely inside them.
    """
    tile, inside, tile_pixels = _tiles_of_cells(adata, slides)
    most = max(8, int(_PIXELS_TO_READ / tile_pixels / max(n_markers, 1)))
    if len(np.unique(tile[tile >= 0])) <= most:
        return None, 0
    clusters, codes = cluster_codes(adata, "leiden")
    rng = np.random.default_rng(0)
    usable = inside & (tile >= 0)
    chosen: set[int] = set()
    for code in range(len(clusters)):
        rows = np.flatnonzero((codes == code) & usable)
        drawn = rng.choice(rows, min(len(rows), max(1, most // len(clusters))), replace=False) if len(rows) else rows
        chosen |= set(tile[drawn].tolist())
    return usable & np.isin(tile, list(chosen)), len(chosen)


def _tiles_of_cells(adata: AnnData, slides: Sequence[Slide]) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the tile of each possible example cell (-1 without a slide), whether its patch lies inside, and pixels."""
    slide_of = adata.obs["slide"].astype(str).astype("category").cat
    names, code_of = [str(name) for name in slide_of.categories], slide_of.codes.to_numpy()
    x, y = adata.obs["x_px"].to_numpy(), adata.obs["y_px"].to_numpy()
    tile = np.full(adata.n_obs, -1, dtype=np.int64)
    inside = np.zeros(adata.n_obs, dtype=bool)
    first, tile_pixels = 0, 1
    for slide in slides:
        if slide.name not in names:
            continue
        cells = np.flatnonzero(code_of == names.index(slide.name))
        height, width = reading_tile(slide.tile_px, slide.shape_px)
        across, down = -(-slide.shape_px[1] // width), -(-slide.shape_px[0] // height)
        tile[cells] = first + (y[cells] // height).astype(int) * across + (x[cells] // width).astype(int)
        margin = _size_um(adata) / slide.pixel_size_um / 2 + 1
        inside[cells] = np.logical_and(
            *(np.minimum(at % side, side - at % side) >= margin for at, side in ((y[cells], height), (x[cells], width)))
        )
        first, tile_pixels = first + across * down, max(tile_pixels, height * width)
    return tile, inside, tile_pixels
