"""The verdict names the best description by probe and by neighbours, and whether training was needed."""

import numpy as np
import pandas as pd
import pytest

from mxsplicer import tl

NAMES = ["SpliCER", "untrained encoder", "compartment statistics", "mean intensity"]


def _scores(probe, knn, *, sd=0.01, folds=4, chance=0.25):
    """Return a table of scores by probe and by neighbours; the differences have the standard deviation ``sd``."""
    probe, knn = np.array(probe), np.array(knn)
    return pd.DataFrame(
        {
            "label": "T cells",
            "representation": NAMES[: len(probe)],
            "balanced_accuracy": probe,
            "balanced_accuracy_sd": 0.02,
            "knn_balanced_accuracy": knn,
            "knn_balanced_accuracy_sd": 0.02,
            "trained_gain": probe[0] - probe,
            "trained_gain_sd": sd,
            "knn_trained_gain": knn[0] - knn,
            "knn_trained_gain_sd": sd,
            "chance": chance,
            "folds": folds,
        }
    )


def test_a_trained_encoder_that_wins_both_is_named_with_the_second():
    (found,) = tl.verdict(_scores([0.99, 0.8, 0.95, 0.7], [0.96, 0.7, 0.9, 0.75]))

    assert found == (
        "T cells: best by linear probe is SpliCER with 0.99 (4.0 ± 1.0 points more than compartment statistics); best "
        "by 20 nearest neighbours is SpliCER with 0.96 (6.0 ± 1.0 points more than compartment statistics); chance is "
        "0.25.\n"
        "Training was needed: SpliCER is better than the same encoder untrained, +19.0 ± 1.0 points by linear probe "
        "and +26.0 ± 1.0 points by 20 nearest neighbours."
    )


def test_compartment_statistics_that_win_by_neighbours_are_named():
    (found,) = tl.verdict(_scores([0.99, 0.8, 0.95, 0.7], [0.58, 0.5, 0.92, 0.65]))

    best, training = found.split("\n")
    assert "best by linear probe is SpliCER with 0.99" in best
    assert (
        "best by 20 nearest neighbours is compartment statistics with 0.92 (SpliCER has 0.58, 34.0 ± 1.0 points less)"
        in best
    )
    assert training.startswith("Training was needed: ")


@pytest.mark.parametrize(
    ("probe", "knn", "start"),
    [
        ([0.77, 0.765, 0.98, 0.7], [0.58, 0.62, 0.92, 0.65], "Training was not needed: SpliCER is not better"),
        ([0.85, 0.76, 0.98, 0.7], [0.58, 0.62, 0.92, 0.65], "Training was needed by linear probe only: "),
        ([0.77, 0.76, 0.98, 0.7], [0.7, 0.62, 0.92, 0.65], "Training was needed by 20 nearest neighbours only: "),
    ],
)
def test_training_that_adds_nothing_is_reported(probe, knn, start):
    (found,) = tl.verdict(_scores(probe, knn))

    line = found.split("\n")[1]
    assert line.startswith(start)
    assert f"{100 * (probe[0] - probe[1]):+.1f} ± 1.0 points by linear probe" in line
    assert f"{100 * (knn[0] - knn[1]):+.1f} ± 1.0 points by 20 nearest neighbours" in line


@pytest.mark.parametrize(
    ("lead", "sd", "message"),
    [
        (
            0.02,
            0.03,
            "2.0 ± 3.0 points more than compartment statistics, and with 4 folds less than 4.8 points is ",
        ),
        (0.005, 0.001, "0.5 ± 0.1 points more than compartment statistics, equal within the spread of the folds)"),
        (0.02, 0.001, "2.0 ± 0.1 points more than compartment statistics);"),
    ],
)
def test_a_difference_that_does_not_count_is_reported_as_such(lead, sd, message):
    (found,) = tl.verdict(_scores([0.9 + lead, 0.6, 0.9, 0.7], [0.9, 0.6, 0.5, 0.5], sd=sd))

    assert message in found


@pytest.mark.parametrize(("folds", "n_sd"), [(3, 2.48), (4, 1.59), (5, 1.24)])
def test_with_fewer_folds_a_difference_must_be_more_standard_deviations(folds, n_sd):
    gains = (0.02 * n_sd * factor for factor in (0.98, 1.02))
    below, above = (
        tl.verdict(_scores([0.6 + gain, 0.6], [0.6 + gain, 0.6], sd=0.02, folds=folds))[0] for gain in gains
    )

    assert "Training was not needed" in below
    assert "Training was needed" in above


