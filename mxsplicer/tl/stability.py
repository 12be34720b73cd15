"""How stable clusters are: whether Leiden finds them again in parts of the cells, with other seeds."""

import warnings

import numpy as np

from mxsplicer.tl.clustering import leiden_codes, neighbour_graph

_N_RUNS = 3
SHARE = 0.8  # of the cells in each run
_MAX_CELLS, _MIN_CELLS = 10_000, 40  # in all; of one cluster, to be tested
_TIMES = (0.7, 1.0, 1.5)  # the resolution: fewer cells give fewer clusters


def jaccard_of_clusters(
    z: np.ndarray, codes: np.ndarray, *, resolution: float, n_neighbors: int, seed: int = 0
) -> np.ndarray:
    """Return how well each cluster is found again, 0 to 1, as the Jaccard index with the cluster most similar to it.

    Each run clusters a random 80 % of the cells by Leiden with another seed, at 0.7, 1 and 1.5 times the resolution, of
    which the best counts for each cluster. The mean over the runs is returned. Hennig (2007) calls a cluster dissolved
    if it is below 0.5.

    Parameters
    ----------
    z
        The representation (N, d) of a random sample of the clustered cells.
    codes
        The cluster of each, 0, 1, ...
    resolution, n_neighbors
        As of the clusters.
    seed
        Seed of the runs.

    Returns
    -------
    One number per code; NaN for clusters with fewer than 40 cells in the sample.
    """
    n = int(codes.max(initial=-1)) + 1
    found = np.zeros((_N_RUNS, n))
    for run in range(_N_RUNS):
        rng = np.random.default_rng([seed, run])
        some = np.sort(rng.choice(len(z), round(SHARE * len(z)), replace=False))
        again = _leiden(z[some], resolution, n_neighbors, seed + run + 1)
        found[run] = np.max([_best_jaccard(codes[some], one, n) for one in again], axis=0)
    return np.where(np.bincount(codes, minlength=n) >= _MIN_CELLS, found.mean(axis=0), np.nan)


def sampled_rows(rows: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return at most 10,000 of some rows, ascending, drawn at random."""
    if len(rows) <= _MAX_CELLS:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, _MAX_CELLS, replace=False))


def _leiden(z: np.ndarray, resolution: float, n_neighbors: int, seed: int) -> list[np.ndarray]:
    """Return the clusters of cells at each of the resolutions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # FutureWarnings of scanpy, umap and numba
        cells = neighbour_graph(z, n_neighbors, seed)
        return [leiden_codes(cells, resolution * times, seed) for times in _TIMES]


def _best_jaccard(codes: np.ndarray, found: np.ndarray, n: int) -> np.ndarray:
    together = np.zeros((n, int(found.max()) + 1))
    np.add.at(together, (codes, found), 1)
    either = together.sum(axis=1, keepdims=True) + together.sum(axis=0) - together
    best: np.ndarray = (together / np.maximum(either, 1)).max(axis=1)
    return best
