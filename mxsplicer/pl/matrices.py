"""Markers against clusters, and markers against learned features."""

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from scipy.cluster.hierarchy import leaves_list, linkage

from mxsplicer.errors import InputError
from mxsplicer.pl import colors
from mxsplicer.pl.axes import axes_or_new


def correlation(adata: AnnData, *, key: str = "splicer_correlation", ax: Axes | None = None) -> Axes:
    """Show how each learned feature follows each marker, -1 to 1.

    Markers with alike rows lie side by side; each feature stands under the marker it follows most.

    Parameters
    ----------
    adata
        Cells with ``varm[key]`` (markers, features), as :func:`mxsplicer.tl.correlate` sets it.
    key
        Which correlations.
    ax
        Where to draw; a new figure by default.
    """
    if key not in adata.varm:
        msg = f"the cells have no correlations {key!r}; run mxsplicer.tl.correlate first."
        raise InputError(msg)
    r = np.asarray(adata.varm[key])
    rows = _alike(r)
    strongest = np.abs(r[rows]).argmax(axis=0)
    signed = r[rows][strongest, np.arange(r.shape[1])]
    columns = np.lexsort((-signed, strongest))
    ax = axes_or_new(ax, (10, 1.2 + 0.22 * len(r)))
    drawn = ax.pcolormesh(r[rows][:, columns], cmap=colors.SIGNED, vmin=-1, vmax=1, rasterized=True)
    ax.set_yticks(np.arange(len(r)) + 0.5, [str(name) for name in adata.var_names[rows]], fontsize=8)
    ax.set_xticks([])
    ax.set_xlabel(f"{r.shape[1]} learned features, each under the marker it follows most")
    ax.invert_yaxis()
    ax.figure.colorbar(drawn, ax=ax, label="Pearson's r", fraction=0.025, pad=0.01)
    return ax


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
    rows, columns = _alike(z.to_numpy()), _alike(z.to_numpy().T)
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


def cluster_profiles(adata: AnnData, *, groupby: str = "leiden") -> pd.DataFrame:
    """Return each cluster's mean of log1p intensity per marker, in standard deviations from the mean of all cells."""
    if groupby not in adata.obs:
        msg = f"the cells have no clusters {groupby!r}; run mxsplicer.tl.cluster first."
        raise InputError(msg)
    intensity = adata.X.toarray() if hasattr(adata.X, "toarray") else np.asarray(adata.X)
    logged = np.log1p(np.maximum(intensity, 0), dtype=np.float32)
    sd = logged.std(axis=0)
    logged = (logged - logged.mean(axis=0)) / np.where(sd > 0, sd, 1)
    table = pd.DataFrame(logged, columns=adata.var_names.astype(str))
    return table.groupby(adata.obs[groupby].astype(str).to_numpy()).mean()


def _alike(rows: np.ndarray) -> np.ndarray:
    if len(rows) < 3:
        return np.arange(len(rows))
    return np.asarray(leaves_list(linkage(rows, method="average", optimal_ordering=len(rows) < 200)))
