"""A probe predicts the slide if slides are stained differently, and not if they are alike."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from mxsplicer.errors import InputError
from mxsplicer.tl.mixing import measure_mixing


def test_a_shift_of_one_slide_is_found_only_in_the_shifted_representation(cells):
    adata = cells(900, n_slides=3)
    adata.obsm["X_splicer"][(adata.obs["slide"] == "S01").to_numpy(), 7] += 3

    mixing = measure_mixing(adata, representations=["SpliCER", "untrained encoder"]).set_index("representation")

    assert mixing.loc["SpliCER", "predictability"] > 0.5
    assert abs(mixing.loc["untrained encoder", "predictability"] - 1 / 3) < 0.1
    np.testing.assert_allclose(mixing["chance"], 1 / 3)
    assert (mixing["n_batches"] == 3).all()


def test_any_column_can_be_the_batch_and_scores_of_labels_stay(cells):
    adata = cells(400, n_slides=4)
    adata.obs["batch"] = np.where(adata.obs["slide"].isin(["S00", "S01"]), "first", "second")

    mixing = measure_mixing(adata, batch="batch", representations=["SpliCER"])

    assert (mixing["n_batches"] == 2).all()
    assert "mxsplicer_probe" not in adata.uns


def test_one_slide_raises(cells):
    with pytest.raises(InputError, match="'slide' cannot be scored"):
        measure_mixing(cells(200))


def test_measures_of_scib_are_added_if_it_is_installed(cells):
    pytest.importorskip("scib_metrics")
    adata = cells(600, n_slides=2)
    adata.obsm["X_splicer"][(adata.obs["slide"] == "S01").to_numpy()] += 3

    mixing = measure_mixing(adata, representations=["SpliCER", "untrained encoder"]).set_index("representation")

    separate, mixed = mixing.loc["SpliCER"], mixing.loc["untrained encoder"]
    assert separate["ilisi"] < 0.1
    assert mixed["ilisi"] > 0.8
    assert separate["kbet"] < mixed["kbet"]
    assert separate["pcr"] > mixed["pcr"]


def test_functions_of_scib_get_the_right_arguments(cells, monkeypatch):
    def pynndescent(x, n_neighbors, random_state):
        return x.shape, n_neighbors

    def kbet(neighbours, batches):
        assert neighbours == ((600, 32), 90)
        assert batches.shape == (600,)
        return 0.25, np.zeros(600), np.zeros(600)

    def ilisi_knn(neighbours, batches):
        assert len(batches) == neighbours[0][0]
        return 0.75

    def regression(x, batches, categorical):
        assert categorical
        return 0.5 if len(x) == len(batches) else None

    fake = ModuleType("scib_metrics")
    fake.kbet, fake.ilisi_knn, fake.utils = kbet, ilisi_knn, SimpleNamespace(principal_component_regression=regression)
    fake.__spec__ = ModuleSpec("scib_metrics", None)
    of_neighbours = ModuleType("scib_metrics.nearest_neighbors")
    of_neighbours.pynndescent = pynndescent
    monkeypatch.setitem(sys.modules, "scib_metrics", fake)
    monkeypatch.setitem(sys.modules, "scib_metrics.nearest_neighbors", of_neighbours)

    (row,) = measure_mixing(cells(600, n_slides=2), representations=["SpliCER"], guard_um=0).to_dict("records")

    assert (row["ilisi"], row["kbet"], row["pcr"]) == (0.75, 0.25, 0.5)
