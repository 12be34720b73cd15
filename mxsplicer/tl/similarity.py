"""Cells that look like a cell: the nearest of the learned representation, exactly or by an index."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA

from mxsplicer.errors import InputError
from mxsplicer.progress import track
from mxsplicer.tl.rows import representation, slices, take

logger = logging.getLogger(__name__)

Metric = Literal["cosine", "euclidean"]

_METRICS = ("cosine", "euclidean")
_COMPONENTS, _PCA_CELLS = 50, 50_000
_CANDIDATES = 10  # times as many as are asked for; of those the exact distance decides
_SHOWN = ("slide", "cell_id", "x_px", "y_px")


@dataclass(frozen=True, eq=False)
class CellIndex:
    """Finds about the nearest cells without going through all of them; see :func:`index_cells`."""

    use_rep: str
    metric: Metric
    n_cells: int
    _pca: Any
    _tree: Any

    def candidates(self, z: np.ndarray, n: int) -> np.ndarray:
        """Return for each row of z (q, d) the rows of about the ``n`` nearest cells, (q, n)."""
        found, _ = self._tree.query(_reduced(self._pca, z, self.metric), k=min(n, self.n_cells))
        return np.asarray(found)


def similar(
    adata: AnnData,
    cell: str | int | Sequence[str] | Sequence[int],
    *,
    n: int = 10,
    use_rep: str = "X_splicer",
    metric: Metric = "cosine",
    among: np.ndarray | None = None,
    index: CellIndex | None = None,
) -> pd.DataFrame:
    """Find the cells that look most like a cell, by their learned features, over all slides of the table.

    All cells are compared, a slice at a time: the answer is exact, memory does not grow with their number, and the
    representation may lie on disk, as :func:`mxsplicer.open_cells` leaves it. For many questions to the same cells an
    index from :func:`index_cells` answers each at once; it may miss some of the nearest, and the distances are exact.

    Parameters
    ----------
    adata
        Cells with a representation in ``obsm``.
    cell
        Name of a cell (of ``obs_names``) or its row; or several, each of which is asked for by itself.
    n
        How many to return for each; the cell itself is not among them.
    use_rep
        Key of the representation.
    metric
        ``"cosine"``, 0 for the same direction to 2 for the opposite, or ``"euclidean"``.
    among
        Which cells may be found, one boolean per cell: those of other slides, say. All by default.
    index
        Of these cells, as :func:`index_cells` made it; its metric and representation count.

    Returns
    -------
    One row per found cell, nearest first, named as in ``obs_names``: ``query`` (the name of the cell asked for),
    ``row`` (its place in ``adata``), ``distance``, and ``slide``, ``cell_id``, ``x_px``, ``y_px`` where ``obs`` has
    them.

    Raises
    ------
    InputError
        If there is no such cell, representation or metric, or the index is of other cells.

    Examples
    --------
    >>> z = np.array([[1, 0], [0, 1], [1, 0.1], [0.9, 0]], dtype=np.float32)
    >>> adata = AnnData(obs=pd.DataFrame(index=list("abcd")), obsm={"X_splicer": z})
    >>> similar(adata, "a", n=2)[["row", "distance"]].round(3)
       row  distance
    d    3     0.000
    c    2     0.005
    """
    if index is not None:
        if index.n_cells != adata.n_obs:
            msg = f"the index is of {index.n_cells:,} cells and there are {adata.n_obs:,}; make it anew of these."
            raise InputError(msg)
        use_rep, metric = index.use_rep, index.metric
    _check(adata, metric, n, among)
    z, asked = representation(adata, use_rep), _rows_of(adata, cell)
    queries = np.concatenate([np.asarray(z[row : row + 1], dtype=np.float32) for row in asked])
    if index is None:
        rows, distances = _nearest(z, queries, asked, n, metric, among)
    else:
        rows, distances = _nearest_by_index(z, queries, asked, n, index, among)
    # An index, or a choice of few cells, may bring fewer than n.
    kept = np.isfinite(distances)
    of_query = np.repeat(np.asarray(asked), kept.sum(axis=1))
    found = rows[kept]
    table = pd.DataFrame(
        {"query": adata.obs_names[of_query], "row": found, "distance": distances[kept]}, index=adata.obs_names[found]
    )
    for column in _SHOWN:
        if column in adata.obs:
            table[column] = adata.obs[column].to_numpy()[found]
    return table


def index_cells(adata: AnnData, *, use_rep: str = "X_splicer", metric: Metric = "cosine", seed: int = 0) -> CellIndex:
    """Make an index of the cells for many calls of :func:`similar`, by nearest-neighbour descent.

    The first 50 principal components are indexed: 200 MB for a million cells, and the index takes about as much again.
    They decide who is a candidate, and all features who is nearest (Dong et al. 2011, as pynndescent has it).
    """
    from pynndescent import NNDescent

    _check(adata, metric, 1, None)
    z = representation(adata, use_rep)
    rng = np.random.default_rng(seed)
    sample = np.sort(rng.choice(adata.n_obs, min(_PCA_CELLS, adata.n_obs), replace=False))
    of_sample = _scaled(take(z, sample), metric)
    pca = PCA(min(_COMPONENTS, *of_sample.shape), svd_solver="randomized", random_state=seed).fit(of_sample)
    reduced = np.empty((adata.n_obs, pca.n_components_), dtype=np.float32)
    for part in track(slices(adata.n_obs), "Indexing cells"):
        reduced[part] = _reduced(pca, np.asarray(z[part], dtype=np.float32), metric)
    # Of directions the Euclidean distance orders as the cosine does.
    tree = NNDescent(reduced, metric="euclidean", n_neighbors=min(30, adata.n_obs - 1), random_state=seed)
    tree.prepare()
    return CellIndex(use_rep, metric, adata.n_obs, pca, tree)


def _check(adata: AnnData, metric: str, n: int, among: np.ndarray | None) -> None:
    if metric not in _METRICS:
        msg = f"there is no metric {metric!r}; there are {', '.join(_METRICS)}."
        raise InputError(msg)
    if n < 1:
        msg = f"{n} cells cannot be found; n is at least 1."
        raise InputError(msg)
    if adata.n_obs < 2:
        msg = f"{adata.n_obs} cells have none to compare with; at least 2 are needed."
        raise InputError(msg)
    if among is not None and np.shape(among) != (adata.n_obs,):
        msg = f"among has the shape {np.shape(among)}; one boolean for each of the {adata.n_obs:,} cells is needed."
        raise InputError(msg)


def _rows_of(adata: AnnData, cell: str | int | Sequence[str] | Sequence[int]) -> list[int]:
    several: list[Any] = [cell] if isinstance(cell, str | int | np.integer) else list(cell)
    names = [one for one in several if isinstance(one, str)]
    places = dict(zip(names, adata.obs_names.get_indexer(pd.Index(names)), strict=True)) if names else {}
    rows = [int(places[one]) if isinstance(one, str) else int(one) for one in several]
    for one, row in zip(several, rows, strict=True):
        if isinstance(one, str) and row < 0:
            msg = f"there is no cell {one!r}; cells are called as {adata.obs_names[0]!r} is, SLIDE_CELLID."
            raise InputError(msg)
        if not 0 <= row < adata.n_obs:
            msg = f"there is no row {row}; the {adata.n_obs:,} cells are the rows 0 to {adata.n_obs - 1}."
            raise InputError(msg)
    return rows


def _nearest(
    z: Any, queries: np.ndarray, asked: Sequence[int], n: int, metric: Metric, among: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and distances (q, n) of the nearest; infinitely far where there are fewer."""
    best = np.full((len(queries), n), np.inf)
    rows = np.zeros((len(queries), n), dtype=np.int64)
    for part in track(slices(z.shape[0]), "Comparing cells"):
        distances = _distances(queries, np.asarray(z[part], dtype=np.float32), metric)  # (q, rows)
        if among is not None:
            distances[:, ~np.asarray(among[part], dtype=bool)] = np.inf
        for query, row in enumerate(asked):
            if part.start <= row < part.stop:
                distances[query, row - part.start] = np.inf
            near = distances[query] <= best[query, -1]
            merged = np.concatenate([best[query], distances[query, near]])
            of_merged = np.concatenate([rows[query], part.start + np.flatnonzero(near)])
            order = np.argsort(merged, kind="stable")[:n]  # of equals the earlier row stays first
            best[query], rows[query] = merged[order], of_merged[order]
    return rows, best


