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
from mxsplicer.tl.probing import METRICS, probe_few_labels, set_task


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


def test_mean_intensity_stands_beside_and_gains_are_measured_against_it(scored):
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


def test_scores_say_how_they_were_made(scored):
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


def test_unlabelled_cells_and_rare_classes_are_left_out_and_named(cells):
    adata = cells(600)
    adata.obs.loc[adata.obs_names[:100], "kind"] = np.nan
    adata.obs.loc[adata.obs_names[100:150], "kind"] = ""
    adata.obs.loc[adata.obs_names[150:153], "kind"] = "mast cell"

    scores = tl.probe(adata, label="kind", guard_um=0, representations=["mean intensity"])

    assert scores["n_cells"].eq(600 - 153).all()
    assert scores["left_out"].eq("mast cell").all()


def test_cells_are_folded_by_patient_where_known_else_by_slide_and_by_quadrants_when_asked(cells):
    adata = cells(600, n_slides=6)
    patients = adata.obs["slide"].astype(str).map(lambda slide: f"P{int(slide[1:]) % 3}")
    by_slide = tl.probe(adata, label="kind", representations=["SpliCER"])
    adata.obs["patient"] = patients

    by_patient = tl.probe(adata, label="kind", representations=["SpliCER"])
    by_quadrant = tl.probe(adata, label="kind", representations=["SpliCER"], groups="quadrants")

    assert by_slide["folds_by"].iloc[0] == "slide (6 in 5 folds)"
    assert by_patient["folds_by"].iloc[0] == "patient (3 in 3 folds)"
    assert by_quadrant["folds_by"].iloc[0].startswith("quadrant of the slide")


