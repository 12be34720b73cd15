"""Fingerprints of cells and of their clusters, by which results that were derived from others are recognised.

Cells are sorted, filtered and clustered again in scanpy, and written back under the same names. What was derived from
the earlier cells or clusters must not be joined with the new ones.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from mxsplicer.system.fingerprints import fingerprint_arrays


def fingerprint_rows(names: Iterable[Any]) -> str:
    """Return a fingerprint of cells that changes when one is added, removed or moved to another row."""
    return fingerprint_arrays([_encode(names)])


def fingerprint_clusters(clusters: "pd.Series[Any]") -> str:
    """Return a fingerprint of clusters that changes when a cell gets another one; the order of cells does not matter.

    Parameters
    ----------
    clusters
        The cluster of each cell, indexed by ``obs_names``. Cells without a cluster do not count.
    """
    known = clusters[clusters.notna().to_numpy()]
    order = np.argsort(known.index.to_numpy(dtype=str), kind="stable")
    return fingerprint_arrays([_encode(known.index[order]), b"\0", _encode(known.iloc[order])])


def fingerprint_each(codes: np.ndarray, n: int) -> list[str]:
    """Return a fingerprint of each of n clusters, which changes with the rows of its cells.

    Parameters
    ----------
    codes
        The cluster of each cell (N,); n or more for cells without one.
    """
    order = np.argsort(codes, kind="stable").astype(np.int64)
    ends = np.cumsum(np.bincount(codes, minlength=n)[:n])
    return [fingerprint_arrays([rows]) for rows in np.split(order[: ends[-1]], ends[:-1])]


def clusters_changed(adata: AnnData) -> bool:
    """Return whether clusters are others than :func:`mxsplicer.tl.cluster` found, by their fingerprint."""
    recorded = adata.uns.get("mxsplicer_cluster", {}).get("clusters")
    if recorded is None or "leiden" not in adata.obs:
        return False
    return str(recorded) != fingerprint_clusters(adata.obs["leiden"])


def _encode(values: Iterable[Any]) -> bytes:
    return "\n".join(map(str, values)).encode()
