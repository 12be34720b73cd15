"""Cells as coloured points: the colours of a column or a marker, and the legend that explains them."""

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.collections import Collection
from matplotlib.lines import Line2D

from mxsplicer.errors import InputError
from mxsplicer.pl import colors

_MOST_POINTS = 200_000  # more cannot be distinguished on a page


def color_points(adata: AnnData, color: str, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the cells to draw, in drawing order, and the properties of a collection that colours them.

    Categories are drawn in random order, so that none covers the others because of its position in the table; numbers
    are drawn from low to high.

    Parameters
    ----------
    adata
        Cells.
    color
        Column of ``obs``, or a marker.
    seed
        Seed of the random order; cells beyond 200,000 are not drawn.
    """
    order = np.random.default_rng(seed).permutation(adata.n_obs)[:_MOST_POINTS]
    if color in adata.obs and not _is_number(adata.obs[color]):
        _, codes = category_codes(adata.obs[color])
        palette = np.array([colors.rgb(colors.category_color(code)) for code in range(-1, codes.max() + 1)])
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


def category_codes(values: pd.Series) -> tuple[list[str], np.ndarray]:
    """Return the names of the categories and the code of each cell, -1 where the value is missing."""
    if not isinstance(values.dtype, pd.CategoricalDtype):
        values = values.astype(str).where(values.notna(), None).astype("category")
    return [str(name) for name in values.cat.categories], values.cat.codes.to_numpy()


def category_legend(ax: Axes, names: list[str]) -> None:
    """List the categories with their colours to the right of the axes."""
    handles = [
        Line2D([], [], marker="o", linestyle="", color=colors.category_color(code), label=name)
        for code, name in enumerate(names)
    ]
    columns = 1 + (len(names) - 1) // 24
    ax.legend(handles=handles, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, ncols=columns, fontsize=9)


def number_legend(adata: AnnData, color: str, drawn: Collection, ax: Axes) -> None:
    """Add a colour bar for a column of numbers or a marker."""
    label = color if color in adata.obs else "log(1 + mean intensity)"
    ax.figure.colorbar(drawn, ax=ax, label=label, fraction=0.03, pad=0.01, extend="both")


def _is_number(values: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
