"""The verdict on a label follows from the gain over mean intensity, its standard deviation and the folds."""

import numpy as np
import pandas as pd
import pytest

from mxsplicer import tl


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
    ("gain", "sd", "message"),
    [
        (
            0.112,
            0.03,
            "SpliCER is better than mean intensity by 11.2 ± 3.0 points (3.7 × the standard deviation across folds);",
        ),
        (-0.112, 0.03, "SpliCER is worse than mean intensity by 11.2 ± 3.0 points"),
        (
            *(0.02, 0.03),
            "SpliCER is equal to mean intensity within the spread of the folds (+2.0 ± 3.0 points, and with 4 folds "
            "less than 4.8 points is not significant);",
        ),
        (0.005, 0.001, "SpliCER is equal to mean intensity within the spread of the folds (+0.5 ± 0.1 points)"),
    ],
)
def test_the_verdict_is_better_equal_or_worse_and_by_how_much(gain, sd, message):
    (sentence,) = tl.verdict(_scores(gain, sd))

    assert message in sentence
    assert sentence.startswith("T cells: ")
    assert sentence.endswith("the best is joint with 0.80, chance 0.25.")


@pytest.mark.parametrize(("folds", "n_sd"), [(3, 2.48), (4, 1.59), (5, 1.24)])
def test_with_fewer_folds_a_difference_must_be_more_standard_deviations(folds, n_sd):
    below, above = (tl.verdict(_scores(0.02 * n_sd * factor, 0.02, folds=folds))[0] for factor in (0.98, 1.02))

    assert "equal to" in below
    assert "better than" in above


@pytest.mark.parametrize(
    ("chance", "message"), [(0.7, "not distinguishable from chance, so it is not better"), (0.65, "is better than")]
)
def test_a_representation_at_chance_is_not_called_better(chance, message):
    (sentence,) = tl.verdict(_scores(0.1, 0.01).assign(chance=chance))

    assert message in sentence


def test_the_verdict_names_no_other_representation_if_the_trained_one_is_best():
    (sentence,) = tl.verdict(_scores(0.3, 0.01, best=0.7))

    assert "the best is" not in sentence


@pytest.mark.parametrize("seed", range(4))
def test_a_rotation_of_mean_intensity_is_called_equal(cells, seed):
    adata = cells(1500, seed=seed)
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    intensity = np.log1p(adata.X)
    adata.obsm["X_splicer"] = ((intensity - intensity.mean(axis=0)) @ rotation + 3).astype(np.float32)

    (sentence,) = tl.verdict(tl.probe(adata, label="kind", representations=["SpliCER"]))

    assert "equal to mean intensity" in sentence


def test_without_a_learned_representation_the_verdict_compares_nothing(cells):
    (sentence,) = tl.verdict(tl.probe(cells(300), label="kind", representations=["mean intensity and shape"]))

    assert "no learned representation was scored" in sentence


def test_the_verdict_is_about_the_trained_representation_and_not_a_concatenation(cells):
    adata = cells(300)
    adata.obsm["X_mine"] = adata.obsm["X_splicer"]
    scores = tl.probe(adata, label="kind", representations=["X_mine + mean intensity", "X_mine"])

    assert tl.verdict(scores)[0].startswith("kind: X_mine is")


def test_the_verdict_is_about_the_method_of_the_run_whatever_its_name(cells):
    adata = cells(300)
    adata.obsm["X_mine"], adata.obsm["X_joint"] = adata.obsm["X_splicer"], adata.obsm.pop("X_splicer")
    adata.uns["mxsplicer"]["method"] = "mine"

    scores = tl.probe(adata, label="kind")

    assert {"X_mine", "joint"} <= set(scores["representation"])
    assert tl.verdict(scores)[0].startswith("kind: X_mine is")
