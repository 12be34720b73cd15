import anndata
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mxsplicer import tl
from mxsplicer.errors import InputError
from mxsplicer.tl.probing import METRICS, score
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


def _neighbours(x, task):
    """Return the mean over folds of the balanced accuracy of 20 neighbours, by scikit-learn."""
    scores = []
    for fold in range(task.folds.n):
        test = task.folds.of_cell == fold
        model = KNeighborsClassifier(20).fit(x[~test], task.codes[~test])
        scores.append(balanced_accuracy_score(task.codes[test], model.predict(x[test])))
    return np.mean(scores)


def test_neighbours_are_searched_in_learned_features_as_they_are_and_in_scaled_log_intensities(cells):
    adata = cells(900)
    adata.obsm["X_splicer"][:, -1] *= 100  # noise that owns the distance unless the features are standardised
    task = set_task(adata, label="kind")

    scores = tl.probe(adata, label="kind").set_index("representation")["knn_balanced_accuracy"]

    scaled = StandardScaler().fit_transform(np.log1p(adata.X))[task.rows]  # by all cells
    assert scores["SpliCER"] == pytest.approx(_neighbours(adata.obsm["X_splicer"][task.rows], task), abs=1e-6)
    assert scores["mean intensity"] == pytest.approx(_neighbours(scaled, task), abs=0.01)
    standardised = StandardScaler().fit_transform(adata.obsm["X_splicer"][task.rows])
    assert scores["SpliCER"] < _neighbours(standardised, task) - 0.1


def test_the_gain_of_the_trained_representation_is_paired_over_folds(scored):
    scores = scored[1].set_index("representation")

    for gain, metric in (("trained_gain", "balanced_accuracy"), ("knn_trained_gain", "knn_balanced_accuracy")):
        np.testing.assert_allclose(scores[gain], scores.loc["SpliCER", metric] - scores[metric], atol=1e-12)
        assert scores.loc["SpliCER", f"{gain}_sd"] == 0
        assert scores.loc["untrained encoder", f"{gain}_sd"] > 0


def test_compartment_statistics_find_what_lies_in_the_rim_by_neighbours_too(cells):
    adata, rng = cells(1200), np.random.default_rng(0)
    is_t = (adata.obs["kind"] == "T cell").to_numpy()
    statistics = rng.normal(size=(len(is_t), 5, 1)) * 0.05 + rng.normal(size=(len(is_t), 5, 5)) * 0.02
    statistics[:, 2, 0] += 0.08 * is_t  # of one marker, small compared with what rim and interior share
    adata.obsm["X_compartments"] = statistics.reshape(len(is_t), -1).astype(np.float32)
    adata.obsm["X_blurred"] = adata.X * 1.5

    scores = tl.probe(adata, label="kind").set_index("representation")

    for name in ("compartment statistics", "moments of each compartment"):
        assert scores.loc[name, "balanced_accuracy"] > 0.85
        assert scores.loc[name, "knn_balanced_accuracy"] > 0.75
    white = tl.whiten_markers(adata)
    assert white.shape == (1200, 15)
    np.testing.assert_allclose(np.cov(white[:, 6:9].T), np.eye(3), atol=0.02)
    blurred, plain = (scores.loc[name] for name in ("mean of the blurred image", "mean intensity"))
    assert blurred["balanced_accuracy"] == pytest.approx(plain["balanced_accuracy"], abs=0.02)
    assert blurred["knn_balanced_accuracy"] == pytest.approx(plain["knn_balanced_accuracy"], abs=0.02)


def test_a_probe_that_does_not_carry_over_to_another_slide_is_found_only_by_testing_on_it(cells):
    adata = cells(1200, n_slides=2)
    z, of_second = adata.obsm["X_splicer"], (adata.obs["slide"] == "S01").to_numpy()[:, None]
    z[:, 4:8] = np.where(of_second, -z[:, :4], 0)  # on the second slide, the kind has the opposite sign
    z[:, :4] = np.where(of_second, 0, z[:, :4])
    z[:, :4] += z[:, 4:8] / 2

    within = tl.probe(adata, label="kind", representations=["SpliCER"]).iloc[0]
    across = tl.probe(adata, label="kind", representations=["SpliCER"], train_on=["S00"], test_on=["S01"]).iloc[0]

    assert within["balanced_accuracy"] > 0.9
    assert across["balanced_accuracy"] < 0.6
    assert across["folds_by"] == "quadrant of slide S01, trained on S00"
    assert across["n_cells"] < adata.n_obs


def test_intensities_are_scaled_by_all_cells_before_neighbours_are_searched(cells):
    adata = cells(1200)
    unlabelled = np.arange(1200) % 2 == 0
    adata.X[np.ix_(unlabelled, [0, 2, 3])] *= 1e4  # markers of other cells, which are noise among the labelled ones
    adata.obs["some"] = np.where(unlabelled, "", adata.obs["kind"])
    labelled = adata[~unlabelled].copy()
    task = set_task(labelled, label="some")

    of_all = tl.probe(adata, label="some", representations=["mean intensity"]).iloc[0]
    with_reference = score(labelled, task, representations=["mean intensity"], reference=adata).iloc[0]
    alone = score(labelled, task, representations=["mean intensity"]).iloc[0]

    assert with_reference["knn_balanced_accuracy"] == pytest.approx(of_all["knn_balanced_accuracy"], abs=0.02)
    assert with_reference["knn_balanced_accuracy"] > alone["knn_balanced_accuracy"] + 0.01
