"""Rank, silhouette and clusters agree with the known structure of the features."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import silhouette_score
from sklearn.preprocessing import StandardScaler

from mxsplicer.tl.structure import measure_structure, rank_me, singular_values_of
from mxsplicer.tl.tasks import set_task


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(12, 40), st.floats(0.1, 1000))
def test_rank_me_is_the_number_of_dimensions_for_any_scale(rank, d, scale):
    rng = np.random.default_rng(rank)
    z = np.zeros((200, d))
    z[:, :rank] = np.linalg.qr(rng.normal(size=(200, rank)))[0] * scale
    rotation = np.linalg.qr(rng.normal(size=(d, d)))[0]

    assert rank_me(singular_values_of(z @ rotation)) == pytest.approx(rank, rel=0.01)


def test_the_spectrum_is_that_of_a_singular_value_decomposition():
    z = np.random.default_rng(0).normal(size=(60, 9)).astype(np.float32) + 3

    np.testing.assert_allclose(singular_values_of(z), np.linalg.svd(z.astype(np.float64), compute_uv=False), rtol=1e-6)


def test_silhouette_and_clusters_distinguish_separated_classes_from_noise(cells):
    adata = cells(900)
    adata.obsm["X_splicer"][(adata.obs["kind"] == "T cell").to_numpy()] += 4
    task = set_task(adata, label="kind")

    table, spectra = measure_structure(adata, task)

    by_name = table.set_index("representation")
    assert by_name.loc["SpliCER", ["nmi", "ari"]].min() > 0.9
    assert by_name.loc["untrained encoder", ["nmi", "ari"]].abs().max() < 0.05
    scaled = StandardScaler().fit_transform(adata.obsm["X_splicer"][task.rows])
    assert by_name.loc["SpliCER", "silhouette"] == pytest.approx(silhouette_score(scaled, task.codes), abs=1e-3)
    assert by_name.loc["mean intensity", "features"] == 5
    assert spectra.groupby("representation").size().to_dict() == by_name["features"].to_dict()
