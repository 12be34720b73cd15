"""What a head rests on is lost when it is exchanged, and nothing else is."""

import numpy as np
import pytest

from mxsplicer.tl.probing import set_task
from mxsplicer.tl.reliance import measure_reliance


def _told_by_one_marker(cells):
    adata = cells(1200, n_slides=2)
    adata.obs["bright"] = np.where(adata.X[:, 2] > np.median(adata.X[:, 2]), "yes", "no")
    return adata, set_task(adata, label="bright", groups="quadrants")


def test_a_label_that_one_marker_tells_rests_on_that_marker_alone(cells):
    adata, task = _told_by_one_marker(cells)

    found = measure_reliance(adata, task).set_index("marker")

    assert found.loc["CD20", "loss"] > 0.4
    assert found.drop("CD20")["loss"].abs().max() < 0.03
    assert found["intact"].iloc[0] > 0.95
    assert found.loc["Empty", "loss"] == 0


def test_a_representation_is_embedded_anew_with_the_signal_of_another_cell_of_its_slide(cells):
    adata, task = _told_by_one_marker(cells)
    weights = np.random.default_rng(0).normal(size=(5, 12)).astype(np.float32)
    logged = np.log1p(adata.X)
    adata.obsm["X_splicer"] = logged @ weights
    asked = []

    def exchange(rows, partners, marker):
        asked.append((rows, partners, marker))
        x = logged[rows].copy()
        if marker is not None:
            x[:, marker] = logged[partners, marker]
        return x @ weights

    found = measure_reliance(
        adata, task, representation="X_splicer", exchange=exchange, candidates=np.arange(0, 1200, 2), max_cells=300
    ).set_index("marker")

    assert found["loss"].idxmax() == "CD20"
    slides = adata.obs["slide"].to_numpy()
    for rows, partners, marker in asked:
        assert len(rows) <= 300 // task.folds.n
        assert (rows % 2 == 0).all()
        if marker is not None:
            assert sorted(rows) == sorted(partners)
            assert (slides[rows] == slides[partners]).all()
            assert (rows != partners).all()


def test_the_same_seed_gives_the_same_losses(cells):
    adata, task = _told_by_one_marker(cells)

    first, second = (measure_reliance(adata, task, seed=2)["loss"] for _ in range(2))

    assert first.tolist() == pytest.approx(second.tolist())
