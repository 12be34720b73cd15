import numpy as np
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st

from mxsplicer import tl
from mxsplicer.errors import InputError


@pytest.fixture
def tissue(cells):
    adata = cells(2000)
    rng = np.random.default_rng(5)
    left = adata.obsm["spatial"][:, :1] < 250
    z = rng.normal(size=(2000, 3)).astype(np.float32)
    adata.obsm["X_splicer"] = z
    adata.X[:, 1] = 1000 + 10 * (np.where(left[:, 0], 1, -1) * z[:, 1] + 0.5 * rng.normal(size=2000))
    return adata


def within(adata, feature, marker, radius_um):
    """Return Pearson's r in the disc around each cell, computed for one cell at a time."""
    distance = np.hypot(*(adata.obsm["spatial"][:, None] - adata.obsm["spatial"][None]).transpose(2, 0, 1))
    x, z = adata.X[:, marker], adata.obsm["X_splicer"][:, feature]
    return np.array([np.corrcoef(x[near], z[near])[0, 1] for near in distance <= radius_um])


def test_correlations_of_opposite_sign_are_found_on_each_side(tissue):
    name = tl.local_correlation(tissue, "CD3e", 1)

    x, found = tissue.obsm["spatial"][:, 0], tissue.obs[name]
    assert name == "local_CD3e_1_neighbourhood"
    assert found[x < 190].median() > 0.8
    assert found[x > 310].median() < -0.8


@pytest.mark.parametrize("radius_um", [30, 60, 200])
def test_the_correlation_is_pearsons_in_a_disc_around_the_cell(tissue, radius_um):
    name = tl.local_correlation(tissue, "CD3e", 1, radius_um=radius_um)

    expected = within(tissue, 1, 1, radius_um)
    assert np.nanmedian(np.abs(tissue.obs[name] - expected)) < 0.06  # the disc is approximated by strips


def test_nearest_neighbours_are_counted_exactly(tissue):
    name = tl.local_correlation(tissue, "CD3e", 1, n_neighbours=25)

    distance = np.hypot(*(tissue.obsm["spatial"][7] - tissue.obsm["spatial"]).T)
    near = np.argsort(distance)[:25]
    expected = np.corrcoef(tissue.X[near, 1], tissue.obsm["X_splicer"][near, 1])[0, 1]
    assert tissue.obs[name].iloc[7] == pytest.approx(expected, abs=1e-4)


def test_contributions_of_cells_average_to_pearsons_r(tissue):
    tl.correlate(tissue)

    name = tl.local_correlation(tissue, "CD3e", 1, scale="cell")

    assert tissue.obs[name].mean() == pytest.approx(tissue.varm["splicer_correlation"][1, 1], abs=1e-4)


def test_all_markers_are_written_into_a_layer(tissue):
    name = tl.local_correlation(tissue, None, 1, scale="region")
    one = tl.local_correlation(tissue, "CD3e", 1, scale="region")

    assert name == "local_1_region"
    np.testing.assert_array_equal(tissue.layers[name][:, 1], tissue.obs[one])
    assert np.isnan(tissue.layers[name][:, 4]).all()  # the empty channel


def test_a_neighbourhood_has_cells_of_one_slide_only(tissue):
    tissue.obs["slide"] = np.where(np.arange(2000) % 2, "a", "b")
    alone = tissue[tissue.obs["slide"] == "a"].copy()

    name = tl.local_correlation(tissue, "CD3e", 1)
    tl.local_correlation(alone, "CD3e", 1)

    np.testing.assert_allclose(tissue.obs[name][tissue.obs["slide"] == "a"], alone.obs[name], atol=1e-5)


def test_a_feature_is_given_by_its_name_or_its_number_and_the_result_has_its_name(tissue):
    tissue.uns["mxsplicer"]["features"] = np.array(["CD3e level", "CD3e with HLA-DR/DP", "learned 1"])

    by_number = tl.local_correlation(tissue, "CD3e", 1)
    values = tissue.obs.pop(by_number)
    by_name = tl.local_correlation(tissue, "CD3e", "CD3e with HLA-DR/DP")

    assert by_number == by_name == "local_CD3e_CD3e_with_HLA-DR_DP_neighbourhood"
    np.testing.assert_array_equal(values, tissue.obs[by_name])
    assert tl.local_correlation(tissue, None, 2, scale="cell") == "local_learned_1_cell"


def test_few_cells_have_no_correlation(cells):
    adata = cells(30)

    name = tl.local_correlation(adata, "CD3e", 0, radius_um=1)

    assert adata.obs[name].isna().all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"marker": "CD4"}, "marker 'CD4' was not found"),
        ({"feature": 99}, "feature 99 was not found; the 3 features are counted from 0"),
        ({"scale": "organ"}, "scale 'organ' is unknown; the scales are cell, neighbourhood, region"),
        ({"radius_um": 20, "n_neighbours": 5}, "both `radius_um` and `n_neighbours` are given"),
        ({"radius_um": -1}, "`radius_um` is -1; it must be more than 0"),
        ({"n_neighbours": 2}, "`n_neighbours` is 2; a correlation needs 3 or more cells"),
    ],
)
def test_arguments_that_cannot_be_used_raise(tissue, wrong, message):
    with pytest.raises(InputError, match=message):
        tl.local_correlation(tissue, **({"marker": "CD3e", "feature": 1} | wrong))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.floats(0.1, 1e4), st.integers(0, 2**32 - 1))
def test_local_correlations_lie_between_minus_one_and_one_or_are_missing(n, extent, seed):
    rng = np.random.default_rng(seed)
    x, z = rng.integers(0, 3, (2, n, 1)).astype(float)
    adata = AnnData(x, obsm={"X_splicer": z + 1e6, "spatial": rng.uniform(0, extent, (n, 2))})
    adata.var_names = ["CD3e"]

    for how in ({"radius_um": extent / 3}, {"n_neighbours": 12}):
        found = adata.obs[tl.local_correlation(adata, "CD3e", 0, **how)].to_numpy()
        assert (np.isnan(found) | (np.abs(found) <= 1)).all()
