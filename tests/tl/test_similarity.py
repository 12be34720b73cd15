import sys
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors

from mxsplicer import tl
from mxsplicer.errors import InputError
from mxsplicer.tl import reading, similarity


@pytest.fixture(scope="module")
def adata(cells):
    return cells(500, n_slides=2)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_nearest_cells_are_those_of_all_distances(adata, metric, monkeypatch):
    monkeypatch.setattr(reading, "AT_ONCE", 64)

    found = tl.similar(adata, adata.obs_names[7], n=9, metric=metric)

    z = adata.obsm["X_splicer"].astype(np.float64)
    distances = cdist(z[7:8], z, metric)[0]
    distances[7] = np.inf
    assert found["row"].tolist() == np.argsort(distances)[:9].tolist()
    np.testing.assert_allclose(found["distance"], np.sort(distances)[:9])
    assert (found.index == adata.obs_names[found["row"]]).all()
    assert (found["slide"].astype(str).to_numpy() == adata.obs["slide"].astype(str).iloc[found["row"]].to_numpy()).all()
    assert (found["query"] == adata.obs_names[7]).all()


def test_cells_on_disk_give_the_same_result_as_cells_in_memory(adata, tmp_path):
    with h5py.File(tmp_path / "z.h5", "w") as file:
        file["z"] = adata.obsm["X_splicer"]
        on_disk = adata.copy()
        on_disk.obsm["X_splicer"] = file["z"]

        found = tl.similar(on_disk, [3, 4], n=5)

    assert found.equals(tl.similar(adata, [3, 4], n=5))
    assert found["query"].tolist() == [adata.obs_names[3]] * 5 + [adata.obs_names[4]] * 5


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 499), st.integers(1, 600), st.sampled_from(["cosine", "euclidean"]))
def test_no_cell_is_its_own_neighbour_or_returned_twice(adata, row, n, metric):
    found = tl.similar(adata, row, n=n, metric=metric)

    assert len(found) == min(n, 499)
    assert row not in found["row"].to_numpy()
    assert found["row"].is_unique
    assert found["distance"].is_monotonic_increasing


def test_only_allowed_cells_are_returned(adata):
    other = (adata.obs["slide"] != adata.obs["slide"].iloc[0]).to_numpy()

    found = tl.similar(adata, 0, n=20, among=other)

    assert other[found["row"]].all()
    nearest = tl.similar(adata, 0, n=499)
    assert found["row"].tolist() == [row for row in nearest["row"] if other[row]][:20]


class BruteForce:
    """Stand-in for pynndescent, which takes half a minute to compile; see tests/benchmarks/bench_report.py."""

    def __init__(self, data, *, metric, **_others):
        self.tree = NearestNeighbors(metric=metric).fit(data)

    def prepare(self):
        """Do nothing."""

    def query(self, queries, k):
        """Return the rows and distances of the nearest."""
        distances, rows = self.tree.kneighbors(queries, k)
        return rows, distances


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_an_index_finds_the_nearest_with_their_distances(adata, metric, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynndescent", SimpleNamespace(NNDescent=BruteForce))
    index = tl.index_cells(adata, metric=metric)
    read = []
    monkeypatch.setattr(similarity, "read_rows", lambda z, rows: read.append(rows) or reading.read_rows(z, rows))

    for among in (None, np.arange(500) % 3 == 0):
        read.clear()
        found = tl.similar(adata, [1, 2, 3], n=10, index=index, among=among)

        assert len(read) == 1  # once for all three queries, since z may lie on disk

        exact = tl.similar(adata, [1, 2, 3], n=10, metric=metric, among=among)
        assert found["row"].tolist() == exact["row"].tolist()
        np.testing.assert_allclose(found["distance"], exact["distance"])
    with pytest.raises(InputError, match="the index has 500 cells, but the table has 400"):
        tl.similar(adata[:400], 0, index=index)


class FaissIndex:
    """Stand-in for faiss, which is not installed with mxsplicer: squared distances, -1 for missing neighbours."""

    def __init__(self, d, links):
        self.hnsw, self.d = SimpleNamespace(links=links), d

    def add(self, data):
        """Add the cells."""
        assert data.dtype == np.float32
        assert data.shape[1] == self.d
        self.tree = NearestNeighbors().fit(data)

    def search(self, queries, k):
        """Return squared distances and rows of the nearest, all but the last two."""
        distances, rows = self.tree.kneighbors(queries, k)
        rows[:, -2:] = -1
        return distances**2, rows


def test_faiss_finds_the_same_cells_if_installed_and_otherwise_the_error_names_it(adata, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", SimpleNamespace(IndexHNSWFlat=FaissIndex))
    found = tl.similar(adata, [1, 2], n=10, index=tl.index_cells(adata, backend="faiss"))

    assert found["row"].tolist() == tl.similar(adata, [1, 2], n=10)["row"].tolist()
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(InputError, match=r"needs faiss; run `pip install 'mxsplicer\[faiss\]'`"):
        tl.index_cells(adata, backend="faiss")
    with pytest.raises(InputError, match="backend 'annoy' is unknown; the backends are pynndescent, faiss"):
        tl.index_cells(adata, backend="annoy")


@pytest.mark.parametrize("by_index", [False, True])
def test_several_tables_give_the_same_result_as_one_table(adata, monkeypatch, by_index):
    monkeypatch.setitem(sys.modules, "pynndescent", SimpleNamespace(NNDescent=BruteForce))
    own, one, two = (adata[part].copy() for part in (slice(0, 100), slice(100, 350), slice(350, 500)))
    tables = {"": own, "one": one, "two": two}

    index = {name: tl.index_cells(table) for name, table in tables.items()} if by_index else None
    found = tl.similar(own, [7, 8], n=12, others={"one": one, "two": two}, index=index)

    together = tl.similar(adata, [7, 8], n=12)
    assert found.index.tolist() == together.index.tolist()
    np.testing.assert_allclose(found["distance"], together["distance"])
    assert found["query"].tolist() == together["query"].tolist()
    first = {"": 0, "one": 100, "two": 350}
    assert (found["table"].map(first) + found["row"]).tolist() == together["row"].tolist()
    assert set(found["table"]) == set(tables)


def test_tables_of_different_models_are_not_compared(adata):
    other = adata.copy()
    other.obsm["X_splicer"] = other.obsm["X_splicer"][:, :9]
    with pytest.raises(InputError, match=r"'two' was embedded by another model \(9 features instead of 32\)"):
        tl.similar(adata, 0, others={"two": other})

    ours, theirs = adata.copy(), adata.copy()
    ours.uns["mxsplicer"] = {"fingerprints": {"weights": "ab"}}
    theirs.uns["mxsplicer"] = {"fingerprints": {"weights": "cd"}}
    with pytest.raises(InputError, match=r"weights cd instead of ab"):
        tl.similar(ours, 0, others={"two": theirs})


@pytest.mark.parametrize(
    ("cell", "options", "message"),
    [
        ("S99_1", {}, "cell 'S99_1' was not found; names have the form SLIDE_CELLID, for example 'S0"),
        (500, {}, "rows 0 to 499"),
        (0, {"metric": "manhattan"}, "metric 'manhattan' is unknown"),
        (0, {"n": 0}, "must be at least 1"),
        (0, {"use_rep": "X_pca"}, "representation 'X_pca' was not found"),
        (0, {"among": np.ones(3, bool)}, r"shape \(3,\)"),
    ],
)
def test_queries_that_cannot_be_answered_raise(adata, cell, options, message):
    with pytest.raises(InputError, match=message):
        tl.similar(adata, cell, **options)
