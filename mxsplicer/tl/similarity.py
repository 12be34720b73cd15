"""Cells that look like a cell: the nearest of the learned representation, exactly or by an index."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA

from mxsplicer.errors import InputError
from mxsplicer.system.imports import import_extra
from mxsplicer.system.progress import track
from mxsplicer.tl.rows import AT_ONCE, representation, slices, take

logger = logging.getLogger(__name__)

Metric = Literal["cosine", "euclidean"]

_METRICS = ("cosine", "euclidean")
_COMPONENTS, _PCA_CELLS = 50, 50_000
_CANDIDATES = 10  # times as many as are asked for; of those the exact distance decides
_LINKS = 32  # of a cell in a small world
_NO_ROW = -1
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
    others: Mapping[str, AnnData] | None = None,
    index: CellIndex | Mapping[str, CellIndex] | None = None,
) -> pd.DataFrame:
    """Find the cells that look most like a cell, by their learned features, over all slides of the table.

    All cells are compared, a slice at a time: the answer is exact, memory does not grow with their number, and the
    representation may lie on disk, as :func:`mxsplicer.open_cells` leaves it. For many questions to the same cells an
    index from :func:`index_cells` answers each at once; it may miss some of the nearest, and the distances are exact.

    Cells of other tables, of a cohort's other results say, are found as well where ``others`` names them; one model has
    to have embedded them all.

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
        Which cells of ``adata`` may be found, one boolean per cell: those of other slides, say. All by default.
    others
        Further tables to search, each by a name.
    index
        Of these cells, as :func:`index_cells` made it; its metric and representation count. With ``others`` the index
        of each table by its name, that of ``adata`` by "".

    Returns
    -------
    One row per found cell, nearest first, named as in ``obs_names``: ``query`` (the name of the cell asked for),
    ``table`` (where there are ``others``; "" for ``adata``), ``row`` (its place in its table), ``distance``, and
    ``slide``, ``cell_id``, ``x_px``, ``y_px`` where ``obs`` has them.

    Raises
    ------
    InputError
        If there is no such cell, representation or metric, the index is of other cells, or another model embedded
        ``others``.

    Examples
    --------
    >>> z = np.array([[1, 0], [0, 1], [1, 0.1], [0.9, 0]], dtype=np.float32)
    >>> adata = AnnData(obs=pd.DataFrame(index=list("abcd")), obsm={"X_splicer": z})
    >>> similar(adata, "a", n=2)[["row", "distance"]].round(3)
       row  distance
    d    3     0.000
    c    2     0.005
    """
    tables = {"": adata, **(others or {})}
    indices = dict(index) if isinstance(index, Mapping) else {} if index is None else {"": index}
    if indices:
        use_rep, metric = _check_indices(tables, indices)
    _check(adata, metric, n, among)
    z, asked = representation(adata, use_rep), _rows_of(adata, cell)
    queries = np.concatenate([np.asarray(z[row : row + 1], dtype=np.float32) for row in asked])
    found = []
    for name, table in tables.items():
        _check_model(adata, table, name, use_rep)
        searched = representation(table, use_rep)
        own, allowed = (asked, among) if name == "" else ([_NO_ROW] * len(asked), None)
        if indices:
            rows, distances = _nearest_by_index(searched, queries, own, n, indices[name], allowed)
        else:
            rows, distances = _nearest(searched, queries, own, n, metric, allowed)
        found += [_as_table(adata, asked, name, table, rows, distances)]
    if len(found) == 1:
        return found[0].drop(columns=["table", "order"])
    merged = pd.concat(found).sort_values(["order", "distance"], kind="stable")
    return merged.groupby("order", sort=False).head(n).drop(columns="order")


def _as_table(
    adata: AnnData, asked: Sequence[int], name: str, table: AnnData, rows: np.ndarray, distances: np.ndarray
) -> pd.DataFrame:
    """Return what was found (q, n) in one table; ``order`` is the place of the question."""
    kept = np.isfinite(distances)  # an index, or a choice of few cells, may bring fewer than n
    order, places = np.nonzero(kept)[0], rows[kept]
    found = pd.DataFrame(
        {
            "query": adata.obs_names[np.asarray(asked)[order]],
            "table": name,
            "row": places,
            "distance": distances[kept],
            "order": order,
        },
        index=table.obs_names[places],
    )
    for column in _SHOWN:
        if column in table.obs:
            found[column] = table.obs[column].to_numpy()[places]
    return found


def index_cells(
    adata: AnnData,
    *,
    use_rep: str = "X_splicer",
    metric: Metric = "cosine",
    backend: Literal["pynndescent", "faiss"] = "pynndescent",
    seed: int = 0,
) -> CellIndex:
    """Make an index of the cells for many calls of :func:`similar`.

    The first 50 principal components are indexed: 200 MB for a million cells, and the index takes about as much again.
    They decide who is a candidate, and all features who is nearest.

    Parameters
    ----------
    backend
        ``"pynndescent"``: nearest-neighbour descent (Dong et al. 2011). ``"faiss"``: a navigable small world (Malkov
        and Yashunin 2016) by faiss, where that is installed.
    """
    if backend not in _BACKENDS:
        msg = f"there is no backend {backend!r}; there are {', '.join(_BACKENDS)}."
        raise InputError(msg)
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
    return CellIndex(use_rep, metric, adata.n_obs, pca, _BACKENDS[backend](reduced, seed))


def _descent(reduced: np.ndarray, seed: int) -> Any:
    from pynndescent import NNDescent

    tree = NNDescent(reduced, metric="euclidean", n_neighbors=min(30, len(reduced) - 1), random_state=seed)
    tree.prepare()
    return tree


class _SmallWorld:
    """An index of faiss that answers as pynndescent's does."""

    def __init__(self, reduced: np.ndarray, seed: int) -> None:  # noqa: ARG002, faiss draws by itself
        missing = "backend 'faiss' needs faiss; run `pip install 'mxsplicer[faiss]'`, or leave it out."
        self._index = import_extra("faiss", missing).IndexHNSWFlat(reduced.shape[1], _LINKS)
        self._index.hnsw.efConstruction = 2 * _LINKS
        self._index.add(reduced)

    def query(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return rows and distances (q, k); a row that was not found is the last that was."""
        self._index.hnsw.efSearch = max(4 * _LINKS, k)
        distances, rows = self._index.search(queries, k)
        return np.where(rows < 0, rows.max(axis=1, keepdims=True), rows), distances


_BACKENDS: dict[str, Callable[[np.ndarray, int], Any]] = {"pynndescent": _descent, "faiss": _SmallWorld}


def _check_indices(tables: Mapping[str, AnnData], indices: Mapping[str, CellIndex]) -> tuple[str, Metric]:
    """Return the representation and the metric that the indices share."""
    missing = [name for name in tables if name not in indices]
    if missing:
        msg = f"there is no index of {missing[0]!r}: give index={{'': ..., {missing[0]!r}: ...}}, or none at all."
        raise InputError(msg)
    for name, table in tables.items():
        if indices[name].n_cells != table.n_obs:
            msg = (
                f"the index is of {indices[name].n_cells:,} cells and there are {table.n_obs:,}; make it anew of these."
            )
            raise InputError(msg)
    made = {(one.use_rep, one.metric) for one in indices.values()}
    if len(made) > 1:
        msg = f"the indices were made differently ({', '.join(map(str, sorted(made)))}); make them alike."
        raise InputError(msg)
    return made.pop()


def _check_model(adata: AnnData, other: AnnData, name: str, use_rep: str) -> None:
    """Raise if the features of two tables are not those of one model."""
    width, own = (representation(one, use_rep).shape[1] for one in (other, adata))
    models = [one.uns.get("mxsplicer", {}).get("fingerprints", {}).get("weights") for one in (other, adata)]
    if width != own or (None not in models and models[0] != models[1]):
        how = f"{width} features against {own}" if width != own else f"weights {models[0]} against {models[1]}"
        msg = f"table {name!r} was embedded by another model ({how}). Embed it with --model to compare its cells."
        raise InputError(msg)


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
    at_once = max(1, AT_ONCE // candidates.shape[1])
    for first in range(0, len(queries), at_once):
        # Of all questions together: where z lies on disk, a few rows from all over it cost as much as a thousand.
        some = np.unique(candidates[first : first + at_once])
        features = take(z, some)
        for query in range(first, min(first + at_once, len(queries))):
            ones = np.unique(candidates[query])
            ones = ones[(ones != asked[query]) & (True if among is None else np.asarray(among, dtype=bool)[ones])]
            if len(ones):
                its = features[np.searchsorted(some, ones)]
                distances = _distances(queries[query : query + 1], its, index.metric)[0]
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
