"""Similar cells: the nearest neighbours of a cell in a representation, exactly or by an index."""

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
from mxsplicer.tl.reading import AT_ONCE, read_rows, row_slices
from mxsplicer.tl.representations import representation

logger = logging.getLogger(__name__)

Metric = Literal["cosine", "euclidean"]

_METRICS = ("cosine", "euclidean")
_N_COMPONENTS, _PCA_CELLS = 50, 50_000
_CANDIDATES = 10  # per requested cell; exact distances then decide
_LINKS = 32  # per cell in the HNSW graph
_NO_ROW = -1
_OBS_COLUMNS = ("slide", "cell_id", "x_px", "y_px")


@dataclass(frozen=True, eq=False)
class CellIndex:
    """Index of cells in which similar ones are searched approximately; see :func:`index_cells`."""

    use_rep: str
    metric: Metric
    n_cells: int
    _pca: Any
    _tree: Any

    def candidates(self, z: np.ndarray, n: int) -> np.ndarray:
        """Return the rows (q, n) of approximately the ``n`` nearest cells of each query z (q, d)."""
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
    """Find the most similar cells of a cell by their features, on all slides.

    All cells are compared, one slice at a time: the result is exact, memory does not grow with the number of cells, and
    the representation may lie on disk, as :func:`mxsplicer.open_cells` leaves it. For many queries of the same cells,
    pass an index from :func:`index_cells`; it may miss some of the nearest cells, but distances are exact.

    Pass ``others`` to search further tables too, for example the other results of a cohort. One model must have
    embedded all of them.

    Parameters
    ----------
    adata
        Cells with a representation in ``obsm``.
    cell
        Name of a cell (of ``obs_names``) or its row; or several, each of which is a query of its own.
    n
        Number of similar cells of each query. The cell itself is never returned.
    use_rep
        Key of the representation.
    metric
        ``"cosine"``, 0 for the same direction to 2 for the opposite, or ``"euclidean"``.
    among
        Which cells of ``adata`` may be returned, one boolean per cell, for example those of other slides. All by
        default.
    others
        Further tables to search, by name.
    index
        Index of these cells from :func:`index_cells`, whose metric and representation are used. With ``others``, the
        index of each table by its name, and that of ``adata`` by "".

    Returns
    -------
    One row per similar cell, nearest first, with the index of ``obs_names``: ``query`` (name of the queried cell),
    ``table`` (with ``others``; "" for ``adata``), ``row`` (in its table), ``distance``, and ``slide``, ``cell_id``,
    ``x_px``, ``y_px`` if ``obs`` has them.

    Raises
    ------
    InputError
        If the cell, representation or metric was not found, the index is of other cells, or another model embedded
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
    z, query_rows = representation(adata, use_rep), _rows_of(adata, cell)
    queries = np.concatenate([np.asarray(z[row : row + 1], dtype=np.float32) for row in query_rows])
    found = []
    for name, table in tables.items():
        _check_model(adata, table, name, use_rep)
        searched = representation(table, use_rep)
        own, allowed = (query_rows, among) if name == "" else ([_NO_ROW] * len(query_rows), None)
        if indices:
            rows, distances = _nearest_by_index(searched, queries, own, n, indices[name], allowed)
        else:
            rows, distances = _nearest(searched, queries, own, n, metric, allowed)
        found += [_as_table(adata, query_rows, name, table, rows, distances)]
    if len(found) == 1:
        return found[0].drop(columns=["table", "order"])
    merged = pd.concat(found).sort_values(["order", "distance"], kind="stable")
    return merged.groupby("order", sort=False).head(n).drop(columns="order")


def _as_table(
    adata: AnnData, query_rows: Sequence[int], name: str, table: AnnData, rows: np.ndarray, distances: np.ndarray
) -> pd.DataFrame:
    """Return the similar cells (q, n) of one table; ``order`` is the index of the query."""
    kept = np.isfinite(distances)  # an index, or few allowed cells, may give fewer than n
    order, found_rows = np.nonzero(kept)[0], rows[kept]
    found = pd.DataFrame(
        {
            "query": adata.obs_names[np.asarray(query_rows)[order]],
            "table": name,
            "row": found_rows,
            "distance": distances[kept],
            "order": order,
        },
        index=table.obs_names[found_rows],
    )
    for column in _OBS_COLUMNS:
        if column in table.obs:
            found[column] = table.obs[column].to_numpy()[found_rows]
    return found


def index_cells(
    adata: AnnData,
    *,
    use_rep: str = "X_splicer",
    metric: Metric = "cosine",
    backend: Literal["pynndescent", "faiss"] = "pynndescent",
    seed: int = 0,
) -> CellIndex:
    """Build an index of the cells for many calls of :func:`similar`.

    The first 50 principal components are indexed, which take 200 MB for a million cells; the index takes about as much
    again. They give the candidates; all features then decide which of these are nearest.

    Parameters
    ----------
    backend
        ``"pynndescent"``: nearest-neighbour descent (Dong et al. 2011). ``"faiss"``: a hierarchical navigable
        small world graph (HNSW; Malkov and Yashunin 2016), if faiss is installed.
    """
    if backend not in _BACKENDS:
        msg = f"backend {backend!r} is unknown; the backends are {', '.join(_BACKENDS)}."
        raise InputError(msg)
    _check(adata, metric, 1, None)
    z = representation(adata, use_rep)
    rng = np.random.default_rng(seed)
    sample = np.sort(rng.choice(adata.n_obs, min(_PCA_CELLS, adata.n_obs), replace=False))
    of_sample = _scaled(read_rows(z, sample), metric)
    pca = PCA(min(_N_COMPONENTS, *of_sample.shape), svd_solver="randomized", random_state=seed).fit(of_sample)
    reduced = np.empty((adata.n_obs, pca.n_components_), dtype=np.float32)
    for part in track(row_slices(adata.n_obs), "Indexing cells"):
        reduced[part] = _reduced(pca, np.asarray(z[part], dtype=np.float32), metric)
    # Between vectors of length 1, Euclidean distance and cosine give the same order.
    return CellIndex(use_rep, metric, adata.n_obs, pca, _BACKENDS[backend](reduced, seed))


def _build_pynndescent(reduced: np.ndarray, seed: int) -> Any:
    from pynndescent import NNDescent

    tree = NNDescent(reduced, metric="euclidean", n_neighbors=min(30, len(reduced) - 1), random_state=seed)
    tree.prepare()
    return tree


class _FaissIndex:
    """An index of similar cells by faiss, HNSW, with the interface of pynndescent's index."""

    def __init__(self, reduced: np.ndarray, seed: int) -> None:  # noqa: ARG002, faiss has no seed
        missing = "backend 'faiss' needs faiss; run `pip install 'mxsplicer[faiss]'`, or leave out `backend`."
        self._index = import_extra("faiss", missing).IndexHNSWFlat(reduced.shape[1], _LINKS)
        self._index.hnsw.efConstruction = 2 * _LINKS
        self._index.add(reduced)

    def query(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return rows and distances (q, k); where faiss finds fewer than k cells, one of them is repeated."""
        self._index.hnsw.efSearch = max(4 * _LINKS, k)
        distances, rows = self._index.search(queries, k)
        return np.where(rows < 0, rows.max(axis=1, keepdims=True), rows), distances


_BACKENDS: dict[str, Callable[[np.ndarray, int], Any]] = {"pynndescent": _build_pynndescent, "faiss": _FaissIndex}


def _check_indices(tables: Mapping[str, AnnData], indices: Mapping[str, CellIndex]) -> tuple[str, Metric]:
    """Return the representation and the metric of the indices of similar cells, which must be the same."""
    missing = [name for name in tables if name not in indices]
    if missing:
        msg = f"table {missing[0]!r} has no index."
        raise InputError(msg, f"Pass `index={{'': ..., {missing[0]!r}: ...}}`, or leave out `index`.")
    for name, table in tables.items():
        if indices[name].n_cells != table.n_obs:
            msg = f"the index has {indices[name].n_cells:,} cells, but the table has {table.n_obs:,}."
            raise InputError(msg, "Build the index again.")
    settings = {(one.use_rep, one.metric) for one in indices.values()}
    if len(settings) > 1:
        msg = f"the indices have different settings ({', '.join(map(str, sorted(settings)))})."
        raise InputError(msg, "Build all of them with the same settings.")
    return settings.pop()


def _check_model(adata: AnnData, other: AnnData, name: str, use_rep: str) -> None:
    """Raise InputError if the features of two tables in which similar cells are searched are not of the same model."""
    width, own = (representation(one, use_rep).shape[1] for one in (other, adata))
    models = [one.uns.get("mxsplicer", {}).get("fingerprints", {}).get("weights") for one in (other, adata)]
    if width != own or (None not in models and models[0] != models[1]):
        how = f"{width} features instead of {own}" if width != own else f"weights {models[0]} instead of {models[1]}"
        msg = f"table {name!r} was embedded by another model ({how})."
        raise InputError(msg, "Embed its cells with the same `model`.")


def _check(adata: AnnData, metric: str, n: int, among: np.ndarray | None) -> None:
    if metric not in _METRICS:
        msg = f"metric {metric!r} is unknown; the metrics are {', '.join(_METRICS)}."
        raise InputError(msg)
    if n < 1:
        msg = f"`n` is {n}; it must be at least 1."
        raise InputError(msg)
    if adata.n_obs < 2:
        msg = f"{adata.n_obs} cells cannot be compared; at least 2 are needed."
        raise InputError(msg)
    if among is not None and np.shape(among) != (adata.n_obs,):
        msg = f"`among` has the shape {np.shape(among)}; one boolean for each of the {adata.n_obs:,} cells is needed."
        raise InputError(msg)


def _rows_of(adata: AnnData, cell: str | int | Sequence[str] | Sequence[int]) -> list[int]:
    several: list[Any] = [cell] if isinstance(cell, str | int | np.integer) else list(cell)
    names = [one for one in several if isinstance(one, str)]
    row_of = dict(zip(names, adata.obs_names.get_indexer(pd.Index(names)), strict=True)) if names else {}
    rows = [int(row_of[one]) if isinstance(one, str) else int(one) for one in several]
    for one, row in zip(several, rows, strict=True):
        if isinstance(one, str) and row < 0:
            msg = f"cell {one!r} was not found; names have the form SLIDE_CELLID, for example {adata.obs_names[0]!r}."
            raise InputError(msg)
        if not 0 <= row < adata.n_obs:
            msg = f"row {row} was not found; the {adata.n_obs:,} cells are in the rows 0 to {adata.n_obs - 1}."
            raise InputError(msg)
    return rows


def _nearest(
    z: Any, queries: np.ndarray, query_rows: Sequence[int], n: int, metric: Metric, among: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and distances (q, n) of the most similar cells; the distance is infinite if there are fewer."""
    best = np.full((len(queries), n), np.inf)
    rows = np.zeros((len(queries), n), dtype=np.int64)
    for part in track(row_slices(z.shape[0]), "Comparing cells"):
        distances = _distances(queries, np.asarray(z[part], dtype=np.float32), metric)  # (q, rows)
        if among is not None:
            distances[:, ~np.asarray(among[part], dtype=bool)] = np.inf
        for query, row in enumerate(query_rows):
            if part.start <= row < part.stop:
                distances[query, row - part.start] = np.inf
            near = distances[query] <= best[query, -1]
            merged = np.concatenate([best[query], distances[query, near]])
            of_merged = np.concatenate([rows[query], part.start + np.flatnonzero(near)])
            order = np.argsort(merged, kind="stable")[:n]  # among equal distances the earlier row comes first
            best[query], rows[query] = merged[order], of_merged[order]
    return rows, best


def _nearest_by_index(
    z: Any, queries: np.ndarray, query_rows: Sequence[int], n: int, index: CellIndex, among: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    n_candidates = _CANDIDATES * n
    if among is not None:  # so that enough of them are allowed
        n_candidates = min(index.n_cells, int(n_candidates / max(np.mean(among), 1e-3)))
    candidates = index.candidates(queries, n_candidates + 1)
    best = np.full((len(queries), n), np.inf)
    rows = np.zeros((len(queries), n), dtype=np.int64)
    at_once = max(1, AT_ONCE // candidates.shape[1])
    for first in range(0, len(queries), at_once):
        # For all queries together: reading a few scattered rows from disk takes as long as reading a thousand.
        some = np.unique(candidates[first : first + at_once])
        features = read_rows(z, some)
        for query in range(first, min(first + at_once, len(queries))):
            ones = np.unique(candidates[query])
            ones = ones[(ones != query_rows[query]) & (True if among is None else np.asarray(among, dtype=bool)[ones])]
            if len(ones):
                z_of_ones = features[np.searchsorted(some, ones)]
                distances = _distances(queries[query : query + 1], z_of_ones, index.metric)[0]
                order = np.argsort(distances, kind="stable")[:n]
                best[query, : len(order)], rows[query, : len(order)] = distances[order], ones[order]
    return rows, best


def _distances(queries: np.ndarray, rows: np.ndarray, metric: Metric) -> np.ndarray:
    distances = cdist(queries, rows, metric)
    # The cosine with a zero vector is undefined; 1 means unrelated.
    return np.asarray(np.nan_to_num(distances, copy=False, nan=1.0) if metric == "cosine" else distances)


def _scaled(z: np.ndarray, metric: Metric) -> np.ndarray:
    if metric == "euclidean":
        return z
    length = np.linalg.norm(z, axis=1, keepdims=True)
    return np.asarray(z / np.where(length > 0, length, 1), dtype=np.float32)


def _reduced(pca: Any, z: np.ndarray, metric: Metric) -> np.ndarray:
    return np.asarray(pca.transform(_scaled(z, metric)), dtype=np.float32)
