"""The section "UMAP of the cells", as still images; :mod:`mxsplicer.report.explorer` has the interactive one."""

import numpy as np
from anndata import AnnData

from mxsplicer import pl
from mxsplicer.report.figures import InlineImage, inline_figure, new_figure
from mxsplicer.report.formatting import shorten

_MOST_MARKERS, _COLUMNS = 64, 6
_MOST_POINTS = 20_000  # in a small panel, which has no more pixels


def umap_section(adata: AnnData) -> dict[str, InlineImage] | None:
    """Return the UMAP coloured by cluster, and one small UMAP per marker."""
    if "X_umap" not in adata.obsm or "leiden" not in adata.obs:
        return None
    return {"by_cluster": _draw_clusters(adata), "by_marker": _draw_markers(adata)}


def _draw_clusters(adata: AnnData) -> InlineImage:
    figure = new_figure(7, 6)
    ax = pl.embedding(adata, ax=figure.subplots())
    ax.set_title("")
    return inline_figure(figure, f"UMAP of {adata.n_obs:,} cells, coloured by cluster.", dpi=140)


def _draw_markers(adata: AnnData) -> InlineImage:
    if adata.n_obs > _MOST_POINTS:
        adata = adata[np.random.default_rng(0).choice(adata.n_obs, _MOST_POINTS, replace=False)]
    markers = list(adata.var_names[:_MOST_MARKERS])
    rows = -(-len(markers) // _COLUMNS)
    figure = new_figure(9.6, 1.75 * rows)
    figure.get_layout_engine().set(wspace=0.06)  # type: ignore[union-attr,call-arg]
    panels = list(figure.subplots(rows, _COLUMNS, squeeze=False).flat)
    for ax, marker in zip(panels, markers, strict=False):
        pl.embedding(adata, color=marker, legend=False, ax=ax)
        ax.set_title(shorten(marker), fontsize=8, pad=2)
    for ax in panels[len(markers) :]:
        ax.set_visible(False)
    return inline_figure(
        figure, f"The same UMAP {len(markers)} times, each coloured by the intensity of one marker.", dpi=130
    )
