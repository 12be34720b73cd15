"""Colours of cells by category, number or marker, their legends, and colours of image channels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.collections import Collection
from matplotlib.lines import Line2D

from mxsplicer.errors import InputError

# Wong 2011 (Nature Methods 8:441) without black, then the muted scheme of Tol (SRON/EPS/TN/09-002), then pale ones.
QUALITATIVE = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442",
    "#332288", "#88ccee", "#44aa99", "#117733", "#999933", "#ddcc77", "#cc6677", "#882255", "#aa4499",
    "#bbbbbb", "#77aadd", "#ee8866", "#eedd88", "#ffaabb", "#99ddff", "#44bb99", "#bbcc33", "#aaaa00", "#666666",
)  # fmt: skip
CHANNELS = ("#5a7dff", "#ffb000", "#ff4fa3", "#3fe0c5")  # added on black: nuclei first, then three markers
INTENSITY = "viridis"
SIGNED = "RdBu_r"
ABSENT = "#d9d9d9"
_GAMMA = 0.7  # below 1, so that faint signal is visible in a small image

_MOST_POINTS = 200_000  # more cannot be distinguished on a page


def rgb(color: str) -> np.ndarray:
    """Return a colour as three floats between 0 and 1."""
    return np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255


def category_color(code: int) -> str:
    """Return the colour of category number ``code``; colours repeat after 26. A negative code is grey."""
    return QUALITATIVE[code % len(QUALITATIVE)] if code >= 0 else ABSENT


def category_rgb(code: int) -> list[int]:
    """Return the colour of category number ``code`` as three integers from 0 to 255; a negative code is grey."""
    return [round(255 * one) for one in rgb(category_color(code))]


def composite(image: np.ndarray, limits: Sequence[tuple[float, float]], colors: Sequence[str] = CHANNELS) -> np.ndarray:
    """Combine channels into one RGB image, each channel in its own colour.

    Parameters
    ----------
    image
        Channels (C, y, x), any dtype.
    limits
        For each channel the intensity shown as black and the intensity shown in full colour.
    colors
        One per channel, as ``#rrggbb``.

    Returns
    -------
    Image (y, x, 3), uint8.
    """
    out = np.zeros((*image.shape[1:], 3))
    for channel, (low, high), color in zip(image, limits, colors, strict=False):
        brightness = np.clip((channel.astype(np.float64) - low) / max(high - low, 1e-12), 0, 1)
        out += (brightness**_GAMMA)[..., None] * rgb(color)
    return np.asarray(np.clip(out, 0, 1) * 255, dtype=np.uint8)


def contrast_limits(channel: np.ndarray) -> tuple[float, float]:
    """Return the intensities that are coloured black and full: percentiles 1 and 99.8 of the pixels above 0."""
    positive = channel[np.isfinite(channel) & (channel > 0)]
    if not positive.size:
        return 0.0, 1.0
    low, high = np.percentile(positive, [1, 99.8])
    if positive.size < 0.5 * channel.size or high <= low:
        low = 0.0  # most of the image is empty, so any intensity above 0 is signal
    return float(low), float(high)


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
        palette = np.array([rgb(category_color(code)) for code in range(-1, codes.max() + 1)])
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
    return order, {"array": values[order], "cmap": INTENSITY, "clim": (low, max(high, low + 1e-6))}


def category_codes(values: pd.Series) -> tuple[list[str], np.ndarray]:
    """Return the categories to colour by and the code of each cell, -1 where the value is missing."""
    if not isinstance(values.dtype, pd.CategoricalDtype):
        values = values.astype(str).where(values.notna(), None).astype("category")
    return [str(name) for name in values.cat.categories], values.cat.codes.to_numpy()


def category_legend(ax: Axes, names: list[str]) -> None:
    """List the categories with their colours to the right of the axes."""
    handles = [
        Line2D([], [], marker="o", linestyle="", color=category_color(code), label=name)
        for code, name in enumerate(names)
    ]
    columns = 1 + (len(names) - 1) // 24
    ax.legend(handles=handles, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, ncols=columns, fontsize=9)


def number_legend(adata: AnnData, color: str, drawn: Collection, ax: Axes) -> None:
    """Add a colour bar for the colours of a column of numbers or a marker."""
    label = color if color in adata.obs else "log(1 + mean intensity)"
    ax.figure.colorbar(drawn, ax=ax, label=label, fraction=0.03, pad=0.01, extend="both")


def _is_number(values: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
