"""Which cells are scored: those with a label, of classes with enough cells, in folds by patient, slide or quadrant."""

import numpy as np
import pytest

from mxsplicer import tl
from mxsplicer.errors import InputError


def test_unlabelled_cells_and_rare_classes_are_left_out_and_named(cells):
    adata = cells(600)
    adata.obs.loc[adata.obs_names[:100], "kind"] = np.nan
    adata.obs.loc[adata.obs_names[100:150], "kind"] = ""
    adata.obs.loc[adata.obs_names[150:153], "kind"] = "mast cell"

    scores = tl.probe(adata, label="kind", guard_um=0, representations=["mean intensity"])

    assert scores["n_cells"].eq(600 - 153).all()
    assert scores["left_out"].eq("mast cell").all()


def test_folds_are_of_patients_if_known_otherwise_of_slides_and_of_quadrants_on_request(cells):
    adata = cells(600, n_slides=6)
    patients = adata.obs["slide"].astype(str).map(lambda slide: f"P{int(slide[1:]) % 3}")
    by_slide = tl.probe(adata, label="kind", representations=["SpliCER"])
    adata.obs["patient"] = patients

    by_patient = tl.probe(adata, label="kind", representations=["SpliCER"])
    by_quadrant = tl.probe(adata, label="kind", representations=["SpliCER"], groups="quadrants")

    assert by_slide["folds_by"].iloc[0] == "slide (6 in 5 folds)"
    assert by_patient["folds_by"].iloc[0] == "patient (3 in 3 folds)"
    assert by_quadrant["folds_by"].iloc[0].startswith("quadrant of the slide")


def test_more_labelled_cells_than_max_cells_are_sampled_and_counted(cells):
    adata = cells(2000)

    scores = tl.probe(adata, label="kind", representations=["SpliCER"], max_cells=500)

    assert (scores["n_cells"] == 500).all()
    assert (scores["n_labelled"] == 2000).all()


@pytest.mark.parametrize(
    ("label", "sentence"),
    [
        (lambda obs: "type of " + obs["slide"].astype(str), r"in some folds only \('type of S00' in 1 of 3 folds"),
        (lambda obs: obs["kind"].where(obs["slide"] == "S00"), r"in some folds only \('B cell' in 1 of 3 folds"),
        (lambda obs: np.where(obs["slide"] == "", "", "T cell"), "it has 1 classes"),
        (
            lambda obs: np.where(np.arange(len(obs)) < 6, "rare", "T cell"),
            "1 classes have 5 or more cells in every fold",
        ),
    ],
    ids=["a class on each slide", "one slide labelled", "one class", "a rare class"],
)
def test_a_label_that_cannot_be_scored_is_refused_with_the_cause(cells, label, sentence):
    adata = cells(600, n_slides=3)
    adata.obs["label"] = label(adata.obs)

    with pytest.raises(InputError, match=sentence):
        tl.probe(adata, label="label", groups="slide", representations=["mean intensity"])
