"""Transfer of clusters to new cells by a vote of their nearest neighbours."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from mxsplicer.errors import InputError
from mxsplicer.tl.reading import read_rows, row_slices
from mxsplicer.tl.representations import representation

_N_COMPONENTS = 50
_MAX_CELLS = 50_000  # clustered cells among which neighbours are searched


class Transferred(NamedTuple):
    """Clusters that were transferred to new cells.

    Attributes
    ----------
    clusters
        (n,) names.
    confidence
        (n,) share of the neighbours in the cluster, weighted by 1 / distance; 1 is all.
    umap
        (n, 2) median of the UMAP positions of the neighbours; None if the clustered cells have no UMAP.
    """

    clusters: pd.Categorical
    confidence: np.ndarray
    umap: np.ndarray | None


def transfer_clusters(
    adata: AnnData,
    z: Any,
    *,
    use_rep: str = "X_splicer",
    key: str = "leiden",
    n_neighbors: int = 15,
    seed: int = 0,
) -> Transferred:
    """Return the clusters of new cells by a vote of their nearest clustered cells; nothing is clustered again.

    Distances are in the first 50 principal components of the representation of the clustered cells. A neighbour votes
    with the weight 1 / distance. From more than 50,000 clustered cells a random sample is used.

    Parameters
    ----------
    adata
        Clustered cells.
    z
        Representation (n, d) of the new cells by the same model, in memory or on disk.
    use_rep, key
        Keys of the representation and of the clusters in ``adata``.
    n_neighbors
        Number of neighbours that vote.
    seed
        Seed of the sample and of the principal components.

    Raises
    ------
    InputError
        If the clusters were not found, or the representations have different numbers of features.
    """
    clustered = representation(adata, use_rep)
    if key not in adata.obs:
        msg = f"clusters {key!r} were not found in obs."
        raise InputError(msg, "Run `mxsplicer cluster` first.")
    if clustered.shape[1] != z.shape[1]:
        msg = f"the new cells have {z.shape[1]} features, but the clustered cells have {clustered.shape[1]}."
        raise InputError(msg, "Embed them with the same model.")
    clusters = adata.obs[key].astype("category")
    names = clusters.cat.categories
    rows = np.flatnonzero(clusters.notna())
    if len(rows) > _MAX_CELLS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, _MAX_CELLS, replace=False))
    sample, codes = read_rows(clustered, rows), clusters.cat.codes.to_numpy()[rows]
    pca = PCA(min(_N_COMPONENTS, *sample.shape), svd_solver="randomized", random_state=seed).fit(sample)
    near = NearestNeighbors(n_neighbors=min(n_neighbors, len(rows)), algorithm="brute").fit(pca.transform(sample))
    old_umap = np.asarray(adata.obsm["X_umap"])[rows] if "X_umap" in adata.obsm else None
    found = np.empty(z.shape[0], np.int64)
    confidence = np.empty(z.shape[0], np.float32)
    umap = None if old_umap is None else np.empty((z.shape[0], 2), np.float32)
    for part in row_slices(z.shape[0]):
        distance, nearest = near.kneighbors(pca.transform(np.asarray(z[part], np.float32)))
        weight = 1 / np.maximum(distance, 1e-6)
        votes = np.zeros((len(nearest), len(names)))
        np.add.at(votes, (np.arange(len(nearest))[:, None], codes[nearest]), weight)
        found[part] = votes.argmax(axis=1)
        confidence[part] = votes.max(axis=1) / weight.sum(axis=1)
        if umap is not None and old_umap is not None:
            umap[part] = np.median(old_umap[nearest], axis=1)
    return Transferred(pd.Categorical.from_codes(found, categories=names), confidence, umap)
