"""Heatmaps of clusters: their marker profiles, and which clusters are neighbours in the tissue."""

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import SymLogNorm

from mxsplicer.errors import InputError
from mxsplicer.pl import colors
from mxsplicer.pl.axes import axes_or_new, plain_number
from mxsplicer.pl.heatmap_order import order_by_similarity
from mxsplicer.tl.clustering import cluster_profiles
from mxsplicer.tl.enrichment import enrichment_is_current


def markers_by_cluster(adata: AnnData, *, groupby: str = "leiden", ax: Axes | None = None) -> Axes:
    """Show a heatmap of how bright each marker is in each cluster.

    The colour is the mean of log1p intensity in the cluster, as a z-score over all cells.

    Parameters
    ----------
    adata
        Cells with intensities in ``X``.
    groupby
        Column of ``obs`` with the clusters.
    ax
        Where to draw; a new figure by default.
    """
    z = cluster_profiles(adata, groupby=groupby)
    rows, columns = order_by_similarity(z.to_numpy()), order_by_similarity(z.to_numpy().T)
    z = z.iloc[rows, columns]
    counts = adata.obs[groupby].astype(str).value_counts()
    ax = axes_or_new(ax, (2 + 0.25 * z.shape[1], 1.5 + 0.22 * len(z)))
    drawn = ax.pcolormesh(z.to_numpy(), cmap=colors.SIGNED, vmin=-2, vmax=2, rasterized=True)
    ax.set_yticks(np.arange(len(z)) + 0.5, [f"{name}  ({counts[name]:,})" for name in z.index], fontsize=8)
    ax.set_xticks(np.arange(z.shape[1]) + 0.5, list(z.columns), fontsize=8, rotation=90)
    ax.set_ylabel("cluster (cells)")
    ax.invert_yaxis()
    ax.figure.colorbar(drawn, ax=ax, label="z-score", fraction=0.025, pad=0.01, extend="both")
    return ax


def neighbourhoods(adata: AnnData, *, groupby: str = "leiden", ax: Axes | None = None) -> Axes:
    """Show a heatmap of which clusters are neighbours in the tissue more (red) or less (blue) often than by chance.

    Parameters
    ----------
    adata
        Cells after :func:`mxsplicer.tl.enrich_neighbourhoods`.
    groupby
        Column of ``obs`` with the clusters.
    ax
        Where to draw; a new figure by default.
    """
    key = f"{groupby}_nhood_enrichment"
    if key not in adata.uns:
        msg = f"uns[{key!r}] not found: the neighbourhoods of {groupby!r} were not counted."
        raise InputError(msg, "Run `mxsplicer.tl.enrich_neighbourhoods` first.")
    if not enrichment_is_current(adata, groupby):
        msg = f"uns[{key!r}] is of other cells or clusters than those in obs[{groupby!r}] now."
        raise InputError(msg, "Run `mxsplicer.tl.enrich_neighbourhoods` again.")
    z = np.nan_to_num(np.asarray(adata.uns[key]["zscore"], dtype=np.float64))
    clusters = adata.obs[groupby].astype("category").cat.remove_unused_categories()
    names = [str(name) for name in clusters.cat.categories]
    order = order_by_similarity(z)
    ax = axes_or_new(ax, (1.6 + 0.24 * len(z), 1.2 + 0.22 * len(z)))
    most = float(np.abs(z).max(initial=1))
    drawn = ax.pcolormesh(
        z[np.ix_(order, order)], cmap=colors.SIGNED, norm=SymLogNorm(2, vmin=-most, vmax=most), rasterized=True
    )
    labels = [names[code] for code in order]
    ax.set_xticks(np.arange(len(z)) + 0.5, labels, fontsize=8, rotation=90)
    ax.set_yticks(np.arange(len(z)) + 0.5, labels, fontsize=8)
    ax.invert_yaxis()
    ax.figure.colorbar(drawn, ax=ax, label="z-score", fraction=0.04, pad=0.02, format=plain_number)
    return ax
