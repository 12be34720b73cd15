"""Neighbourhood enrichment: which clusters are neighbours in the tissue more or less often than by chance."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from mxsplicer.errors import InputError
from mxsplicer.system.imports import import_extra
from mxsplicer.tl.clustering import cluster_codes
from mxsplicer.tl.fingerprints import fingerprint_clusters


def enrich_neighbourhoods(
    adata: AnnData, *, groupby: str = "leiden", n_neighbors: int = 10, n_permutations: int = 200, seed: int = 0
) -> pd.DataFrame:
    """Count how often cells of two clusters are neighbours, compared with the same tissue with permuted clusters.

    This is ``squidpy.gr.nhood_enrichment`` on the nearest cells of the same slide. Permuting clusters also breaks up
    regions of the tissue, so two clusters of the same region are enriched in each other's neighbourhood.

    Parameters
    ----------
    adata
        Cells with clusters in ``obs`` and ``obsm["spatial"]``.
    groupby
        Column of the clusters.
    n_neighbors
        Number of neighbours of each cell.
    n_permutations
        Number of permutations.
    seed
        Seed of the permutations.

    Returns
    -------
    Z-scores (clusters, clusters): the difference from the mean over permutations, in their standard deviations.

    Sets
    ----
    ``adata.uns["<groupby>_nhood_enrichment"]``
        ``zscore`` and ``count``, each (clusters, clusters), under the key that squidpy's figures read; and
        ``clusters``, a fingerprint of the clusters.

    Raises
    ------
    InputError
        If squidpy is not installed, or fewer than two clusters have cells.
    """
    sq = import_extra(
        "squidpy", "neighbourhood enrichment needs squidpy, which is not installed: run `pip install squidpy`."
    )
    names, codes = cluster_codes(adata, groupby)
    known = codes < len(names)
    present = np.unique(codes[known])
    if len(present) < 2:
        msg = f"{groupby!r} has {len(present)} clusters with cells; neighbourhood enrichment needs two or more."
        raise InputError(msg)
    labels = pd.Categorical.from_codes(
        np.searchsorted(present, codes[known]), categories=pd.Index([names[code] for code in present])
    )
    # Squidpy copies the AnnData, so pass only the columns that it reads.
    obs = pd.DataFrame({groupby: labels}, index=pd.RangeIndex(int(known.sum())).astype(str))
    if "slide" in adata.obs:
        obs["slide"] = pd.Categorical(adata.obs["slide"].astype(str).to_numpy()[known])
    cells = AnnData(obs=obs, obsm={"spatial": np.asarray(adata.obsm["spatial"])[known]})
    library_key = "slide" if "slide" in obs and obs["slide"].nunique() > 1 else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # FutureWarnings of squidpy and its dependencies
        sq.gr.spatial_neighbors(cells, n_neighs=n_neighbors, coord_type="generic", library_key=library_key)
        sq.gr.nhood_enrichment(
            cells, cluster_key=groupby, n_perms=n_permutations, seed=seed, show_progress_bar=False, n_jobs=1
        )
    found = cells.uns[f"{groupby}_nhood_enrichment"]
    kept: dict[str, Any] = {key: np.asarray(found[key], dtype=np.float64) for key in ("zscore", "count")}
    kept["clusters"] = fingerprint_clusters(adata.obs[groupby])
    adata.uns[f"{groupby}_nhood_enrichment"] = kept
    clusters = pd.Index(labels.categories)
    return pd.DataFrame(kept["zscore"], index=clusters, columns=clusters)


def enrichment_is_current(adata: AnnData, groupby: str = "leiden") -> bool:
    """Return whether the stored enrichment is derived from the present cells and clusters, by their fingerprints.

    One that another program computed has no fingerprint; it counts as current if it has as many clusters.
    """
    stored = adata.uns[f"{groupby}_nhood_enrichment"]
    if "clusters" in stored:
        return str(stored["clusters"]) == fingerprint_clusters(adata.obs[groupby])
    return bool(len(stored["zscore"]) == adata.obs[groupby].nunique())
