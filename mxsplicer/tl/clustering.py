"""Clusters of cells: Leiden and UMAP, and the marker profile of each cluster."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from threading import Thread
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from mxsplicer.errors import InputError
from mxsplicer.system.imports import import_extra
from mxsplicer.system.progress import track
from mxsplicer.tl.defaults import MAX_CLUSTERED_CELLS, N_NEIGHBORS, RESOLUTION
from mxsplicer.tl.fingerprints import fingerprint_clusters
from mxsplicer.tl.reading import read_rows, row_slices
from mxsplicer.tl.representations import representation, warn_of_several_models

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
    warn_of_several_models(adata, use_rep)
    if backend not in ("scanpy", "rapids"):
        msg = f"backend {backend!r} is unknown; the backends are scanpy and rapids."
        raise InputError(msg)
    if adata.n_obs < _MIN_CELLS:
        msg = f"{adata.n_obs} cells cannot be clustered; at least {_MIN_CELLS} are needed."
        raise InputError(msg)
    sample = np.arange(adata.n_obs)
    if adata.n_obs > max_cells:
        sample = np.sort(np.random.default_rng(seed).choice(adata.n_obs, max_cells, replace=False))
    of_sample = read_rows(z, sample)
    cluster_sample = _cluster_sample if backend == "scanpy" else _cluster_on_gpu
    leiden, umap = cluster_sample(of_sample, resolution, n_neighbors, seed)
    if len(sample) < adata.n_obs:
        leiden, umap = _assign_others(z, sample, of_sample, leiden, umap, seed=seed)
    by_size = np.argsort(-np.bincount(leiden), kind="stable")
    leiden = np.argsort(by_size)[leiden]
    names = [str(code) for code in range(leiden.max() + 1)]
    adata.obs["leiden"] = pd.Categorical.from_codes(leiden, categories=pd.Index(names))
    adata.obsm["X_umap"] = umap
    adata.uns.pop("mxsplicer_clusters", None)  # explanations of the earlier clusters
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


@cache
def compile_early() -> Thread:
    """Return a thread in which umap is loaded and compiled, so that :func:`cluster` need not do it.

    It takes 13 s of processor time, while cells are embedded; :func:`cluster` waits for the rest. Meanwhile numba
    changes filters of warnings and, briefly, ``sys.stdout`` of the whole process: only for a process that is ours.
    """
    import scanpy  # noqa: F401 -- here, because two threads should not load the same modules at a time
    import sklearn.neighbors  # noqa: F401

    thread = Thread(target=_compile, name="compile umap", daemon=True)
    thread.start()
    return thread


def _compile() -> None:
    with suppress(Exception):  # cluster raises it again
        neighbour_graph(np.random.default_rng(0).normal(size=(30, 2)), N_NEIGHBORS, 0)


def _cluster_sample(z: np.ndarray, resolution: float, n_neighbors: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    import scanpy as sc  # with scikit-learn two seconds to load

    if compile_early.cache_info().currsize:
        compile_early().join()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # FutureWarnings of scanpy, umap and numba
        cells = neighbour_graph(z, n_neighbors, seed)
        leiden = leiden_codes(cells, resolution, seed)
        logger.info("%d clusters are found; the UMAP follows", leiden.max() + 1)
        init = "spectral" if len(z) > 50 else "random"  # spectral initialisation needs more cells than eigenvectors
        sc.tl.umap(cells, init_pos=init, random_state=seed)
    return leiden, np.asarray(cells.obsm["X_umap"], dtype=np.float32)


def neighbour_graph(z: np.ndarray, n_neighbors: int, seed: int) -> AnnData:
    """Return cells with features z (n, d) and the graph of their neighbours, in which Leiden finds clusters."""
    import scanpy as sc

    cells = AnnData(obs=pd.DataFrame(index=[str(i) for i in range(len(z))]), obsm={"z": z})
    # Exact neighbours: for up to max_cells they take less time than compiling pynndescent, and need no seed.
    k = min(n_neighbors, len(z) - 1)
    sc.pp.neighbors(cells, n_neighbors=k, use_rep="z", transformer="sklearn", random_state=seed)
    return cells


def leiden_codes(cells: AnnData, resolution: float, seed: int) -> np.ndarray:
    """Return the cluster (n,) of each cell of a graph of neighbours, by Leiden."""
    import scanpy as sc

    sc.tl.leiden(cells, resolution=resolution, flavor="igraph", n_iterations=2, directed=False, random_state=seed)
    return np.asarray(cells.obs["leiden"].astype(int))


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
    """Return clusters and UMAP of all cells, from those of a sample."""
    from sklearn.decomposition import PCA
    from sklearn.neighbors import NearestNeighbors

    n = z.shape[0]
    # The leading components find the same neighbours at a tenth of the cost.
    pca = PCA(min(_N_COMPONENTS, *of_sample.shape), svd_solver="randomized", random_state=seed).fit(of_sample)
    near = NearestNeighbors(n_neighbors=_N_VOTES, algorithm="brute").fit(pca.transform(of_sample))
    all_leiden = np.empty(n, dtype=leiden.dtype)
    all_umap = np.empty((n, 2), dtype=np.float32)
    for part in track(row_slices(n), "Assigning the other cells to clusters"):
        rows = np.asarray(z[part], dtype=np.float32)
        nearest = near.kneighbors(pca.transform(rows), return_distance=False)  # (rows, 5) indices into the sample
        votes = np.zeros((len(rows), leiden.max() + 1), dtype=np.int8)
        for column in nearest.T:
            votes[np.arange(len(rows)), leiden[column]] += 1
        all_leiden[part] = votes.argmax(axis=1)
        all_umap[part] = np.median(umap[nearest], axis=1)
    all_leiden[sample], all_umap[sample] = leiden, umap
    return all_leiden, all_umap


def cluster_profiles(adata: AnnData, *, groupby: str = "leiden") -> pd.DataFrame:
    """Return the standardised mean intensity of each marker in each cluster.

    Parameters
    ----------
    adata
        Cells with intensities in ``X``, which are read in slices.
    groupby
        Column of ``obs`` with the clusters. Cells without a cluster count only in the mean of all cells.

    Returns
    -------
    Z-scores (clusters, markers): the mean of log1p intensity in the cluster, in standard deviations from the mean of
    all cells. A marker that is constant over all cells has 0.
    """
    names, codes = cluster_codes(adata, groupby)
    sums = np.zeros((len(names) + 1, adata.n_vars))
    squares = np.zeros(adata.n_vars)
    counts = np.bincount(codes, minlength=len(names) + 1)
    for part, logged in _logged(adata):
        for code in np.unique(codes[part]):
            sums[code] += logged[codes[part] == code].sum(axis=0, dtype=np.float64)
        squares += np.einsum("ij,ij->j", logged, logged, dtype=np.float64)
    mean = sums.sum(axis=0) / max(adata.n_obs, 1)
    variance = np.maximum(squares / max(adata.n_obs, 1) - mean**2, 0)
    sd = np.sqrt(np.where(variance > 1e-9 * np.maximum(mean**2, 1e-12), variance, np.inf))
    present = counts[:-1] > 0
    table = pd.DataFrame(
        (sums[:-1][present] / counts[:-1][present, None] - mean) / sd,
        index=pd.Index(names)[present],
        columns=adata.var_names.astype(str),
    )
    return table.loc[sorted(table.index, key=lambda name: (len(name), name) if name.isdigit() else (99, name))]


def cluster_codes(adata: AnnData, groupby: str) -> tuple[list[str], np.ndarray]:
    """Return the names of the clusters and the code of each cell; cells without a cluster get the next code."""
    if groupby not in adata.obs:
        msg = f"clusters {groupby!r} were not found in obs."
        raise InputError(msg, "Run mxsplicer.tl.cluster first.")
    of_cell = adata.obs[groupby].astype("category").cat
    codes = of_cell.codes.to_numpy().astype(np.int64)
    return [str(name) for name in of_cell.categories], np.where(codes < 0, len(of_cell.categories), codes)


def _logged(adata: AnnData) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield slices of cells and log1p of their intensities, for the profiles of clusters."""
    for part in row_slices(adata.n_obs):
        rows = adata.X[part]
        rows = rows.toarray() if hasattr(rows, "toarray") else np.asarray(rows)
        yield part, np.log1p(np.maximum(rows, 0), dtype=np.float32)
