import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from mxsplicer.report.limitations import limitations_section

MARKERS = ["DAPI", "CD3e", "CD20", "AF1", "CD8a"]


def cells(n=4000, n_slides=2, seed=0):
    rng = np.random.default_rng(seed)
    slide = rng.integers(0, n_slides, n)
    obs = pd.DataFrame(
        {"slide": pd.Categorical([f"S{i}" for i in slide]), "leiden": pd.Categorical(rng.integers(0, 3, n).astype(str))}
    )
    obs.index = obs.index.astype(str)
    adata = AnnData(rng.gamma(2, 9, (n, 5)).astype(np.float32), obs=obs, var=pd.DataFrame(index=MARKERS))
    r = rng.uniform(-0.3, 0.3, (5, 50))
    r[np.arange(50) % 5, np.arange(50)] = 0.6
    r[3] = np.clip(r[3], -0.2, 0.2)  # no feature is correlated with autofluorescence
    adata.varm["splicer_correlation"] = r
    return adata, rng.normal(size=(n, 8)).astype(np.float32)


def limitations_of(adata, z, scores=None):
    rows = np.arange(adata.n_obs)
    return " ".join(limitations_section(adata, [], scores, "splicer_correlation", z, rows))


def test_good_data_without_labels_has_one_limitation():
    text = limitations_of(*cells())

    assert text == "No labels were given, so the features were not compared with other descriptions of the cells."


def test_features_that_represent_one_marker_or_autofluorescence_or_nothing_are_reported():
    adata, z = cells()
    adata.varm["splicer_correlation"][1, :30] = 0.9
    adata.varm["splicer_correlation"][3, 40] = 0.95
    adata.varm["splicer_correlation"][4] = 0.05

    text = limitations_of(adata, z)

    assert "76% of the features are correlated with CD3e more strongly than with any other marker" in text
    assert "with channels without an antibody (AF1)" in text
    assert "No feature represents CD8a (|r| below 0.15 for all)" in text


@pytest.mark.parametrize("is_true", [True, False])
def test_clusters_are_called_those_of_one_marker_only_where_they_are(is_true):
    adata, z = cells()
    adata.varm["splicer_correlation"][1, :30] = 0.9
    rows = adata.obs["leiden"] == "0"
    adata.X[rows.to_numpy(), 1] *= 20
    if not is_true:
        for marker in (0, 2, 3, 4):
            adata.X[(adata.obs["leiden"] == "1").to_numpy(), marker] *= 20

    text = limitations_of(adata, z)

    assert "of the features are correlated with CD3e more strongly than with any other marker" in text
    assert ("of the differences between clusters: they mainly reflect this marker" in text) == is_true


def test_correlations_that_spill_over_or_chance_could_explain_are_reported():
    adata, z = cells()
    partial = adata.varm["splicer_correlation"].copy()
    partial[2] *= 0.3
    adata.varm["splicer_partial_correlation"] = partial
    p = np.full((5, 50), 1e-6)
    p[1] = 0.4
    adata.varm["splicer_correlation_p"] = p
    adata.uns["splicer_correlation"] = {"p_5pct_fdr": 0.03}

    text = limitations_of(adata, z)

    assert "Less than half of the correlation of the features with CD20 remains" in text
    assert "No feature is significantly correlated with CD3e," in text


def test_slides_that_can_be_recognised_and_clusters_that_are_small_or_of_one_slide_are_reported():
    adata, z = cells()
    z[:, 0] += 6 * adata.obs["slide"].cat.codes.to_numpy()
    clusters = np.where(adata.obs["slide"] == "S0", "a", "b").astype(object)
    clusters[:3] = "c"
    adata.obs["leiden"] = pd.Categorical(clusters)
    adata.uns["mxsplicer_cluster"] = {"n_clustered": 1000}

    text = limitations_of(adata, z)

    assert "can be recognised from the features: 100% of its nearest neighbours are from the same slide" in text
    assert "Clusters with fewer than 10 cells: c." in text
    assert "1,000 of the 4,000 cells were clustered" in text
    assert "90 % or more of their cells on one slide: a, b" in text


@pytest.mark.parametrize(("untrained", "reported"), [(0.79, True), (0.85, True), (0.6, False)])
def test_an_untrained_encoder_with_a_similar_score_is_reported(untrained, reported):
    scores = pd.DataFrame(
        {
            "label": "kind",
            "representation": ["SpliCER", "untrained encoder"],
            "balanced_accuracy": [0.8, untrained],
            "balanced_accuracy_sd": 0.02,
            "left_out": "",
        }
    )

    assert ("an untrained encoder scores" in limitations_of(*cells(), scores)) == reported


def test_a_mask_that_covers_little_of_the_tissue_is_reported():
    adata, z = cells()
    adata.uns.setdefault("mxsplicer", {})["few_cells"] = {"S01": "only 7 cells were found on slide 'S01'."}

    assert "Only 7 cells were found on slide 'S01'." in limitations_of(adata, z)
