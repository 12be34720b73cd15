"""Which clusters lie beside which in the tissue, more or less often than by chance: through squidpy, where it is."""

import warnings

import numpy as np
import pandas as pd
from anndata import AnnData

from mxsplicer.errors import InputError
from mxsplicer.system.imports import import_extra
from mxsplicer.tl.naming import cluster_codes


def enrich_neighbourhoods(
    adata: AnnData, *, groupby: str = "leiden", n_neighbors: int = 10, n_permutations: int = 200, seed: int = 0
) -> pd.DataFrame:
    """Count how often cells of two clusters are neighbours in the tissue, against the same tissue with shuffled labels.

    This is ``squidpy.gr.nhood_enrichment`` over the nearest cells on the same slide. Neighbours are found by place
    alone; shuffling breaks up regions too, so that two clusters of one region come out as enriched beside each other.

    Parameters
    ----------
    adata
        Cells with clusters in ``obs`` and ``obsm["spatial"]``.
    groupby
        Column of the clusters.
    n_neighbors
        Neighbours of a cell.
    n_permutations
        Shufflings.
    seed
        Of the shufflings.

    Returns
    -------
    Clusters x clusters: standard deviations over the shufflings from their mean.

    Sets
    ----
    ``adata.uns["<groupby>_nhood_enrichment"]``
        ``zscore`` and ``count``, each (clusters, clusters), where squidpy's figures look for them.

    Raises
    ------
    InputError
        If squidpy is not installed, or there are fewer than two clusters.
    """
    sq = import_extra(
        "squidpy", "neighbourhoods are counted by squidpy, which is not installed; run `pip install squidpy`."
    )
    names, codes = cluster_codes(adata, groupby)
    known = codes < len(names)
    present = np.unique(codes[known])
    if len(present) < 2:
        msg = f"{groupby!r} holds {len(present)} clusters; neighbourhoods are counted between two or more."
        raise InputError(msg)
    labels = pd.Categorical.from_codes(
        np.searchsorted(present, codes[known]), categories=pd.Index([names[code] for code in present])
    )
    # Squidpy copies what it is given, so it gets no more than it needs.
    obs = pd.DataFrame({groupby: labels}, index=pd.RangeIndex(int(known.sum())).astype(str))
    if "slide" in adata.obs:
        obs["slide"] = pd.Categorical(adata.obs["slide"].astype(str).to_numpy()[known])
    cells = AnnData(obs=obs, obsm={"spatial": np.asarray(adata.obsm["spatial"])[known]})
    library_key = "slide" if "slide" in obs and obs["slide"].nunique() > 1 else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # squidpy and its parts tell of their own future
        sq.gr.spatial_neighbors(cells, n_neighs=n_neighbors, coord_type="generic", library_key=library_key)
        sq.gr.nhood_enrichment(
            cells, cluster_key=groupby, n_perms=n_permutations, seed=seed, show_progress_bar=False, n_jobs=1
        )
    found = cells.uns[f"{groupby}_nhood_enrichment"]
    kept = {key: np.asarray(found[key], dtype=np.float64) for key in ("zscore", "count")}
    adata.uns[f"{groupby}_nhood_enrichment"] = kept
    clusters = pd.Index(labels.categories)
    return pd.DataFrame(kept["zscore"], index=clusters, columns=clusters)
