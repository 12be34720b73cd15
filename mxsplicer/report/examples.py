"""Example cells of each cluster, cut from the slides: typical ones in the first table, and a section with more."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from mxsplicer.images.lazy_images import LazyImage
from mxsplicer.images.markers import find_nuclear_marker, is_control, is_nuclear
from mxsplicer.images.slide import Slide
from mxsplicer.pl import colors
from mxsplicer.pl.galleries import (
    CellImages,
    contact_sheet,
    cut_cells,
    examples_within_reach,
    gallery_size_um,
    limits_of_all_cells,
)
from mxsplicer.report.figures import InlineImage, inline_pixels
from mxsplicer.tl.examples import KINDS, pick_examples
from mxsplicer.tl.marker_words import LARGE_EFFECT
from mxsplicer.tl.representations import learned_key

_CELLS = 8  # of each kind
_FIRST_CELLS = 4  # typical ones, in the first table
_SIDE_PX = 64  # of a cell on the page, at least
_COLUMNS = ("slide", "cell_id", "x_px", "y_px")


@dataclass(frozen=True)
class Examples:
    """Example cells of all clusters, cut from their slides.

    Attributes
    ----------
    table
        What :func:`mxsplicer.tl.pick_examples` returned.
    images
        Their patches.
    limits
        For each marker the intensities to show as black and as full, by all cells of all slides.
    markers
        For each cluster the markers to show: the nuclear one, then those that set it apart.
    size_um
        Side of a patch.
    n_tiles
        Number of tiles that the cells come from; 0 if they may come from anywhere.
    """

    table: pd.DataFrame
    images: CellImages
    limits: Mapping[str, tuple[float, float]]
    markers: Mapping[str, list[str]]
    size_um: float
    n_tiles: int

    def draw(self, cluster: str, kinds: Sequence[str] = KINDS, n: int = _CELLS) -> dict[str, Any] | None:
        """Return an image with a row of cells of each kind, the markers with their colours, and the kinds."""
        group, kind = self.table["group"].to_numpy(), self.table["kind"].to_numpy()
        found = [np.flatnonzero((group == cluster) & (kind == one) & self.images.found)[:n] for one in kinds]
        rows = {one: cells.tolist() for one, cells in zip(kinds, found, strict=True) if len(cells)}
        markers = self.markers.get(cluster, [])
        if not rows or not markers:
            return None
        scale = max(1, -(-_SIDE_PX // self.images.patches.shape[-1]))
        pixels = contact_sheet(self.images, list(rows.values()), markers=markers, limits=self.limits, scale=scale)
        alt = f"Cells of cluster {cluster}, {', '.join(rows)}, in the colours of {', '.join(markers)}."
        image: InlineImage = inline_pixels(pixels, alt)
        return {"image": image, "markers": list(zip(markers, colors.CHANNELS, strict=False)), "rows": list(rows)}

    def draw_first(self, cluster: str) -> dict[str, Any] | None:
        """Return a few typical cells of a cluster, for the first table of the page."""
        return self.draw(cluster, KINDS[:1], _FIRST_CELLS)


def cut_examples(
    adata: AnnData,
    profiles: pd.DataFrame | None,
    explained: pd.DataFrame | None,
    slides: Sequence[Slide],
    masks: Sequence[LazyImage],
) -> Examples | None:
    """Choose example cells of each cluster and cut them from the slides; None if there is nothing to cut them from.

    Parameters
    ----------
    adata
        Clustered cells.
    profiles, explained
        The marker profile of each cluster, and what :func:`mxsplicer.tl.explain_clusters` returned.
    slides, masks
        The slides, and a label image of each.
    """
    if profiles is None or explained is None or not masks or not set(_COLUMNS) <= set(adata.obs.columns):
        return None
    use_rep = learned_key(adata)
    if use_rep not in adata.obsm:
        return None
    on_all = [marker for marker in profiles.columns if all(marker in slide.markers for slide in slides)]
    distinct = {str(cluster): row["marker"] for cluster, row in explained.iterrows() if row["effect"] >= LARGE_EFFECT}
    markers = {str(name): _markers_to_show(row[on_all], distinct.get(str(name))) for name, row in profiles.iterrows()}
    wanted = [marker for marker in on_all if any(marker in of_cluster for of_cluster in markers.values())]
    among, n_tiles = examples_within_reach(adata, slides, len(wanted))
    examples = pick_examples(adata, use_rep=use_rep, n=_CELLS, among=among)
    size_um = gallery_size_um(adata)
    images = cut_cells(examples, slides, masks, markers=wanted, patch_size_um=size_um)
    limits = limits_of_all_cells(adata, wanted) or images.limits()
    return Examples(examples, images, limits, markers, size_um, n_tiles)


def examples_section(examples: Examples | None, names: Mapping[str, str]) -> dict[str, Any] | None:
    """Return for each cluster its name and an image of typical, borderline and outlying cells."""
    if examples is None:
        return None
    sheets = [
        {"name": cluster, "suggested": names.get(cluster, ""), **drawn}
        for cluster in examples.markers
        if (drawn := examples.draw(cluster))
    ]
    return {"sheets": sheets, "size_um": f"{examples.size_um:g}", "n_tiles": examples.n_tiles}


def _markers_to_show(profile: "pd.Series[float]", distinct: str | None) -> list[str]:
    """Return the markers of a cluster's images: the nuclear one, that which sets it apart, and the brightest others."""
    names = [str(name) for name in profile.index]
    nuclear = find_nuclear_marker(names)
    others = profile.drop([name for name in names if is_nuclear(name) or is_control(name)])
    bright = [str(name) for name in others.sort_values(ascending=False, kind="stable").index]
    first = [distinct] if distinct in bright else []
    shown = [*first, *(name for name in bright if name not in first)][:3]
    return [nuclear, *shown] if nuclear else shown