def _nearest_by_index(
    z: Any, queries: np.ndarray, asked: Sequence[int], n: int, index: CellIndex, among: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    wanted = _CANDIDATES * n
    if among is not None:  # so that enough are left
        wanted = min(index.n_cells, int(wanted / max(np.mean(among), 1e-3)))
    candidates = index.candidates(queries, wanted + 1)
    best = np.full((len(queries), n), np.inf)
    rows = np.zeros((len(queries), n), dtype=np.int64)
    for query, row in enumerate(asked):
        ones = np.unique(candidates[query])
        ones = ones[(ones != row) & (True if among is None else np.asarray(among, dtype=bool)[ones])]
        if len(ones):
            distances = _distances(queries[query : query + 1], take(z, ones), index.metric)[0]
            order = np.argsort(distances, kind="stable")[:n]
            best[query, : len(order)], rows[query, : len(order)] = distances[order], ones[order]
    return rows, best


def _distances(queries: np.ndarray, rows: np.ndarray, metric: Metric) -> np.ndarray:
    distances = cdist(queries, rows, metric)
    # What has no direction resembles nothing.
    return np.asarray(np.nan_to_num(distances, copy=False, nan=1.0) if metric == "cosine" else distances)


def _scaled(z: np.ndarray, metric: Metric) -> np.ndarray:
    if metric == "euclidean":
        return z
    length = np.linalg.norm(z, axis=1, keepdims=True)
    return np.asarray(z / np.where(length > 0, length, 1), dtype=np.float32)


def _reduced(pca: Any, z: np.ndarray, metric: Metric) -> np.ndarray:
    return np.asarray(pca.transform(_scaled(z, metric)), dtype=np.float32)
