import anndata
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mxsplicer import tl
from mxsplicer.errors import InputError
from mxsplicer.tl.probing import METRICS
from mxsplicer.tl.tasks import set_task


@pytest.fixture(scope="module")
def scored(cells):
    adata = cells(1500)
    return adata, tl.probe(adata, label="kind")


def test_a_planted_signal_is_found_and_noise_is_at_chance(scored):
    _, scores = scored
    by_name = scores.set_index("representation")

    assert by_name.loc["SpliCER", "balanced_accuracy"] > 0.9
    assert by_name.loc["SpliCER", "auroc"] > 0.97
    assert by_name.loc["SpliCER", "knn_balanced_accuracy"] > 0.8
    for metric in ("balanced_accuracy", "macro_f1", "average_precision", "auroc", "knn_balanced_accuracy"):
        assert abs(by_name.loc["untrained encoder", metric] - 0.5) < 0.06


def test_mean_intensity_is_scored_and_gains_are_over_it(scored):
    _, scores = scored
    by_name = scores.set_index("representation")

    assert set(by_name.index) == {
        "SpliCER",
        "untrained encoder",
        "mean intensity",
        "mean intensity and shape",
        "PCA of mean intensity",
    }
    difference = by_name["balanced_accuracy"] - by_name.loc["mean intensity", "balanced_accuracy"]
    np.testing.assert_allclose(by_name["gain"], difference, atol=1e-12)
    assert by_name.loc["mean intensity", "gain_sd"] == 0


def test_scores_describe_how_they_were_computed(scored):
    row = scored[1].iloc[0]

    assert (row["label"], row["n_classes"], row["chance"], row["folds"]) == ("kind", 2, 0.5, 4)
    assert row["folds_by"] == "quadrant of the slide, 16 µm guard band"
    assert row["classes"] == "B cell, T cell"
    assert row["n_cells"] < 1500  # those in the guard band are not scored


def test_the_same_seed_gives_the_same_scores(cells):
    tables = [tl.probe(cells(400), label="kind", seed=3) for _ in range(2)]

    pd.testing.assert_frame_equal(*tables)


def test_scores_of_several_labels_survive_a_file(cells, tmp_path):
    adata = cells(400)
    adata.obs["half"] = np.where(adata.X[:, 0] > 100, "bright", "dark")
    tl.probe(adata, label="kind", representations=["SpliCER"])
    tl.probe(adata, label="half", representations=["SpliCER"])
    tl.probe(adata, label="kind", representations=["SpliCER"])

    adata.write_h5ad(tmp_path / "cells.h5ad")

    back = anndata.read_h5ad(tmp_path / "cells.h5ad").uns["mxsplicer_probe"]
    assert list(back["label"]) == ["half", "half", "kind", "kind"]
    assert tl.verdict(back) == tl.verdict(adata.uns["mxsplicer_probe"])


def test_training_uses_at_most_max_cells_per_class(cells):
    few = tl.probe(cells(900), label="kind", representations=["SpliCER"], max_cells_per_class=10)
    many = tl.probe(cells(900), label="kind", representations=["SpliCER"])

    assert few["balanced_accuracy"].iloc[0] < many["balanced_accuracy"].iloc[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "type"}, "label 'type' was not found; obs has the columns cell_id, slide, kind"),
        ({"label": "slide"}, "cannot be scored by quadrant of the slide, .* two are needed"),
        ({"label": "kind", "groups": "patient"}, "column 'patient' was not found"),
        ({"label": "kind", "representations": ["X_pca"]}, "representation 'X_pca' was not found"),
    ],
)
def test_what_cannot_be_scored_raises_one_sentence(cells, options, message):
    with pytest.raises(InputError, match=message):
        tl.probe(cells(200), **options)


