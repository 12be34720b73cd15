"""Which learned feature follows which marker, how surely, and where in the tissue."""

from collections.abc import Sequence

import numpy as np
from anndata import AnnData
from matplotlib import colormaps
from matplotlib.axes import Axes

from mxsplicer.errors import InputError
from mxsplicer.pl import colors
from mxsplicer.pl.axes import axes_or_new
from mxsplicer.pl.maps import spatial
from mxsplicer.pl.matrices import alike_order
from mxsplicer.tl import local_correlation

_FAINT = 0.25  # opacity of a correlation that is not told from chance
_OF_MATRIX = {"_partial_correlation": "partial r", "_correlation": "Pearson's r", "_spearman": "Spearman's rho"}
_SUPPORT = {
    "max_abs_r": "best feature, |r|",
    "mean_abs_r": "mean over features, |r|",
    "r2_mean": "all features, R² to the mean",
    "r2_texture": "all features, R² to texture",
    "r2_localisation": "all features, R² to localisation",
}


def correlation(
    adata: AnnData,
    *,
    key: str = "splicer_correlation",
    order_by: str | None = None,
    dim: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Show how each learned feature follows each marker, -1 to 1.

    Markers with alike rows lie side by side; each feature stands under the marker it follows most. What is not told
    from chance is pale.

    Parameters
    ----------
    adata
        Cells with ``varm[key]`` (markers, features), as :func:`mxsplicer.tl.correlate` sets it.
    key
        Which correlations: also ``splicer_spearman`` or ``splicer_partial_correlation``.
    order_by
        Take the order of markers and features from these correlations instead, so that two pictures can be compared.
    dim
        Make pale what the null explains, where p-values were computed: those of Pearson's r, whichever is shown.
    ax
        Where to draw; a new figure by default.
    """
    r = _matrix(adata, key)
    rows, columns = order_of(r if order_by is None else _matrix(adata, order_by))
    ax = axes_or_new(ax, (10, 1.2 + 0.22 * len(r)))
    drawn = ax.pcolormesh(r[rows][:, columns], cmap=colors.SIGNED, vmin=-1, vmax=1, rasterized=True)
    chance = by_chance(adata, key) if dim else None
    if chance is not None:
        shown = chance[rows][:, columns]
        # Over the colours, so that they still read as on the scale beside them.
        veil = np.ma.masked_where(~shown, np.ones(shown.shape))
        ax.pcolormesh(veil, cmap="gray", vmin=0, vmax=1, alpha=1 - _FAINT, rasterized=True, linewidth=0)
    ax.set_yticks(np.arange(len(r)) + 0.5, [str(name) for name in adata.var_names[rows]], fontsize=8)
    ax.set_xticks([])
    whose = "" if f"{key}_p" in adata.varm else "Pearson's r is "
    pale = f"\n{chance.mean():.0%} are pale: {whose}not told from chance" if chance is not None else ""
    above = "" if order_by is None else f" by {_said(order_by)}"
    ax.set_xlabel(f"{r.shape[1]} learned features, each under the marker it follows most{above}{pale}")
    ax.invert_yaxis()
    ax.figure.colorbar(drawn, ax=ax, label=_said(key), fraction=0.025, pad=0.01)
    return ax


def _said(key: str) -> str:
    return next((said for end, said in _OF_MATRIX.items() if key.endswith(end)), key)


def marker_support(adata: AnnData, *, prefix: str = "splicer", ax: Axes | None = None) -> Axes:
    """Show for every marker how well the features hold it: the best one, all on average, and all together.

    Parameters
    ----------
    adata
        Cells with ``var["splicer_max_abs_r"]`` and the like, as :func:`mxsplicer.tl.correlate` sets them.
    prefix
        What their names begin with.
    ax
        Where to draw; a new figure by default.
    """
    there = {name: said for name, said in _SUPPORT.items() if f"{prefix}_{name}" in adata.var}
    if not there:
        msg = f"the markers have no column {prefix}_max_abs_r; run mxsplicer.tl.correlate first."
        raise InputError(msg)
    first = adata.var[f"{prefix}_r2_mean" if "r2_mean" in there else f"{prefix}_max_abs_r"].to_numpy()
    order = np.argsort(np.nan_to_num(first, nan=-np.inf), kind="stable")
    ax = axes_or_new(ax, (7, 1.4 + 0.24 * adata.n_vars))
    places = np.arange(adata.n_vars)
    ax.hlines(places, 0, 1, color="#eeeeee", linewidth=0.8, zorder=0)
    markers = dict(zip(_SUPPORT, ("o", "|", "s", "^", "D"), strict=True))
    for name, said in there.items():
        values = np.maximum(adata.var[f"{prefix}_{name}"].to_numpy()[order], 0)  # worse than nothing is nothing
        code = list(_SUPPORT).index(name)
        ax.scatter(values, places, marker=markers[name], s=30, color=colors.of_category(code), label=said, zorder=2)
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
    """Show the size of every correlation against how surely it is no chance.

    Parameters
    ----------
    adata
        Cells with Pearson's r in ``varm[key]`` and its p-values beside it.
    key
        Which correlations.
    markers
        Whose to colour; by default the six with the strongest correlation.
    ax
        Where to draw; a new figure by default.
    """
    r = _matrix(adata, key)
    if f"{key}_p" not in adata.varm:
        msg = f"the cells have no p-values {key + '_p'!r}; run mxsplicer.tl.correlate with places in obsm['spatial']."
        raise InputError(msg)
    strength = -np.log10(np.maximum(np.asarray(adata.varm[f"{key}_p"]), 1e-300))
    top = float(max(strength.max(), 1.0))
    strongest = np.argsort(-np.abs(r).max(axis=1), kind="stable")[:6]
    shown = list(adata.var_names[strongest]) if markers is None else list(markers)
    ax = axes_or_new(ax, (6, 5))
    # Below 1 in 1e4 sizes differ by powers; a root shows both the line of chance and the far end.
    ax.set_yscale("function", functions=(lambda y: np.sqrt(np.maximum(y, 0)), np.square))
    rest = ~adata.var_names.isin(shown)
    ax.scatter(r[rest], strength[rest], s=4, color=colors.ABSENT, linewidths=0, rasterized=True, label="other markers")
    for code, name in enumerate(shown):
        row = adata.var_names.get_loc(name)
        ax.scatter(
            r[row], strength[row], s=9, color=colors.of_category(code), linewidths=0, rasterized=True, label=name
        )
    limit = float(adata.uns[key]["p_5pct_fdr"])
    if limit > 0:
        ax.axhline(-np.log10(limit), color="#555555", linewidth=0.8, linestyle="--")
        ax.text(1.0, -np.log10(limit), "5 % false ", fontsize=7, ha="right", va="bottom", color="#555555")
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
    """Show whether z holds each marker apart: what it says of the marker of a row, against the marker of a column.

    A frame stands where a row is strongest; on the diagonal everywhere is what SpliCER aims at.

    Parameters
    ----------
    adata
        Cells with ``uns[key]["diagonal"]``, as :func:`mxsplicer.tl.correlate` sets it.
    key
        Of which correlations.
    ax
        Where to draw; a new figure by default.
    """
    if "diagonal" not in adata.uns.get(key, {}):
        msg = (
            f"the cells have no uns[{key!r}]['diagonal']; run mxsplicer.tl.correlate on more cells, with their places."
        )
        raise InputError(msg)
    of_z = np.asarray(adata.uns[key]["diagonal"])
    order = alike_order(np.asarray(adata.uns[key]["among_markers"]))
    names = [str(name) for name in adata.var_names[order]]
    ax = axes_or_new(ax, (2.2 + 0.25 * len(names), 1.8 + 0.25 * len(names)))
    shown = of_z[np.ix_(order, order)]
    drawn = ax.pcolormesh(shown, cmap=colors.INTENSITY, vmin=0, vmax=1, rasterized=True)
    ax.scatter(shown.argmax(axis=1) + 0.5, np.arange(len(names)) + 0.5, marker="s", s=60, facecolor="none", color="w")
    ax.set_xticks(np.arange(len(names)) + 0.5, names, fontsize=8, rotation=90)
    ax.set_yticks(np.arange(len(names)) + 0.5, names, fontsize=8)
    ax.set_aspect("equal")
    ax.set_xlabel("marker as measured")
    ax.set_ylabel("what z says of marker")
    ax.invert_yaxis()
    ax.figure.colorbar(drawn, ax=ax, label="|r| in held-out cells", fraction=0.03, pad=0.02)
    return ax


def local_map(
    adata: AnnData,
    marker: str,
    feature: int,
    *,
    scale: str = "neighbourhood",
    use_rep: str = "X_splicer",
    slide: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Show where in the tissue a learned feature follows a marker, and where it runs against it.

    Parameters
    ----------
    adata
        Cells with their places. What :func:`mxsplicer.tl.local_correlation` computes is kept in ``obs``.
    marker, feature, scale, use_rep
        As there.
    slide
        Which slide, where there are several.
    ax
        Where to draw; a new figure by default.
    """
    name = local_correlation(adata, marker, feature, scale=scale, use_rep=use_rep)
    if adata.obs[name].isna().all():
        msg = (
            f"{marker!r} and feature {feature} have no local correlation: cells lie too far apart, or one is constant."
        )
        raise InputError(msg)
    ax = spatial(adata, color=name, slide=slide, legend=False, ax=ax)
    (discs,) = ax.collections
    values = np.abs(adata.obs[name].to_numpy())
    limit = 1.0 if scale != "cell" else float(np.nanpercentile(values, 99))
    discs.set(cmap=colormaps[colors.SIGNED].with_extremes(bad=colors.ABSENT), clim=(-limit, limit))
    ax.set_title(f"{marker} and feature {feature}, {scale}", fontsize=10)
    label = "share of r" if scale == "cell" else "local r"
    ax.figure.colorbar(discs, ax=ax, label=label, fraction=0.03, pad=0.01)
    return ax


def by_chance(adata: AnnData, key: str) -> np.ndarray | None:
    """Return which correlations are not told from chance (markers, features), or None where nobody asked."""
    prefix = next((key.removesuffix(end) for end in _OF_MATRIX if key.endswith(end)), key)
    base = f"{prefix}_correlation"
    if f"{base}_p" not in adata.varm:
        return None
    return np.asarray(np.asarray(adata.varm[f"{base}_p"]) > float(adata.uns[base]["p_5pct_fdr"]))


def order_of(r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the markers, alike ones side by side, and the features, each under the marker it follows most."""
    rows = alike_order(r)
    strongest = np.abs(r[rows]).argmax(axis=0)
    signed = r[rows][strongest, np.arange(r.shape[1])]
    return rows, np.lexsort((-signed, strongest))


def _matrix(adata: AnnData, key: str) -> np.ndarray:
    if key not in adata.varm:
        msg = f"the cells have no correlations {key!r}; run mxsplicer.tl.correlate first."
        raise InputError(msg)
    return np.asarray(adata.varm[key])