def test_at_chance_nothing_is_called_best_and_training_is_not_called_needed():
    (found,) = tl.verdict(_scores([0.3, 0.2, 0.25, 0.26], [0.27, 0.2, 0.24, 0.25], chance=0.28))

    assert "by linear probe nothing is distinguishable from chance (the highest is SpliCER with 0.30)" in found
    assert "by 20 nearest neighbours nothing is distinguishable from chance" in found
    assert "Training was not needed" in found


def test_without_an_untrained_encoder_the_verdict_says_so():
    scores = _scores([0.9, 0.6, 0.8, 0.7], [0.9, 0.6, 0.5, 0.5])

    (found,) = tl.verdict(scores[scores["representation"] != "untrained encoder"])

    assert found.endswith("Whether training was needed was not measured: the untrained encoder has no score.")


def test_a_concatenation_does_not_take_part():
    scores = _scores([0.9, 0.6, 0.8, 0.99], [0.9, 0.6, 0.5, 0.99])

    (found,) = tl.verdict(scores.replace("mean intensity", "SpliCER + mean intensity"))

    assert "best by linear probe is SpliCER with 0.90" in found
    assert " + " not in found.split("\n")[0]


def test_scores_of_version_0_1_are_judged_by_probe_alone():
    scores = _scores([0.7, 0.6, 0.8], [0.9, 0.6, 0.5])
    old = scores[[column for column in scores if "trained" not in column]]

    (found,) = tl.verdict(old)

    assert found.startswith("T cells: best by linear probe is compartment statistics with 0.80 (SpliCER has 0.70);")
    assert found.endswith("evaluate again.")
    assert "neighbours is" not in found


@pytest.mark.parametrize("seed", range(4))
def test_a_rotation_of_mean_intensity_is_not_better_than_it(cells, seed):
    adata = cells(1500, seed=seed)
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    intensity = np.log1p(adata.X)
    adata.obsm["X_splicer"] = ((intensity - intensity.mean(axis=0)) @ rotation + 3).astype(np.float32)

    (found,) = tl.verdict(tl.probe(adata, label="kind", representations=["SpliCER"]))

    by_probe = found.split(";")[0]
    assert "equal within the spread of the folds" in by_probe or "is not significant" in by_probe


def test_without_a_learned_representation_the_best_baseline_is_named(cells):
    (found,) = tl.verdict(tl.probe(cells(1500), label="kind", representations=["mean intensity and shape"]))

    assert "No learned representation was scored" in found
    assert "best by linear probe is mean intensity" in found


def test_the_verdict_is_about_the_trained_representation_and_not_a_concatenation(cells):
    adata = cells(300)
    adata.obsm["X_mine"] = adata.obsm["X_splicer"]
    scores = tl.probe(adata, label="kind", representations=["X_mine + mean intensity", "X_mine"])

    assert tl.verdict(scores)[0].startswith("kind: best by linear probe is X_mine with")


def test_the_verdict_is_about_the_method_of_the_run_whatever_its_name(cells):
    adata = cells(300)
    adata.obsm["X_mine"], adata.obsm["X_joint"] = adata.obsm["X_splicer"], adata.obsm.pop("X_splicer")
    adata.uns["mxsplicer"]["method"] = "mine"

    scores = tl.probe(adata, label="kind")

    assert {"X_mine", "joint"} <= set(scores["representation"])
    assert "Training was needed: X_mine is better" in tl.verdict(scores)[0]


@pytest.mark.parametrize(("fine", "begin"), [(0.96, "Training helps"), (0.91, "Training is not needed")])
def test_the_built_in_model_is_compared_with_trained_encoders_of_other_files(fine, begin):
    names = ["built-in model", "mean intensity", "SpliCER (fine)"]
    scores = _scores([0.90, 0.70, fine], [0.80, 0.60, 0.79]).assign(representation=names)

    (found,) = tl.verdict(scores)

    by_probe = f"{fine * 100 - 90:+.1f} ± 1.0 points by linear probe"
    compared = f"SpliCER (fine) has {by_probe} and -1.0 ± 1.0 points by 20 nearest neighbours."
    assert found.endswith(f"{begin}: compared with the built-in model, {compared}")


def test_a_trained_encoder_is_compared_with_the_built_in_model_of_another_file():
    names = ["SpliCER", "built-in model (quick)", "mean intensity"]
    scores = _scores([0.95, 0.94, 0.70], [0.90, 0.94, 0.60]).assign(representation=names)

    (found,) = tl.verdict(scores)

    assert "Training was not needed: SpliCER is not better than the built-in model (quick), +1.0 ± 1.0" in found
