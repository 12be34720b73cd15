"""Clusters of cells handed on to new cells, by the vote of those that they resemble most."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from mxsplicer.errors import InputError
from mxsplicer.tl.rows import representation, slices, take

_COMPONENTS = 50
_MOST_CELLS = 50_000  # that are asked


class Transferred(NamedTuple):
    """Clusters of new cells.

    Attributes
    ----------
    clusters
        (n,) names.
    confidence
        (n,) share of the neighbours that are in the cluster, weighted by how near they are; 1 is all.
    umap
        (n, 2) places on the map, in the middle of the neighbours'; None where the cells that were asked have none.
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
    """Return clusters of new cells by those of the cells that they resemble most; nothing is clustered anew.

    Resemblance is distance in the first 50 principal components of the clustered cells' representation. A cell votes
    with the weight 1 / distance. Of very many cells 50,000 are asked, drawn at random.

    Parameters
    ----------
    adata
        Clustered cells.
    z
        Representation (n, d) of the new ones by the same model, in memory or on disk.
    use_rep, key
        Where the representation and the clusters of ``adata`` are.
    n_neighbors
        Cells that vote.
    seed
        Of the draw and of the components.

    Raises
    ------
    InputError
        If ``adata`` has no such clusters, or the representations differ in width.
    """
    old = representation(adata, use_rep)
    if key not in adata.obs:
        msg = f"the cells have no clusters {key!r} to hand on. Run `mxsplicer cluster` on them first."
        raise InputError(msg)
    if old.shape[1] != z.shape[1]:
        msg = f"the new cells have {z.shape[1]} features and the old ones {old.shape[1]}: embed them by the same model."
        raise InputError(msg)
    clusters = adata.obs[key].astype("category")
    names = clusters.cat.categories
    rows = np.flatnonzero(clusters.notna())
    if len(rows) > _MOST_CELLS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, _MOST_CELLS, replace=False))
    asked, codes = take(old, rows), clusters.cat.codes.to_numpy()[rows]
    pca = PCA(min(_COMPONENTS, *asked.shape), svd_solver="randomized", random_state=seed).fit(asked)
    near = NearestNeighbors(n_neighbors=min(n_neighbors, len(rows)), algorithm="brute").fit(pca.transform(asked))
    places = np.asarray(adata.obsm["X_umap"])[rows] if "X_umap" in adata.obsm else None
    found = np.empty(z.shape[0], np.int64)
    confidence = np.empty(z.shape[0], np.float32)
    umap = None if places is None else np.empty((z.shape[0], 2), np.float32)
    for part in slices(z.shape[0]):
        distance, nearest = near.kneighbors(pca.transform(np.asarray(z[part], np.float32)))
        weight = 1 / np.maximum(distance, 1e-6)
        votes = np.zeros((len(nearest), len(names)))
        np.add.at(votes, (np.arange(len(nearest))[:, None], codes[nearest]), weight)
        found[part] = votes.argmax(axis=1)
        confidence[part] = votes.max(axis=1) / weight.sum(axis=1)
        if umap is not None and places is not None:
            umap[part] = np.median(places[nearest], axis=1)
    return Transferred(pd.Categorical.from_codes(found, categories=names), confidence, umap)
