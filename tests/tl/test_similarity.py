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
from mxsplicer.tl import rows as rows_module


@pytest.fixture(scope="module")
def adata(cells):
    return cells(500, n_slides=2)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_nearest_cells_are_those_of_all_distances(adata, metric, monkeypatch):
    monkeypatch.setattr(rows_module, "AT_ONCE", 64)

    found = tl.similar(adata, adata.obs_names[7], n=9, metric=metric)

    z = adata.obsm["X_splicer"].astype(np.float64)
    distances = cdist(z[7:8], z, metric)[0]
    distances[7] = np.inf
    assert found["row"].tolist() == np.argsort(distances)[:9].tolist()
    np.testing.assert_allclose(found["distance"], np.sort(distances)[:9])
    assert (found.index == adata.obs_names[found["row"]]).all()
    assert (found["slide"].astype(str).to_numpy() == adata.obs["slide"].astype(str).iloc[found["row"]].to_numpy()).all()
    assert (found["query"] == adata.obs_names[7]).all()


def test_cells_on_disk_are_found_as_those_in_memory_are(adata, tmp_path):
    with h5py.File(tmp_path / "z.h5", "w") as file:
        file["z"] = adata.obsm["X_splicer"]
        on_disk = adata.copy()
        on_disk.obsm["X_splicer"] = file["z"]

        found = tl.similar(on_disk, [3, 4], n=5)

    assert found.equals(tl.similar(adata, [3, 4], n=5))
    assert found["query"].tolist() == [adata.obs_names[3]] * 5 + [adata.obs_names[4]] * 5


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 499), st.integers(1, 600), st.sampled_from(["cosine", "euclidean"]))
def test_whatever_is_asked_no_cell_is_its_own_neighbour_or_found_twice(adata, row, n, metric):
    found = tl.similar(adata, row, n=n, metric=metric)

    assert len(found) == min(n, 499)
    assert row not in found["row"].to_numpy()
    assert found["row"].is_unique
    assert found["distance"].is_monotonic_increasing


def test_only_the_cells_that_may_be_found_are(adata):
    other = (adata.obs["slide"] != adata.obs["slide"].iloc[0]).to_numpy()

    found = tl.similar(adata, 0, n=20, among=other)

    assert other[found["row"]].all()
    nearest = tl.similar(adata, 0, n=499)
    assert found["row"].tolist() == [row for row in nearest["row"] if other[row]][:20]


class BruteForce:
    """Answers as pynndescent does, which takes half a minute to compile; tests/benchmarks/bench_report.py runs that."""

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

    for among in (None, np.arange(500) % 3 == 0):
        found = tl.similar(adata, [1, 2, 3], n=10, index=index, among=among)

        exact = tl.similar(adata, [1, 2, 3], n=10, metric=metric, among=among)
        assert found["row"].tolist() == exact["row"].tolist()
        np.testing.assert_allclose(found["distance"], exact["distance"])
    with pytest.raises(InputError, match="the index is of 500 cells and there are 400"):
        tl.similar(adata[:400], 0, index=index)


@pytest.mark.parametrize(
    ("cell", "options", "said"),
    [
        ("S99_1", {}, "no cell 'S99_1'; cells are called as 'S0"),
        (500, {}, "rows 0 to 499"),
        (0, {"metric": "manhattan"}, "no metric 'manhattan'"),
        (0, {"n": 0}, "n is at least 1"),
        (0, {"use_rep": "X_pca"}, "no representation 'X_pca'"),
        (0, {"among": np.ones(3, bool)}, r"shape \(3,\)"),
    ],
)
def test_what_cannot_be_found_is_said(adata, cell, options, said):
    with pytest.raises(InputError, match=said):
        tl.similar(adata, cell, **options)
