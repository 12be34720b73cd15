import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.spatial import KDTree

from mxsplicer import tl
from mxsplicer.errors import InputError
from mxsplicer.tl.confounders import find_confounders, neighbourhood_intensity
from mxsplicer.tl.correlation import partial_correlation


def spilled(*, of_cells: bool, seed: int = 0, n: int = 6000) -> AnnData:
    """Return cells of which some have the faint marker "True", next to sources of the bright marker "Bright".

    The sources are cells, one in fifty, or fibres, which are not in the mask. A fifth of their signal spills over to a
    cell 6 µm away, as was measured for cells that touch several bright ones (docs/simulation-settings.md). The feature
    encodes which cells have "True".
    """
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 10 * np.sqrt(n), (n, 2))
    distance, other = KDTree(points).query(points, k=13)
    distance, other = distance[:, 1:], other[:, 1:]  # without the cell itself
    spill = 0.4 * np.exp(-distance / 10)
    is_source = rng.random(n) < 1 / 50
    has = (is_source[other] & (distance < 9)).any(axis=1) & ~is_source & (rng.random(n) < 0.8)
    has |= ~is_source & (rng.random(n) < 0.02)
    bright, true = is_source * rng.gamma(6, 400, n), has * rng.lognormal(np.log(100), 0.5, n)
    seen = [own + (spill * own[other]).sum(axis=1) for own in (bright, true)]
    around = np.stack([0 * bright, (spill * bright[other]).sum(axis=1), (spill * true[other]).sum(axis=1)], axis=1)
    unspecific = [rng.lognormal(np.log(level), 0.6, n) for level in (50, 240)]
    x = np.stack([rng.gamma(9, 50, n), *(one + ground for one, ground in zip(seen, unspecific, strict=True))], axis=1)
    adata = AnnData(
        x.astype(np.float32),
        var=pd.DataFrame(index=["DAPI", "Bright", "True"]),
        obsm={"X_splicer": (has + 0.3 * rng.normal(size=n)).astype(np.float32)[:, None], "spatial": points},
    )
    if not of_cells:
        adata.layers["surroundings"] = (around / 0.3 + rng.gamma(9, 5, (n, 3))).astype(np.float32)
        adata = adata[~is_source].copy()  # fibres are not in the mask
    return adata


@pytest.mark.parametrize("of_cells", [True, False], ids=["bright cells", "bright fibres"])
def test_the_partial_correlation_finds_the_true_marker_where_spill_over_misleads_pearsons_r(of_cells):
    plain, partial = [], []
    for seed in range(4):
        adata = spilled(of_cells=of_cells, seed=seed)
        tl.correlate(adata)
        plain.append(adata.varm["splicer_correlation"][1:, 0])
        partial.append(adata.varm["splicer_partial_correlation"][1:, 0])

    bright, true = np.mean(plain, axis=0)
    assert bright > 1.1 * true
    bright, true = np.mean(partial, axis=0)
    assert true > 0.05
    assert bright < 0.02  # negative for bright cells, which do not have the true marker
    assert adata.uns["splicer_correlation"]["light_from"].startswith("the 8 nearest" if of_cells else "layers")


def test_the_partial_correlation_is_that_of_the_residuals_of_regression_on_the_confounders():
    rng = np.random.default_rng(1)
    shared = rng.normal(size=(400, 1))
    x, z, around = (shared + rng.normal(size=(400, n)) for n in (4, 3, 4))
    r = np.corrcoef(np.hstack([x, z, around]).T)

    found = partial_correlation(r[:4, 4:7], r[:4, :4], r[:4, 7:], r[7:, 4:7], given=[0, 2])

    for marker in range(4):
        fixed = np.column_stack([np.ones(400), x[:, [one for one in (0, 2) if one != marker]], around[:, marker]])
        residual_x, *residuals_z = (y - fixed @ np.linalg.lstsq(fixed, y, rcond=None)[0] for y in (x[:, marker], *z.T))
        expected = [np.corrcoef(residual_x, one)[0, 1] for one in residuals_z]
        np.testing.assert_allclose(found[marker], expected, atol=1e-9)


def test_a_marker_identical_to_a_confounder_has_the_partial_correlation_0():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(300, 1)) * [1, 1]
    z, around = rng.normal(size=(300, 2)), rng.normal(size=(300, 2))
    r = np.corrcoef(np.hstack([x, z, around]).T)

    found = partial_correlation(r[:2, 2:4], r[:2, :2], r[:2, 4:], r[4:, 2:4], given=[0])

    assert (found[1] == 0).all()
    assert np.isfinite(found).all()


def test_neighbourhood_intensity_is_that_of_near_cells_of_the_same_slide(cells):
    adata = cells(9, n_slides=1)
    adata.obsm["spatial"] = np.array([[0, 0], [10, 0], [500, 0]] * 3, dtype=float) + np.repeat([0, 5000, 0], 3)[:, None]
    adata.obs["slide"] = pd.Categorical(np.repeat(["a", "b", "c"], 3))
    x = np.zeros((9, 5), dtype=np.float32)
    x[::3] = 100

    around, source = neighbourhood_intensity(adata, x)

    expected = np.tile([0, 100 * np.exp(-1), 0], 3)
    np.testing.assert_allclose(around[:, 0], expected, rtol=1e-5)
    assert source == "the 8 nearest cells within 30 µm"


def test_cells_without_measured_surroundings_get_the_mean(cells):
    adata = cells(40)
    adata.layers["surroundings"] = np.arange(200, dtype=np.float32).reshape(40, 5)
    adata.layers["surroundings"][3] = np.nan

    around, source = neighbourhood_intensity(adata, adata.X)

    np.testing.assert_allclose(around[3], np.delete(around, 3, axis=0).mean(axis=0), rtol=1e-6)
    assert source == 'layers["surroundings"]'


def test_confounders_can_be_named(cells):
    adata = cells(200)
    tl.correlate(adata, given=["CD20"])
    assert list(adata.uns["splicer_correlation"]["given"]) == ["CD20"]

    with pytest.raises(InputError, match="marker 'CD21' was not found; the cells have the markers Hoechst"):
        tl.correlate(adata, given=["CD21"])


def test_controls_are_recognised_by_their_names_and_markers_are_not_taken_for_them():
    controls = ["DAPI", "AF1", "Argo550", "Autofluorescence", "blank_3", "IgG1", "Background 2"]
    markers = ["AFP", "CD3e", "IgG-like", "Afadin", "BGN", "TIGIT"]

    assert find_confounders([*controls, *markers]) == controls
