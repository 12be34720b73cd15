"""Names of clusters in ``obs``: those that explanations suggest, until a person gives others."""

import logging
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from mxsplicer.tl.clustering import cluster_codes
from mxsplicer.tl.explanation import explanation_of

logger = logging.getLogger(__name__)


def name_clusters(adata: AnnData, *, groupby: str = "leiden", key_added: str | None = None) -> pd.Series:
    """Name each cluster by the markers that set it apart, as "CD8a+ CD3e+".

    The names are those of :func:`mxsplicer.tl.explain_clusters`, which runs if it has not explained these clusters.
    They list the markers that are raised (Cohen's d of log intensity at least 0.8) compared with all other cells, the
    most raised first, and the one that is raised most compared with the nearest sibling; if there are none, the markers
    that are as far below ("CD45-"). Three markers are listed, and more where clusters would share a name. The marker of
    an artefact is in brackets: "SMA+ (CD163 spill-over)". Nuclear stains and channels without an antibody
    (autofluorescence, blanks) are never used. The names describe intensities, not cell types: clusters are found from
    the embedding, and may differ in other properties than intensity.

    Parameters
    ----------
    adata
        Cells with clusters in ``obs`` and intensities in ``X``.
    groupby
        Column of the clusters.
    key_added
        Column of ``obs`` for the names; ``<groupby>_name`` by default.

    Returns
    -------
    The name of each cluster.

    Sets
    ----
    ``adata.obs[key_added]``
        Categorical, "3: CD8a+ CD3e+" for each cell of cluster 3.
    """
    names = explanation_of(adata, groupby)["name"].copy()
    names.index = names.index.astype(str)
    of_cluster, codes = cluster_codes(adata, groupby)
    categories = [f"{name}: {names[name]}" if name in names else name for name in of_cluster]
    codes = np.where(codes == len(of_cluster), -1, codes)
    adata.obs[key_added or f"{groupby}_name"] = pd.Categorical.from_codes(codes, categories=pd.Index(categories))
    return names


def names_of_clusters(adata: AnnData, *, groupby: str = "leiden") -> dict[str, str]:
    """Return the name of each cluster in ``obs["<groupby>_name"]``, "3: CD8a+ CD3e+"; empty without such a column.

    Where the names are those of earlier clusters, because the cells were clustered again by another program, names are
    suggested again and a warning is logged.
    """
    column = f"{groupby}_name"
    if column not in adata.obs:
        return {}
    clusters, names = adata.obs[groupby], adata.obs[column]
    if not names_fit(clusters, names):
        logger.warning(
            'obs["%s"] has the names of earlier clusters, not of those in obs["%s"]; names are suggested again',
            column,
            groupby,
        )
        suggested = explanation_of(adata, groupby)["name"]
        return {str(cluster): f"{cluster}: {name}" for cluster, name in suggested.items()}
    known = names.notna().to_numpy()
    first = names[known].groupby(clusters[known].astype(str).to_numpy(), observed=True).first()
    return {str(cluster): str(name) for cluster, name in first.items()}


def names_fit(clusters: Any, names: Any) -> bool:
    """Return whether names describe these clusters: each cluster has one name, which begins with no other number.

    Parameters
    ----------
    clusters, names
        Cluster and name (N,) of each cell; missing values are ignored.

    Examples
    --------
    >>> names_fit(["0", "1"], ["0: CD3e+", "1: CD20+"]), names_fit(["0", "1"], ["1: CD20+", "0: CD3e+"])
    (True, False)
    """
    both = pd.DataFrame({"cluster": np.asarray(clusters, dtype=object), "name": np.asarray(names, dtype=object)})
    pairs = both.dropna().drop_duplicates().astype(str)
    if pairs["cluster"].duplicated().any():
        return False
    known = set(pairs["cluster"])
    numbers = pairs["name"].str.partition(":")[0]
    is_number = numbers.isin(known) | numbers.str.fullmatch(r"\d+")
    return bool((~is_number | (numbers == pairs["cluster"])).all())
