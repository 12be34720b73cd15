"""Permuting the marker that a classifier reads costs accuracy, and permuting another one does not."""

import numpy as np
import pytest

from mxsplicer.tl.importance import permutation_importance
from mxsplicer.tl.tasks import set_task


def _predicted_by_one_marker(cells):
    adata = cells(1200, n_slides=2)
    adata.obs["bright"] = np.where(adata.X[:, 2] > np.median(adata.X[:, 2]), "yes", "no")
    return adata, set_task(adata, label="bright", groups="quadrants")


def test_only_the_marker_that_predicts_the_label_is_important(cells):
    adata, task = _predicted_by_one_marker(cells)

    found = permutation_importance(adata, task).set_index("marker")

    assert found.loc["CD20", "loss"] > 0.4
    assert found.drop("CD20")["loss"].abs().max() < 0.03
    assert found["intact"].iloc[0] > 0.95
    assert found.loc["Empty", "loss"] == 0


def test_cells_are_embedded_with_the_signal_of_another_cell_of_their_slide(cells):
    adata, task = _predicted_by_one_marker(cells)
    weights = np.random.default_rng(0).normal(size=(5, 12)).astype(np.float32)
    logged = np.log1p(adata.X)
    adata.obsm["X_splicer"] = logged @ weights
    calls = []

    def permuted_features(rows, donors, marker):
        calls.append((rows, donors, marker))
        x = logged[rows].copy()
        if marker is not None:
            x[:, marker] = logged[donors, marker]
        return x @ weights

    found = permutation_importance(
        adata,
        task,
        representation="X_splicer",
        permuted_features=permuted_features,
        candidates=np.arange(0, 1200, 2),
        max_cells=300,
    ).set_index("marker")

    assert found["loss"].idxmax() == "CD20"
    slides = adata.obs["slide"].to_numpy()
    for rows, donors, marker in calls:
        assert len(rows) <= 300 // task.folds.n
        assert (rows % 2 == 0).all()
        if marker is not None:
            assert sorted(rows) == sorted(donors)
            assert (slides[rows] == slides[donors]).all()
            assert (rows != donors).all()


def test_the_same_seed_gives_the_same_losses(cells):
    adata, task = _predicted_by_one_marker(cells)

    first, second = (permutation_importance(adata, task, seed=2)["loss"] for _ in range(2))

    assert first.tolist() == pytest.approx(second.tolist())
