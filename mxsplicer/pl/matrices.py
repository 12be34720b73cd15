"""Markers against clusters, and clusters against clusters."""

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import SymLogNorm
from scipy.cluster.hierarchy import leaves_list, linkage

from mxsplicer.errors import InputError
from mxsplicer.pl import colors
from mxsplicer.pl.axes import axes_or_new, plain_number
from mxsplicer.tl.naming import cluster_profiles


def markers_by_cluster(adata: AnnData, *, groupby: str = "leiden", ax: Axes | None = None) -> Axes:
    """Show which markers are bright in which cluster.

    A colour is the cluster's mean of log1p intensity, as standard deviations over all cells away from their mean.

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
    rows, columns = alike_order(z.to_numpy()), alike_order(z.to_numpy().T)
    z = z.iloc[rows, columns]
    counts = adata.obs[groupby].astype(str).value_counts()
    ax = axes_or_new(ax, (2 + 0.25 * z.shape[1], 1.5 + 0.22 * len(z)))
    drawn = ax.pcolormesh(z.to_numpy(), cmap=colors.SIGNED, vmin=-2, vmax=2, rasterized=True)
    ax.set_yticks(np.arange(len(z)) + 0.5, [f"{name}  ({counts[name]:,})" for name in z.index], fontsize=8)
    ax.set_xticks(np.arange(z.shape[1]) + 0.5, list(z.columns), fontsize=8, rotation=90)
    ax.set_ylabel("cluster (cells)")
    ax.invert_yaxis()
    ax.figure.colorbar(drawn, ax=ax, label="sd from mean", fraction=0.025, pad=0.01, extend="both")
    return ax


def neighbourhoods(adata: AnnData, *, groupby: str = "leiden", ax: Axes | None = None) -> Axes:
    """Show which clusters lie beside which in the tissue, more (red) or less (blue) often than with shuffled labels.

    Parameters
    ----------
    adata
        Cells that :func:`mxsplicer.tl.enrich_neighbourhoods` has gone over.
    groupby
        Column of ``obs`` with the clusters.
    ax
        Where to draw; a new figure by default.
    """
    key = f"{groupby}_nhood_enrichment"
    if key not in adata.uns:
        msg = f"the neighbourhoods of {groupby!r} are not counted; run mxsplicer.tl.enrich_neighbourhoods first."
        raise InputError(msg)
    z = np.nan_to_num(np.asarray(adata.uns[key]["zscore"], dtype=np.float64))
    of_cell = adata.obs[groupby].astype("category").cat.remove_unused_categories()
    names = [str(name) for name in of_cell.cat.categories]
    order = alike_order(z)
    ax = axes_or_new(ax, (1.6 + 0.24 * len(z), 1.2 + 0.22 * len(z)))
    most = float(np.abs(z).max(initial=1))
    drawn = ax.pcolormesh(
        z[np.ix_(order, order)], cmap=colors.SIGNED, norm=SymLogNorm(2, vmin=-most, vmax=most), rasterized=True
    )
    labels = [names[place] for place in order]
    ax.set_xticks(np.arange(len(z)) + 0.5, labels, fontsize=8, rotation=90)
    ax.set_yticks(np.arange(len(z)) + 0.5, labels, fontsize=8)
    ax.invert_yaxis()
    ax.figure.colorbar(drawn, ax=ax, label="sd from shuffled", fraction=0.04, pad=0.02, format=plain_number)
    return ax


def alike_order(rows: np.ndarray) -> np.ndarray:
    """Return an order in which rows that are alike are neighbours."""
    if len(rows) < 3:
        return np.arange(len(rows))
    return np.asarray(leaves_list(linkage(rows, method="average", optimal_ordering=len(rows) < 200)))