def _patchy(n, *, length_um, n_fields, seed):
    """Return points (n, 2) in µm, and unrelated fields (n, n_fields) that vary smoothly over the tissue."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 1000, (n, 2))
    waves, phases = rng.normal(size=(2, 4 * n_fields)) / length_um, rng.uniform(0, 2 * np.pi, 4 * n_fields)
    return points, np.cos(points @ waves + phases) @ rng.normal(size=(4 * n_fields, n_fields))


def test_a_random_split_overestimates_where_labels_and_features_are_patchy_and_guarded_folds_do_not(cells):
    adata = cells(3000)
    points, fields = _patchy(3000, length_um=40, n_fields=101, seed=5)
    adata.obsm["spatial"] = points
    adata.obsm["X_splicer"] = fields[:, 1:].astype(np.float32)
    adata.obs["noise"] = np.where(fields[:, 0] > 0, "up", "down")

    scores = tl.probe(adata, label="noise", representations=["SpliCER"], guard_um=40, unsafe_random_split=True)

    splicer = scores.set_index("representation").loc["SpliCER"]
    assert splicer["random_split"] > 0.75
    assert abs(splicer["balanced_accuracy"] - 0.5) < 2.5 * splicer["balanced_accuracy_sd"] + 0.03
    assert splicer["leak"] == pytest.approx(splicer["random_split"] - splicer["balanced_accuracy"])
    assert splicer["leak"] > 0.2


@pytest.mark.parametrize("seed", range(3))
def test_permuted_labels_are_scored_at_chance(cells, seed):
    adata = cells(1200, seed=seed)
    adata.obs["kind"] = np.random.default_rng(seed).permutation(adata.obs["kind"])

    scores = tl.probe(adata, label="kind", representations=["SpliCER", "mean intensity and shape"])

    for metric in METRICS:
        assert (abs(scores[metric] - 0.5) < 2 * scores[f"{metric}_sd"] + 0.03).all(), metric


def test_scores_are_those_of_scikit_learn_on_the_same_folds(cells):
    adata = cells(900)
    task = set_task(adata, label="kind")
    z = adata.obsm["X_splicer"][task.rows]
    expected = []
    for fold in range(task.folds.n):
        test = task.folds.of_cell == fold
        model = make_pipeline(StandardScaler(), LogisticRegression(C=1e-2, class_weight="balanced"))
        model.fit(z[~test], task.codes[~test])
        expected.append(roc_auc_score(task.codes[test], model.predict_proba(z[test])[:, 1]))

    scores = tl.probe(adata, label="kind", representations=["SpliCER"])

    assert scores["auroc"].iloc[0] == pytest.approx(np.mean(expected), abs=0.01)


def test_concatenated_features_add_information_and_many_features_of_noise_cost_nothing(cells):
    adata, rng = cells(1500), np.random.default_rng(0)
    is_t = (adata.obs["kind"] == "T cell").to_numpy()
    weak = [rng.normal(size=(len(is_t), 3)) + 0.5 * is_t[:, None] for _ in range(2)]
    adata.obsm.update(X_this=weak[0], X_that=weak[1], X_noise=rng.normal(size=(len(is_t), 400)))
    names = ["X_this", "X_that", "X_this + X_that", "X_noise + X_that"]

    by_name = tl.probe(adata, label="kind", representations=names).set_index("representation")["balanced_accuracy"]

    assert by_name["X_this + X_that"] > max(by_name["X_this"], by_name["X_that"]) + 0.03
    assert by_name["X_noise + X_that"] == pytest.approx(by_name["X_that"], abs=0.01)


def test_concatenation_with_an_unknown_representation_raises(cells):
    with pytest.raises(InputError, match="X_nothing"):
        tl.probe(cells(300), label="kind", representations=["SpliCER + X_nothing"])


def test_the_score_of_mean_intensity_does_not_depend_on_its_unit(cells):
    adata = cells(1000)
    rng = np.random.default_rng(0)
    kind = (adata.obs["kind"] == "T cell").to_numpy()
    adata.X = np.exp(rng.normal(5, 2, adata.shape) + 0.8 * kind[:, None]).astype(np.float32)  # over several decades
    dim = adata.copy()
    dim.X = adata.X / 10_000

    scores = [tl.probe(a, label="kind").set_index("representation").loc["mean intensity"] for a in (adata, dim)]

    assert scores[1]["balanced_accuracy"] == pytest.approx(scores[0]["balanced_accuracy"], abs=0.03)