def test_training_sees_no_more_cells_of_a_class_than_allowed(cells):
    few = tl.probe(cells(900), label="kind", representations=["SpliCER"], max_cells_per_class=10)
    many = tl.probe(cells(900), label="kind", representations=["SpliCER"])

    assert few["balanced_accuracy"].iloc[0] < many["balanced_accuracy"].iloc[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"label": "type"}, "no label 'type'; obs holds: cell_id, slide, kind"),
        ({"label": "slide"}, "cannot be scored by quadrant of the slide, .* two are needed"),
        ({"label": "kind", "groups": "patient"}, "no column 'patient'"),
        ({"label": "kind", "representations": ["X_pca"]}, "no representation 'X_pca'"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_one_sentence(cells, options, said):
    with pytest.raises(InputError, match=said):
        tl.probe(cells(200), **options)


def _scores(gain, sd, *, best=0.8, folds=4):
    return pd.DataFrame(
        {
            "label": "T cells",
            "representation": ["SpliCER", "mean intensity", "joint"],
            "balanced_accuracy": [0.6 + gain, 0.6, best],
            "balanced_accuracy_sd": 0.02,
            "gain": [gain, 0.0, best - 0.6],
            "gain_sd": [sd, 0.0, sd],
            "chance": 0.25,
            "folds": folds,
        }
    )


@pytest.mark.parametrize(
    ("gain", "sd", "said"),
    [
        (0.112, 0.03, "SpliCER is better than mean intensity by 11.2 ± 3.0 points"),
        (-0.112, 0.03, "SpliCER is worse than mean intensity by 11.2 ± 3.0 points"),
        (
            *(0.02, 0.03),
            "SpliCER is equal to mean intensity within the spread of the folds (+2.0 ± 3.0 points, and these 4 folds "
            "tell no less than 4.8 from chance);",
        ),
        (0.005, 0.001, "SpliCER is equal to mean intensity within the spread of the folds (+0.5 ± 0.1 points)"),
    ],
)
def test_the_verdict_says_better_equal_or_worse_and_by_how_much(gain, sd, said):
    (sentence,) = tl.verdict(_scores(gain, sd))

    assert said in sentence
    assert sentence.startswith("T cells: ")
    assert sentence.endswith("the best is joint with 0.80, chance 0.25.")


@pytest.mark.parametrize(("folds", "deviations"), [(3, 2.48), (4, 1.59), (5, 1.24)])
def test_the_fewer_folds_the_more_deviations_a_difference_needs(folds, deviations):
    below, above = (tl.verdict(_scores(0.02 * deviations * factor, 0.02, folds=folds))[0] for factor in (0.98, 1.02))

    assert "equal to" in below
    assert "better than" in above


@pytest.mark.parametrize(
    ("chance", "said"), [(0.7, "not told from chance, and so no better"), (0.65, "is better than")]
)
def test_what_guesses_is_not_called_better(chance, said):
    (sentence,) = tl.verdict(_scores(0.1, 0.01).assign(chance=chance))

    assert said in sentence


def test_the_verdict_names_no_other_when_the_trained_is_best():
    (sentence,) = tl.verdict(_scores(0.3, 0.01, best=0.7))

    assert "the best is" not in sentence


def _patchy(n, *, length_um, n_fields, seed):
    """Values that vary smoothly over the tissue and tell nothing but the place: (n, 2) µm, (n, n_fields)."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 1000, (n, 2))
    waves, phases = rng.normal(size=(2, 4 * n_fields)) / length_um, rng.uniform(0, 2 * np.pi, 4 * n_fields)
    return points, np.cos(points @ waves + phases) @ rng.normal(size=(4 * n_fields, n_fields))


def test_a_random_split_flatters_where_labels_and_features_are_patchy_and_guarded_folds_do_not(cells):
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


@pytest.mark.parametrize("seed", range(4))
def test_what_holds_the_same_as_mean_intensity_is_called_equal(cells, seed):
    adata = cells(1500, seed=seed)
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    intensity = np.log1p(adata.X)
    adata.obsm["X_splicer"] = ((intensity - intensity.mean(axis=0)) @ rotation + 3).astype(np.float32)

    (sentence,) = tl.verdict(tl.probe(adata, label="kind", representations=["SpliCER"]))

    assert "equal to mean intensity" in sentence


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


def test_more_labelled_cells_than_the_cap_are_sampled_and_it_is_said(cells):
    adata = cells(2000)

    scores = tl.probe(adata, label="kind", representations=["SpliCER"], max_cells=500)

    assert (scores["n_cells"] == 500).all()
    assert (scores["n_labelled"] == 2000).all()


def test_the_curve_rises_with_labels_and_ends_at_the_score(cells):
    adata = cells(3000)
    adata.obsm["X_splicer"][:, :4] *= 0.4
    task = set_task(adata, label="kind")

    curve = probe_few_labels(adata, task, labels_per_class=(10, 50, 100_000), representations=["SpliCER"])
    whole = tl.probe(adata, label="kind", representations=["SpliCER"])

    splicer = curve[curve["representation"] == "SpliCER"].set_index("labels_per_class")
    assert list(splicer.index) == [10, 50]  # no class has the third
    assert splicer["balanced_accuracy"].is_monotonic_increasing
    assert splicer["balanced_accuracy"][50] < whole["balanced_accuracy"].iloc[0]
    np.testing.assert_allclose(curve[curve["representation"] == "mean intensity"]["gain"], 0)


def test_where_nothing_was_learned_the_verdict_judges_nothing(cells):
    (sentence,) = tl.verdict(tl.probe(cells(300), label="kind", representations=["mean intensity and shape"]))

    assert "no learned representation to judge" in sentence


def test_side_by_side_adds_what_the_other_lacks_and_many_features_of_noise_take_nothing(cells):
    adata, rng = cells(1500), np.random.default_rng(0)
    is_t = (adata.obs["kind"] == "T cell").to_numpy()
    weak = [rng.normal(size=(len(is_t), 3)) + 0.5 * is_t[:, None] for _ in range(2)]
    adata.obsm.update(X_this=weak[0], X_that=weak[1], X_noise=rng.normal(size=(len(is_t), 400)))
    names = ["X_this", "X_that", "X_this + X_that", "X_noise + X_that"]

    by_name = tl.probe(adata, label="kind", representations=names).set_index("representation")["balanced_accuracy"]

    assert by_name["X_this + X_that"] > max(by_name["X_this"], by_name["X_that"]) + 0.03
    assert by_name["X_noise + X_that"] == pytest.approx(by_name["X_that"], abs=0.01)


def test_the_verdict_judges_what_was_trained_and_not_what_it_is_joined_with(cells):
    adata = cells(300)
    adata.obsm["X_mine"] = adata.obsm["X_splicer"]
    scores = tl.probe(adata, label="kind", representations=["X_mine + mean intensity", "X_mine"])

    assert tl.verdict(scores)[0].startswith("kind: X_mine is")


def test_what_the_cells_were_embedded_by_is_judged_whatever_its_method_is_called(cells):
    adata = cells(300)
    adata.obsm["X_mine"], adata.obsm["X_joint"] = adata.obsm["X_splicer"], adata.obsm.pop("X_splicer")
    adata.uns["mxsplicer"]["method"] = "mine"

    scores = tl.probe(adata, label="kind")

    assert {"X_mine", "joint"} <= set(scores["representation"])
    assert tl.verdict(scores)[0].startswith("kind: X_mine is")


def test_what_is_joined_with_something_unknown_is_refused(cells):
    with pytest.raises(InputError, match="X_nothing"):
        tl.probe(cells(300), label="kind", representations=["SpliCER + X_nothing"])


def test_mean_intensity_is_scored_alike_in_whatever_unit_an_image_has_it(cells):
    adata = cells(1000)
    rng = np.random.default_rng(0)
    kind = (adata.obs["kind"] == "T cell").to_numpy()
    adata.X = np.exp(rng.normal(5, 2, adata.shape) + 0.8 * kind[:, None]).astype(np.float32)  # over several decades
    dim = adata.copy()
    dim.X = adata.X / 10_000

    scores = [tl.probe(a, label="kind").set_index("representation").loc["mean intensity"] for a in (adata, dim)]

    assert scores[1]["balanced_accuracy"] == pytest.approx(scores[0]["balanced_accuracy"], abs=0.03)
