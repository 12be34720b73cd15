"""Correlations of features with markers: heatmap, support of each marker, volcano plot, diagonal."""

from collections.abc import Sequence

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes

from mxsplicer.errors import InputError
from mxsplicer.pl import colors
from mxsplicer.pl.axes import axes_or_new
from mxsplicer.pl.heatmap_order import heatmap_order, order_by_similarity

_FAINT = 0.25  # opacity of a correlation that is not significant
_NAMES = {"_partial_correlation": "partial r", "_correlation": "Pearson's r", "_spearman": "Spearman's rho"}
_SUPPORT = {  # column of var: its name in the legend, and the shape of its points
    "max_abs_r": ("best feature, |r|", "o"),
    "mean_abs_r": ("mean over features, |r|", "|"),
    "r2_mean": ("all features, R² of the mean", "s"),
    "r2_texture": ("all features, R² of texture", "^"),
    "r2_localisation": ("all features, R² of localisation", "D"),
}


def correlation(
    adata: AnnData,
    *,
    key: str = "splicer_correlation",
    order_by: str | None = None,
    dim: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Show the correlation of every feature with every marker as a heatmap.

    Markers with similar rows are neighbours. Each feature is placed under the marker it is most strongly correlated
    with. Correlations that are not significant are pale.

    Parameters
    ----------
    adata
        Cells with ``varm[key]`` (markers, features), as :func:`mxsplicer.tl.correlate` sets it.
    key
        Key of the correlations; also ``splicer_spearman`` or ``splicer_partial_correlation``.
    order_by
        Key of the correlations that give the order of markers and features, so that two heatmaps can be compared.
    dim
        Draw correlations that are not significant in pale colours. The p-values are those of Pearson's r, whichever
        correlation is shown.
    ax
        Where to draw; a new figure by default.
    """
    r = _matrix(adata, key)
    rows, columns = heatmap_order(r if order_by is None else _matrix(adata, order_by))
    ax = axes_or_new(ax, (10, 1.2 + 0.22 * len(r)))
    drawn = ax.pcolormesh(r[rows][:, columns], cmap=colors.SIGNED, vmin=-1, vmax=1, rasterized=True)
    label = f"{r.shape[1]} features, each under the marker of its strongest correlation"
    if order_by is not None:
        label += f" ({_name(order_by)})"
    weak = insignificant_correlations(adata, key) if dim else None
    if weak is not None:
        _veil(ax, weak[rows][:, columns])
        test = "" if f"{key}_p" in adata.varm else " by Pearson's r"
        label += f"\npale: not significant{test} ({weak.mean():.0%})"
    ax.set_yticks(np.arange(len(r)) + 0.5, [str(name) for name in adata.var_names[rows]], fontsize=8)
    ax.set_xticks([])
    ax.set_xlabel(label)
    ax.invert_yaxis()
    ax.figure.colorbar(drawn, ax=ax, label=_name(key), fraction=0.025, pad=0.01)
    return ax


def _veil(ax: Axes, cells: np.ndarray) -> None:
    """Make what is not significant in a heatmap of correlations pale, so that the colour bar stays right."""
    veil = np.ma.masked_where(~cells, np.ones(cells.shape))
    ax.pcolormesh(veil, cmap="gray", vmin=0, vmax=1, alpha=1 - _FAINT, rasterized=True, linewidth=0)


def _name(key: str) -> str:
    return next((name for end, name in _NAMES.items() if key.endswith(end)), key)


def marker_support(adata: AnnData, *, prefix: str = "splicer", ax: Axes | None = None) -> Axes:
    """Show how well the features represent each marker: the best feature, the mean of all, and all together.

    Parameters
    ----------
    adata
        Cells with ``var["splicer_max_abs_r"]`` and the like, as :func:`mxsplicer.tl.correlate` sets them.
    prefix
        Prefix of these columns.
    ax
        Where to draw; a new figure by default.
    """
    present = [name for name in _SUPPORT if f"{prefix}_{name}" in adata.var]
    if not present:
        msg = f"var[{prefix + '_max_abs_r'!r}] not found."
        raise InputError(msg, "Run `mxsplicer.tl.correlate` first.")
    first = adata.var[f"{prefix}_r2_mean" if "r2_mean" in present else f"{prefix}_max_abs_r"].to_numpy()
    order = np.argsort(np.nan_to_num(first, nan=-np.inf), kind="stable")
    ax = axes_or_new(ax, (7, 1.4 + 0.24 * adata.n_vars))
    places = np.arange(adata.n_vars)
    ax.hlines(places, 0, 1, color="#eeeeee", linewidth=0.8, zorder=0)
    for code, (name, (label, shape)) in enumerate(_SUPPORT.items()):
        if name in present:
            values = np.maximum(adata.var[f"{prefix}_{name}"].to_numpy()[order], 0)  # a negative R² is drawn as 0
            ax.scatter(values, places, marker=shape, s=30, color=colors.category_color(code), label=label, zorder=2)
    ax.set_yticks(places, [str(name) for name in adata.var_names[order]], fontsize=8)
    ax.set_xlim(-0.02, 1.02)
    ax.set_ylim(-0.7, adata.n_vars - 0.3)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8)
    return ax


def volcano(
    adata: AnnData,
    *,
    key: str = "splicer_correlation",
    markers: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Show every correlation against its p-value.

    Parameters
    ----------
    adata
        Cells with Pearson's r in ``varm[key]`` and its p-values in ``varm[key + "_p"]``.
    key
        Key of the correlations.
    markers
        Markers to colour; by default the six with the strongest correlation.
    ax
        Where to draw; a new figure by default.
    """
    r = _matrix(adata, key)
    if f"{key}_p" not in adata.varm:
        msg = f"varm[{key + '_p'!r}] not found: the p-values were not computed."
        raise InputError(msg, "Run `mxsplicer.tl.correlate` on cells with positions in obsm['spatial'].")
    strength = -np.log10(np.maximum(np.asarray(adata.varm[f"{key}_p"]), 1e-300))
    top = float(max(strength.max(), 1.0))
    strongest = np.argsort(-np.abs(r).max(axis=1), kind="stable")[:6]
    shown = list(adata.var_names[strongest]) if markers is None else list(markers)
    ax = axes_or_new(ax, (6, 5))
    # p-values span hundreds of orders of magnitude; a square root shows both the FDR limit and the smallest.
    ax.set_yscale("function", functions=(lambda y: np.sqrt(np.maximum(y, 0)), np.square))
    rest = ~adata.var_names.isin(shown)
    ax.scatter(r[rest], strength[rest], s=4, color=colors.ABSENT, linewidths=0, rasterized=True, label="other markers")
    for code, name in enumerate(shown):
        row = adata.var_names.get_loc(name)
        ax.scatter(
            r[row], strength[row], s=9, color=colors.category_color(code), linewidths=0, rasterized=True, label=name
        )
    limit = float(adata.uns[key]["p_5pct_fdr"])
    if limit > 0:
        ax.axhline(-np.log10(limit), color="#555555", linewidth=0.8, linestyle="--")
        ax.text(1.0, -np.log10(limit), "5 % FDR ", fontsize=7, ha="right", va="bottom", color="#555555")
    powers = [power for power in (1, 5, 20, 50, 100, 200, 300) if power <= top]
    ax.set_yticks(powers, [f"$10^{{-{power}}}$" for power in powers])
    ax.set_ylim(0, top * 1.05)
    ax.set_xlim(-1, 1)
    ax.set_xlabel("Pearson's r")
    ax.set_ylabel("p-value")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return ax


def marker_diagonal(adata: AnnData, *, key: str = "splicer_correlation", ax: Axes | None = None) -> Axes:
    """Show how specific the features are: each marker predicted from z (rows), correlated with each marker (columns).

    The strongest correlation of a row has a white frame. SpliCER aims at frames on the diagonal.

    Parameters
    ----------
    adata
        Cells with ``uns[key]["diagonal"]``, as :func:`mxsplicer.tl.correlate` sets it.
    key
        Key of the correlations.
    ax
        Where to draw; a new figure by default.
    """
    if "diagonal" not in adata.uns.get(key, {}):
        msg = f"uns[{key!r}]['diagonal'] not found."
        raise InputError(msg, "Run `mxsplicer.tl.correlate` on more cells, with positions in obsm['spatial'].")
    predicted = np.asarray(adata.uns[key]["diagonal"])
    order = order_by_similarity(np.asarray(adata.uns[key]["among_markers"]))
    names = [str(name) for name in adata.var_names[order]]
    ax = axes_or_new(ax, (2.2 + 0.25 * len(names), 1.8 + 0.25 * len(names)))
    shown = predicted[np.ix_(order, order)]
    drawn = ax.pcolormesh(shown, cmap=colors.INTENSITY, vmin=0, vmax=1, rasterized=True)
    ax.scatter(shown.argmax(axis=1) + 0.5, np.arange(len(names)) + 0.5, marker="s", s=60, facecolor="none", color="w")
    ax.set_xticks(np.arange(len(names)) + 0.5, names, fontsize=8, rotation=90)
    ax.set_yticks(np.arange(len(names)) + 0.5, names, fontsize=8)
    ax.set_aspect("equal")
    ax.set_xlabel("marker as measured")
    ax.set_ylabel("marker predicted from z")
    ax.invert_yaxis()
    ax.figure.colorbar(drawn, ax=ax, label="|r| in held-out cells", fraction=0.03, pad=0.02)
    return ax


def insignificant_correlations(adata: AnnData, key: str) -> np.ndarray | None:
    """Return which correlations to show pale: not significant at 5 % FDR; None without p-values."""
    prefix = next((key.removesuffix(end) for end in _NAMES if key.endswith(end)), key)
    base = f"{prefix}_correlation"
    if f"{base}_p" not in adata.varm:
        return None
    return np.asarray(np.asarray(adata.varm[f"{base}_p"]) > float(adata.uns[base]["p_5pct_fdr"]))


def _matrix(adata: AnnData, key: str) -> np.ndarray:
    if key not in adata.varm:
        msg = f"varm[{key!r}] not found: the correlations were not computed."
        raise InputError(msg, "Run `mxsplicer.tl.correlate` first.")
    return np.asarray(adata.varm[key])
