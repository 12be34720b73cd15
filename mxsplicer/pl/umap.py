"""The UMAP of cells, or another embedding in two dimensions."""

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes

from mxsplicer.errors import InputError
from mxsplicer.pl.axes import axes_or_new, hide_ticks_and_frame
from mxsplicer.pl.colors import category_codes, color_points, number_legend


def embedding(
    adata: AnnData,
    *,
    color: str = "leiden",
    basis: str = "X_umap",
    legend: bool = True,
    ax: Axes | None = None,
    seed: int = 0,
) -> Axes:
    """Show cells on their UMAP, coloured by a category, a number or the intensity of a marker.

    Parameters
    ----------
    adata
        Cells with a UMAP (cells, 2) in ``obsm``. Cells without coordinates (NaN) are not shown.
    color
        Column of ``obs``, or a marker; intensities are shown as log1p between their 1st and 99.5th percentiles.
    basis
        Key of the UMAP in ``obsm``.
    legend
        Write the names of the categories on the UMAP, or add a colour bar for numbers.
    ax
        Where to draw; a new figure by default.
    seed
        Seed of the order in which cells are drawn; cells beyond 200,000 are not drawn.
    """
    if basis not in adata.obsm:
        msg = f"obsm[{basis!r}] not found."
        raise InputError(msg, "Run `mxsplicer.tl.cluster` first.")
    ax = axes_or_new(ax, (6, 5))
    has_place = np.isfinite(np.asarray(adata.obsm[basis])).all(axis=1)
    if not has_place.all():
        adata = adata[has_place]
    points = np.asarray(adata.obsm[basis])[:, :2]
    size = float(np.clip(30_000 / max(adata.n_obs, 1), 0.3, 12))
    order, style = color_points(adata, color, seed)
    drawn = ax.scatter(points[order, 0], points[order, 1], s=size, linewidths=0, rasterized=True)
    drawn.set(**style)
    if legend and "array" in style:
        number_legend(adata, color, drawn, ax)
    elif legend:
        _write_names(ax, points, *category_codes(adata.obs[color]))
    ax.set_title(color, fontsize=10)
    hide_ticks_and_frame(ax)
    return ax


def _write_names(ax: Axes, points: np.ndarray, names: list[str], codes: np.ndarray) -> None:
    """Write the name of each category on the UMAP, at the median of its cells."""
    for code, name in enumerate(names):
        if not (codes == code).any():
            continue
        centre = np.median(points[codes == code], axis=0)
        label = ax.text(centre[0], centre[1], name, fontsize=9, weight="bold", ha="center", va="center")
        label.set_bbox({"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.75, "linewidth": 0})
