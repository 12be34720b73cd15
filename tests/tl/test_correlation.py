import h5py
import numpy as np
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from mxsplicer import tl
from mxsplicer.errors import InputError
from mxsplicer.tl import reading, standardized_columns


def test_correlations_are_pearsons(cells):
    adata = cells(500)

    tl.correlate(adata)

    expected = np.corrcoef(adata.X[:, :4].T.astype(np.float64), adata.obsm["X_splicer"].T)[:4, 4:]
    np.testing.assert_allclose(adata.varm["splicer_correlation"][:4], expected, atol=1e-5)
    assert adata.varm["splicer_correlation"].dtype == np.float32


def test_constant_markers_and_features_have_the_correlation_0(cells):
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
    monkeypatch.setattr(reading, "AT_ONCE", 64)

    tl.correlate(adata, key_added="by_slices")

    np.testing.assert_allclose(adata.varm["by_slices"], adata.varm["splicer_correlation"], atol=1e-6)


def test_without_copies_of_the_markers_the_correlations_are_the_same(cells):
    adata, lean = cells(300), cells(300)
    tl.correlate(adata)
    tl.correlate(lean, lean=True)

    assert set(adata.varm) == set(lean.varm)
    for name in adata.varm:
        np.testing.assert_allclose(lean.varm[name], adata.varm[name], atol=2e-6)


def test_large_offsets_do_not_spoil_the_correlation(cells):
    adata = cells(500)
    adata.obsm["X_shifted"] = adata.obsm["X_splicer"] + np.float32(1000)
    tl.correlate(adata)

    tl.correlate(adata, use_rep="X_shifted")

    np.testing.assert_allclose(adata.varm["shifted_correlation"], adata.varm["splicer_correlation"], atol=1e-3)


def test_a_missing_representation_is_named_with_the_keys_of_obsm(cells):
    with pytest.raises(InputError, match=r"'X_pca' was not found; obsm has the keys spatial, X_splicer, X_untrained"):
        tl.correlate(cells(50), use_rep="X_pca")


def test_spearmans_are_scipys(cells):
    adata = cells(500)
    adata.X[:, 2] = np.round(adata.X[:, 2], -2)  # ties
    adata.obsm["X_splicer"][:250, 5] = 0

    tl.correlate(adata)

    expected = spearmanr(np.hstack([adata.X[:, :4], adata.obsm["X_splicer"]])).statistic[:4, 4:]
    np.testing.assert_allclose(adata.varm["splicer_spearman"][:4], expected, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["normal", "lognormal", "zeros", "whole", "one outlier"]))
def test_ranks_by_steps_give_the_same_rho_as_ranks_by_sorting(seed, kind):
    rng = np.random.default_rng(seed)
    x, y = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 4000).T.astype(np.float32)
    shaped = {
        "normal": x,
        "lognormal": np.exp(4 * x),
        "zeros": np.maximum(x, 0),
        "whole": np.round(x),
        "one outlier": np.append(x[:-1], np.float32(1e6)),
    }[kind]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(standardized_columns, "_N_STEPS", 2048)  # fewer steps than cells, as beyond 65,536 cells
        adata = AnnData(shaped[:, None], obsm={"X_splicer": y[:, None]})
        tl.correlate(adata)

    assert adata.varm["splicer_spearman"][0, 0] == pytest.approx(spearmanr(shaped, y).statistic, abs=1e-4)


def test_correlations_do_not_depend_on_the_chunks_of_the_file(cells, tmp_path):
    adata = cells(500, d=40)
    z = adata.obsm["X_splicer"]
    tl.correlate(adata)
    for number, chunks in enumerate([(100, 16), (100, 7), (50, 40), None]):
        with h5py.File(tmp_path / f"{number}.h5", "w") as file:
            stored = file.create_dataset("z", data=z, chunks=chunks)
            on_disk = AnnData(adata.X, obs=adata.obs, var=adata.var[[]], uns={"mxsplicer": adata.uns["mxsplicer"]})
            on_disk.obsm["spatial"], on_disk.obsm["X_splicer"] = adata.obsm["spatial"], stored
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(reading, "_COLUMN_BYTES", 4 * 500 * 20)
                patch.setattr(reading, "_BLOCK_BYTES", 4 * 500 * 6)
                tl.correlate(on_disk)
                assert len(list(reading.read_columns(stored))) == reading.count_column_groups(stored)
            for name in ("correlation", "spearman", "partial_correlation", "correlation_p"):
                found, expected = on_disk.varm[f"splicer_{name}"], adata.varm[f"splicer_{name}"]
                np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
            assert on_disk.var["splicer_r2_mean"].to_numpy() == pytest.approx(adata.var["splicer_r2_mean"], nan_ok=True)


