"""Leiden clusters and UMAP of the learned representation."""

import logging
import warnings
from typing import Any, Literal

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from mxsplicer.errors import InputError
from mxsplicer.system.imports import import_extra
from mxsplicer.system.progress import track
from mxsplicer.tl.defaults import MAX_CLUSTERED_CELLS, N_NEIGHBORS, RESOLUTION
from mxsplicer.tl.provenance import fingerprint_clusters
from mxsplicer.tl.representations import representation
from mxsplicer.tl.rows import slices, take

logger = logging.getLogger(__name__)

_N_COMPONENTS = 50
_MIN_CELLS = 3
_N_VOTES = 5  # sampled cells that vote on the cluster of each other cell


def cluster(
    adata: AnnData,
    *,
    use_rep: str = "X_splicer",
    resolution: float = RESOLUTION,
    n_neighbors: int = N_NEIGHBORS,
    max_cells: int = MAX_CLUSTERED_CELLS,
    backend: Literal["scanpy", "rapids"] = "scanpy",
    seed: int = 0,
) -> None:
    """Cluster cells by the Leiden algorithm on a representation, and compute their UMAP.

    This is ``scanpy.pp.neighbors(adata, use_rep=use_rep)`` with exact neighbours, ``scanpy.tl.leiden`` and
    ``scanpy.tl.umap``. Above ``max_cells``, a random sample of cells is clustered. Every other cell then gets the
    cluster and the UMAP position of its five nearest sampled cells in the first 50 principal components. Only the
    sample is read into memory; the representation may lie on disk.

    Parameters
    ----------
    adata
        Cells with a representation in ``obsm``.
    use_rep
        Key of the representation (cells, features).
    resolution
        Higher gives more clusters.
    n_neighbors
        Number of neighbours of each cell in the graph.
    max_cells
        Largest number of cells that are clustered themselves.
    backend
        ``"rapids"`` uses rapids-singlecell on an NVIDIA GPU, if it is installed. Its implementations of Leiden and UMAP
        give other clusters. Tested with a stand-in for its functions, not on a GPU.
    seed
        Seed of the sample, the neighbours, Leiden and UMAP.

    Sets
    ----
    ``adata.obs["leiden"]``
        Cluster of each cell, categorical; "0" is the largest.
    ``adata.obsm["X_umap"]``
        UMAP (cells, 2), float32.
    ``adata.uns["mxsplicer_cluster"]``
        The settings; ``n_clustered``, the number of cells that were clustered themselves; and ``clusters``, the
        fingerprint by which clusters that another program found are recognised.
    """
    z = representation(adata, use_rep)
    if backend not in ("scanpy", "rapids"):
        msg = f"backend {backend!r} is unknown; the backends are scanpy and rapids."
        raise InputError(msg)
    if adata.n_obs < _MIN_CELLS:
        msg = f"{adata.n_obs} cells cannot be clustered; at least {_MIN_CELLS} are needed."
        raise InputError(msg)
    sample = np.arange(adata.n_obs)
    if adata.n_obs > max_cells:
        sample = np.sort(np.random.default_rng(seed).choice(adata.n_obs, max_cells, replace=False))
    of_sample = take(z, sample)
    cluster_sample = _cluster_sample if backend == "scanpy" else _cluster_on_gpu
    leiden, umap = cluster_sample(of_sample, resolution, n_neighbors, seed)
    if len(sample) < adata.n_obs:
        leiden, umap = _assign_others(z, sample, of_sample, leiden, umap, seed=seed)
    by_size = np.argsort(-np.bincount(leiden), kind="stable")
    leiden = np.argsort(by_size)[leiden]
    names = [str(code) for code in range(leiden.max() + 1)]
    adata.obs["leiden"] = pd.Categorical.from_codes(leiden, categories=pd.Index(names))
    adata.obsm["X_umap"] = umap
    adata.uns["mxsplicer_cluster"] = {
        "use_rep": use_rep,
        "resolution": float(resolution),
        "n_neighbors": int(n_neighbors),
        "backend": backend,
        "seed": int(seed),
        "n_clustered": len(sample),
        "clusters": fingerprint_clusters(adata.obs["leiden"]),
    }
    logger.info("%d clusters of %d cells by %s", len(names), adata.n_obs, use_rep)


def _cluster_sample(z: np.ndarray, resolution: float, n_neighbors: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # FutureWarnings of scanpy, umap and numba
        cells = AnnData(obs=pd.DataFrame(index=[str(i) for i in range(len(z))]), obsm={"z": z})
        # Exact neighbours: for up to max_cells they take less time than compiling pynndescent, and need no seed.
        k = min(n_neighbors, len(z) - 1)
        sc.pp.neighbors(cells, n_neighbors=k, use_rep="z", transformer="sklearn", random_state=seed)
        sc.tl.leiden(cells, resolution=resolution, flavor="igraph", n_iterations=2, directed=False, random_state=seed)
        init = "spectral" if len(z) > 50 else "random"  # spectral initialisation needs more cells than eigenvectors
        sc.tl.umap(cells, init_pos=init, random_state=seed)
    return cells.obs["leiden"].astype(int).to_numpy(), np.asarray(cells.obsm["X_umap"], dtype=np.float32)


def _cluster_on_gpu(z: np.ndarray, resolution: float, n_neighbors: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rsc = import_extra(
        "rapids_singlecell",
        "backend 'rapids' needs rapids-singlecell and an NVIDIA GPU. Leave out `backend` to cluster with scanpy.",
    )
    cells = AnnData(obs=pd.DataFrame(index=[str(i) for i in range(len(z))]), obsm={"z": z})
    rsc.pp.neighbors(cells, n_neighbors=min(n_neighbors, len(z) - 1), use_rep="z", algorithm="brute", random_state=seed)
    rsc.tl.leiden(cells, resolution=resolution, random_state=seed)
    rsc.tl.umap(cells, random_state=seed)
    return cells.obs["leiden"].astype(int).to_numpy(), np.asarray(cells.obsm["X_umap"], dtype=np.float32)


def _assign_others(
    z: Any, sample: np.ndarray, of_sample: np.ndarray, leiden: np.ndarray, umap: np.ndarray, *, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return clusters and UMAP of all cells, from those of the sample."""
    n = z.shape[0]
    # The leading components find the same neighbours at a tenth of the cost.
    pca = PCA(min(_N_COMPONENTS, *of_sample.shape), svd_solver="randomized", random_state=seed).fit(of_sample)
    near = NearestNeighbors(n_neighbors=_N_VOTES, algorithm="brute").fit(pca.transform(of_sample))
    all_leiden = np.empty(n, dtype=leiden.dtype)
    all_umap = np.empty((n, 2), dtype=np.float32)
    for part in track(slices(n), "Assigning the other cells to clusters"):
        rows = np.asarray(z[part], dtype=np.float32)
        nearest = near.kneighbors(pca.transform(rows), return_distance=False)  # (rows, 5) indices into the sample
        votes = np.zeros((len(rows), leiden.max() + 1), dtype=np.int8)
        for column in nearest.T:
            votes[np.arange(len(rows)), leiden[column]] += 1
        all_leiden[part] = votes.argmax(axis=1)
        all_umap[part] = np.median(umap[nearest], axis=1)
    all_leiden[sample], all_umap[sample] = leiden, umap
    return all_leiden, all_umap
