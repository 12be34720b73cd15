"""Cells as points: on the map of a representation, and on the tissue."""

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.collections import Collection, EllipseCollection
from matplotlib.lines import Line2D

from mxsplicer.errors import InputError
from mxsplicer.pl import colors
from mxsplicer.pl.axes import axes_or_new, bare, scale_bar

_MOST_POINTS = 200_000  # more are not seen apart on a page


def embedding(
    adata: AnnData,
    *,
    color: str = "leiden",
    basis: str = "X_umap",
    legend: bool = True,
    ax: Axes | None = None,
    seed: int = 0,
) -> Axes:
    """Show cells on the map of their representation, each in the colour of its category or intensity.

    Parameters
    ----------
    adata
        Cells with a map (cells, 2) in ``obsm``; those that have no place on it (NaN) are not shown.
    color
        Column of ``obs``, or a marker; intensities are shown as log1p between their 1st and 99.5th percentiles.
    basis
        Key of the map.
    legend
        Name the categories on the map itself, or show what the colours of numbers mean beside it.
    ax
        Where to draw; a new figure by default.
    seed
        Order in which cells are drawn, and which of them beyond 200,000 are not.
    """
    if basis not in adata.obsm:
        msg = f"the cells have no map {basis!r}; run mxsplicer.tl.cluster first."
        raise InputError(msg)
    ax = axes_or_new(ax, (6, 5))
    on_map = np.isfinite(np.asarray(adata.obsm[basis])).all(axis=1)
    if not on_map.all():
        adata = adata[on_map]
    points = np.asarray(adata.obsm[basis])[:, :2]
    size = float(np.clip(30_000 / max(adata.n_obs, 1), 0.3, 12))
    order, style = _coloured(adata, color, seed)
    drawn = ax.scatter(points[order, 0], points[order, 1], s=size, linewidths=0, rasterized=True)
    drawn.set(**style)
    if legend and "array" in style:
        _number_legend(adata, color, drawn, ax)
    elif legend:
        names, codes = _coded(adata.obs[color])
        for code, name in enumerate(names):
            if not (codes == code).any():
                continue
            centre = np.median(points[codes == code], axis=0)
            label = ax.text(centre[0], centre[1], name, fontsize=9, weight="bold", ha="center", va="center")
            label.set_bbox({"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.75, "linewidth": 0})
    ax.set_title(color, fontsize=10)
    bare(ax)
    return ax


def spatial(
    adata: AnnData,
    *,
    color: str = "leiden",
    slide: str | None = None,
    legend: bool = True,
    ax: Axes | None = None,
    seed: int = 0,
) -> Axes:
    """Show cells where they lie in the tissue, each a disc of its area, in the colour of its category or intensity.

    Parameters
    ----------
    adata
        Cells with ``obsm["spatial"]``, (x, y) in µm.
    color
        Column of ``obs``, or a marker.
    slide
        Which slide, where there are several.
    legend
        Name the categories beside the map, or show what the colours of numbers mean.
    ax
        Where to draw; a new figure by default.
    seed
        Order in which cells are drawn, and which of them beyond 200,000 are not.
    """
    if slide is not None:
        adata = adata[np.flatnonzero((adata.obs["slide"] == slide).to_numpy())]
    ax = axes_or_new(ax, (8, 7))
    points = np.asarray(adata.obsm["spatial"])
    low, high = points.min(axis=0), points.max(axis=0)
    ax.set_xlim(low[0] - 10, high[0] + 10)
    ax.set_ylim(high[1] + 10, low[1] - 10)  # y grows downwards, as in the image
    ax.set_aspect("equal")
    areas_um2 = adata.obs["area_um2"].to_numpy() if "area_um2" in adata.obs else np.full(adata.n_obs, 80.0)
    order, style = _coloured(adata, color, seed)
    diameters = 2 * np.sqrt(areas_um2[order] / np.pi)
    discs = EllipseCollection(
        diameters, diameters, np.zeros(len(order)), units="xy", offsets=points[order], offset_transform=ax.transData
    )
    discs.set(rasterized=True, linewidth=0, **style)
    ax.add_collection(discs)
    bare(ax)
    scale_bar(ax, width_um=float(high[0] - low[0] + 20), inside=False)
    if legend and "array" in style:
        _number_legend(adata, color, discs, ax)
    elif legend:
        category_legend(ax, _names(adata.obs[color]))
    return ax


def category_legend(ax: Axes, names: list[str]) -> None:
    """List categories with their colours to the right of the axes."""
    handles = [
        Line2D([], [], marker="o", linestyle="", color=colors.of_category(code), label=name)
        for code, name in enumerate(names)
    ]
    columns = 1 + (len(names) - 1) // 24
    ax.legend(handles=handles, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, ncols=columns, fontsize=9)


def _number_legend(adata: AnnData, color: str, drawn: Collection, ax: Axes) -> None:
    label = color if color in adata.obs else "log(1 + mean intensity)"
    ax.figure.colorbar(drawn, ax=ax, label=label, fraction=0.03, pad=0.01, extend="both")


def _coloured(adata: AnnData, color: str, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
    # In random order, so that no group lies on top by its place in the table; the bright on top for intensities.
    order = np.random.default_rng(seed).permutation(adata.n_obs)[:_MOST_POINTS]
    if color in adata.obs and not _is_number(adata.obs[color]):
        _, codes = _coded(adata.obs[color])
        palette = np.array([colors.rgb(colors.of_category(code)) for code in range(-1, codes.max() + 1)])
        return order, {"facecolor": palette[codes[order] + 1]}
    if color in adata.obs:
        values = adata.obs[color].to_numpy(dtype=np.float64)
    elif color in adata.var_names:
        column = adata[:, color].X
        values = np.log1p(np.maximum(np.asarray(column.toarray() if hasattr(column, "toarray") else column).ravel(), 0))
    else:
        msg = f"{color!r} is neither a column of obs nor a marker."
        raise InputError(msg)
    low, high = (float(one) for one in np.nanpercentile(values, [1, 99.5]))
    order = order[np.argsort(values[order], kind="stable")]
    return order, {"array": values[order], "cmap": colors.INTENSITY, "clim": (low, max(high, low + 1e-6))}


def _is_number(values: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def _names(values: pd.Series) -> list[str]:
    return _coded(values)[0]


def _coded(values: pd.Series) -> tuple[list[str], np.ndarray]:
    """Return the names of the categories and the place of each cell's among them, -1 where it is missing."""
    if not isinstance(values.dtype, pd.CategoricalDtype):
        values = values.astype(str).where(values.notna(), None).astype("category")
    return [str(name) for name in values.cat.categories], values.cat.codes.to_numpy()
