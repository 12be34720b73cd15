import numpy as np
import pytest

from mxsplicer import tl
from mxsplicer.errors import InputError
from mxsplicer.tl import rows


def test_correlations_are_pearsons(cells):
    adata = cells(500)

    tl.correlate(adata)

    expected = np.corrcoef(adata.X[:, :4].T.astype(np.float64), adata.obsm["X_splicer"].T)[:4, 4:]
    np.testing.assert_allclose(adata.varm["splicer_correlation"][:4], expected, atol=1e-5)
    assert adata.varm["splicer_correlation"].dtype == np.float32


def test_a_marker_without_signal_and_a_dead_feature_follow_nothing(cells):
    adata = cells(200)
    adata.obsm["X_splicer"][:, 3] = 0.1  # not exact in binary: its variance is not exactly 0 either

    tl.correlate(adata)

    r = adata.varm["splicer_correlation"]
    assert (r[4] == 0).all()
    assert (r[:, 3] == 0).all()
    assert np.isfinite(r).all()


def test_slices_of_any_size_give_the_same(cells, monkeypatch):
    adata = cells(500)
    tl.correlate(adata)
    monkeypatch.setattr(rows, "AT_ONCE", 64)

    tl.correlate(adata, key_added="by_slices")

    np.testing.assert_allclose(adata.varm["by_slices"], adata.varm["splicer_correlation"], atol=1e-6)


def test_large_offsets_do_not_spoil_the_correlation(cells):
    adata = cells(500)
    adata.obsm["X_shifted"] = adata.obsm["X_splicer"] + np.float32(1000)
    tl.correlate(adata)

    tl.correlate(adata, use_rep="X_shifted")

    np.testing.assert_allclose(adata.varm["shifted_correlation"], adata.varm["splicer_correlation"], atol=1e-3)


def test_a_missing_representation_is_named_with_those_there_are(cells):
    with pytest.raises(InputError, match=r"'X_pca'; obsm holds: spatial, X_splicer, X_untrained"):
        tl.correlate(cells(50), use_rep="X_pca")