@pytest.fixture
def measured():
    """Return cells whose z encodes mean, texture and localisation of one marker each."""
    rng = np.random.default_rng(1)
    n, m = 3000, 3
    mean, texture, place = rng.lognormal(5, 0.6, (n, m)), rng.normal(size=(n, m)), rng.normal(size=(n, m))
    adata = AnnData(mean.astype(np.float32), obsm={"spatial": rng.uniform(0, 900, (n, 2))})
    adata.var_names = ["CD3e", "CD8", "PD-L1"]
    adata.layers["std"] = np.sqrt(mean) * np.exp(0.3 * texture)  # photon noise: brighter cells have more texture
    adata.layers["ring"] = mean**1.1 * np.exp(0.2 * place)
    hidden = np.stack([np.log(mean[:, 0]), texture[:, 1], place[:, 2], rng.normal(size=n)], axis=1)
    adata.obsm["X_splicer"] = (hidden @ rng.normal(size=(4, 12)) + 0.05 * rng.normal(size=(n, 12))).astype(np.float32)
    return adata


def test_r2_distinguishes_mean_texture_and_localisation(measured):
    tl.correlate(measured)

    expected = {"mean": [1, 0, 0], "texture": [0, 1, 0], "localisation": [0, 0, 1]}
    for name, values in expected.items():
        np.testing.assert_allclose(measured.var[f"splicer_r2_{name}"], values, atol=0.12)
    assert measured.uns["splicer_correlation"]["left_out"].size == 0


def test_a_percentile_and_the_nucleus_replace_std_and_ring(measured):
    layers = {"p90": measured.layers["std"], "p10": measured.X, "nucleus": measured.layers["ring"]}
    instead = AnnData(measured.X, var=measured.var, obsm=measured.obsm, layers=layers)

    tl.correlate(instead)

    assert instead.uns["splicer_correlation"]["targets"] == {
        "mean": "log(1 + mean)",
        "texture": "log(1 + p90) given log(1 + mean)",
        "localisation": "log(1 + nucleus) - log(1 + mean), given it",
    }
    assert instead.var["splicer_r2_localisation"].iloc[2] > 0.85


def test_r2_of_an_untrained_representation_is_about_zero(cells):
    adata = cells(2000)

    tl.correlate(adata, use_rep="X_untrained")

    r2 = adata.var["untrained_r2_mean"]
    assert (r2[:4] < 0.01).all()
    assert np.isnan(r2.iloc[4])  # the empty channel


def test_the_diagonal_shows_which_markers_z_distinguishes(measured):
    rng = np.random.default_rng(0)
    both = np.log(measured.X[:, 0]) + np.log(measured.X[:, 1])  # z encodes only the sum of CD3e and CD8
    measured.obsm["X_splicer"] = np.stack([both, np.log(measured.X[:, 2])], 1) + 0.01 * rng.normal(size=(3000, 2))

    tl.correlate(measured)

    diagonal = measured.uns["splicer_correlation"]["diagonal"]
    np.testing.assert_allclose(diagonal[:2, :2], 0.7, atol=0.1)
    assert diagonal[2, 2] > 0.99
    assert diagonal[2, :2].max() < 0.1


def test_without_centroids_only_pearson_and_spearman_are_computed(cells):
    adata = cells(300)
    del adata.obsm["spatial"]

    tl.correlate(adata)

    assert set(adata.varm) == {"splicer_correlation", "splicer_spearman"}
    left_out = " ".join(adata.uns["splicer_correlation"]["left_out"])
    for what in ("partial correlation", "p-values", "R²"):
        assert what in left_out


def test_correlating_again_deletes_earlier_results(measured):
    tl.correlate(measured)
    del measured.layers["ring"]

    tl.correlate(measured)

    assert "splicer_r2_localisation" not in measured.var
    assert "splicer_r2_texture" in measured.var


def test_partners_are_the_strongest_features_and_what_is_not_significant_is_marked(cells):
    adata = cells(600)
    tl.correlate(adata)

    table = tl.partners(adata, top=5)

    of_cd3 = table[table["marker"] == "CD3e"]
    assert len(table) == 25
    assert (table["name"] == [f"feature {number}" for number in table["feature"]]).all()
    assert of_cd3["r"].abs().is_monotonic_decreasing
    assert not of_cd3["by_chance"].iloc[0]
    assert table[table["marker"] == "CD20"]["by_chance"].all()
    with pytest.raises(InputError, match="correlations 'joint_correlation' were not found"):
        tl.partners(adata, key="joint_correlation")


def test_partners_are_called_by_the_names_of_the_representation_that_was_correlated(cells):
    adata = cells(300)
    names = np.array([f"CD3e kind {number}" for number in range(32)])
    adata.uns["mxsplicer"]["features"] = names
    for use_rep in ("X_splicer", "X_untrained"):
        tl.correlate(adata, use_rep=use_rep, key_added=f"{use_rep}_correlation")

    own, other = (tl.partners(adata, key=f"{use_rep}_correlation") for use_rep in ("X_splicer", "X_untrained"))

    assert (own["name"] == names[own["feature"]]).all()
    assert other["name"].iloc[0] == f"feature {other['feature'].iloc[0]}"


def test_values_that_are_not_finite_raise(cells):
    adata = cells(100)
    adata.obsm["X_splicer"][[3, 5], 2] = np.nan

    with pytest.raises(InputError, match="the representation has values that are not finite in 2 cells"):
        tl.correlate(adata)
