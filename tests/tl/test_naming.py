import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from mxsplicer import tl
from mxsplicer.errors import InputError
from mxsplicer.tl import reading

MARKERS = ["Hoechst", "CD3e", "CD8a", "CD20", "AF1"]


@pytest.fixture
def adata():
    """Return cells of four clusters: two of T cells, one of B cells, and one without a bright marker."""
    rng = np.random.default_rng(0)
    cluster = rng.integers(0, 4, 800)
    intensity = rng.gamma(9.0, 10.0, (800, 5))
    intensity[cluster <= 1, 1] *= 8
    intensity[cluster == 0, 2] *= 8
    intensity[cluster == 2, 3] *= 8
    intensity[cluster == 3, 0] *= 9
    intensity[cluster == 3, 4] *= 9
    obs = pd.DataFrame({"leiden": pd.Categorical(cluster.astype(str))}, index=[f"S_{i}" for i in range(800)])
    return AnnData(intensity.astype(np.float32), obs=obs, var=pd.DataFrame(index=MARKERS))


def test_profiles_are_means_of_the_standardised_logarithm_for_any_size_of_slices(adata, monkeypatch):
    monkeypatch.setattr(reading, "AT_ONCE", 100)
    adata.obs.loc[adata.obs_names[:30], "leiden"] = None

    profiles = tl.cluster_profiles(adata)

    logged = np.log1p(adata.X.astype(np.float64))
    standard = (logged - logged.mean(axis=0)) / logged.std(axis=0)
    for name in "0123":
        own = (adata.obs["leiden"] == name).to_numpy()
        np.testing.assert_allclose(profiles.loc[name], standard[own].mean(axis=0), atol=1e-5)


def test_a_cluster_is_named_after_its_bright_markers_and_never_after_nuclei_or_autofluorescence(adata):
    names = tl.name_clusters(adata)

    assert names.to_dict() == {"0": "CD8a+ CD3e+", "1": "CD3e+", "2": "CD20+", "3": "CD3e- CD20- CD8a-"}
    assert adata.obs["leiden_name"].iloc[0] == f"{adata.obs['leiden'].iloc[0]}: {names[adata.obs['leiden'].iloc[0]]}"


def test_clusters_that_would_share_a_name_get_the_next_marker_and_one_without_markers_is_named_so(adata):
    rng = np.random.default_rng(1)
    kind = np.repeat([0, 1, 2, 3], [100, 100, 100, 400])
    intensity = rng.lognormal(4, 0.2, (700, 5))
    intensity[kind < 2] *= 8
    intensity[kind == 0, 3:] *= 2
    cells = AnnData(
        intensity.astype(np.float32),
        obs=pd.DataFrame({"leiden": kind.astype(str)}, index=[f"S_{i}" for i in range(700)]),
        var=pd.DataFrame(index=["CD3e", "CD4", "CD45RO", "PD-1", "CD8a"]),
    )

    names = tl.name_clusters(cells)

    assert names["0"] != names["1"]
    assert all(len(name.split()) >= 3 for name in names[["0", "1"]])


def test_a_constant_marker_is_never_in_a_name(adata):
    adata.X[:, 3] = 0

    assert "CD20" not in " ".join(tl.name_clusters(adata))
    assert (tl.cluster_profiles(adata)["CD20"] == 0).all()


def test_missing_clusters_raise(adata):
    with pytest.raises(InputError, match=r"clusters 'kind' were not found in obs\. Run mxsplicer\.tl\.cluster first"):
        tl.name_clusters(adata, groupby="kind")
