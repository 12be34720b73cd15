"""Slides that look alike cannot be told apart, slides that were stained differently can."""

import numpy as np
import pytest

from mxsplicer.errors import InputError
from mxsplicer.tl.mixing import measure_mixing


def test_a_shift_of_one_slide_is_found_where_it_is_and_nowhere_else(cells):
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


def test_one_slide_is_refused(cells):
    with pytest.raises(InputError, match="'slide' cannot be scored"):
        measure_mixing(cells(200))


def test_measures_of_scib_stand_beside_where_it_is_installed(cells):
    pytest.importorskip("scib_metrics")
    adata = cells(600, n_slides=2)
    adata.obsm["X_splicer"][(adata.obs["slide"] == "S01").to_numpy()] += 3

    mixing = measure_mixing(adata, representations=["SpliCER", "untrained encoder"]).set_index("representation")

    apart, mixed = mixing.loc["SpliCER"], mixing.loc["untrained encoder"]
    assert apart["ilisi"] < 0.1
    assert mixed["ilisi"] > 0.8
    assert apart["kbet"] < mixed["kbet"]
    assert apart["pcr"] > mixed["pcr"]
