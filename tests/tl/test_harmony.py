"""Harmony gets the right arguments, and its result is written next to the features."""

import sys
from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pytest

from mxsplicer.errors import InputError
from mxsplicer.tl import harmony


def cells():
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"batch": ["a", "b"] * 10, "one": "x"}, index=[str(i) for i in range(20)])
    return anndata.AnnData(obs=obs, obsm={"X_splicer": rng.normal(size=(20, 3)).astype(np.float32)})


@pytest.mark.parametrize("transposed", [True, False])  # harmonypy before version 1 had cells in columns
def test_the_corrected_representation_is_a_new_key_of_obsm(monkeypatch, transposed):
    def run_harmony(z, obs, batch, *, random_state):
        assert (z.shape, list(obs[batch][:2]), random_state) == ((20, 3), ["a", "b"], 7)
        return SimpleNamespace(Z_corr=(z + 1).T if transposed else z + 1)

    monkeypatch.setitem(sys.modules, "harmonypy", SimpleNamespace(run_harmony=run_harmony, __spec__=object()))
    adata = cells()
    before = adata.obsm["X_splicer"].copy()

    harmony.harmonize(adata, batch="batch", seed=7)

    np.testing.assert_allclose(adata.obsm["X_harmony"], before + 1, rtol=1e-6)
    np.testing.assert_array_equal(adata.obsm["X_splicer"], before)


def test_a_single_batch_or_a_missing_harmonypy_raises(monkeypatch):
    with pytest.raises(InputError, match="'one' has one value"):
        harmony.harmonize(cells(), batch="one")
    monkeypatch.setattr(harmony, "find_spec", lambda _: None)
    with pytest.raises(InputError, match="pip install harmonypy"):
        harmony.harmonize(cells(), batch="batch")
