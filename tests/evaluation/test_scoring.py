"""Results and AnnData files are scored on labels, compared with baselines, and written only on request."""

import json
import re
import shutil

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

from mxsplicer.cells.measure import measure_cells
from mxsplicer.embedding.embed import embed_to_file
from mxsplicer.errors import InputError
from mxsplicer.evaluation import evaluate, write_scores
from mxsplicer.images.opening import open_slide
from mxsplicer.masks.files import open_mask
from mxsplicer.patches.extraction import extract_patches
from mxsplicer.result.folder import Result
from mxsplicer.result.slides import SlideRecord, write_records
from mxsplicer.simulation import simulate_slide
from mxsplicer.splicer.recipe import Recipe
from mxsplicer.splicer.training import train

SMALL = {"epochs": 1, "batch_size": 64, "encoder_width": 4, "component_width": 2, "chunk_width": 4}
QUICK = {"guard_um": 8, "importance_cells": 100, "image_cells": 5000, "device": "cpu"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a folder with two slides, their truth, and their result; patches of the first slide only are stored."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("evaluation")
    result = Result(folder / "both.mxs", ("S01", "S02"))
    result.path.mkdir()
    records, stores, truths = [], [], []
    for number, name in enumerate(result.slide_names):
        simulated = simulate_slide(folder / f"{name}.ome.tiff", size_px=448, seed=number + 1)
        slide, mask = open_slide(simulated.image), open_mask(simulated.mask)
        path = folder / f"{name}.zarr"
        stores.append(extract_patches(slide, mask, path, patch_size_um=8, cells=measure_cells(slide, mask)))
        truths.append(pd.read_csv(simulated.truth).assign(slide=name))
        record = SlideRecord(name, simulated.image, mask=simulated.mask, patches=path if number == 0 else None)
        records.append(record.as_opened(slide))
    run = train(stores, result.run, recipe=Recipe(**SMALL), device="cpu")
    embed_to_file(result.cells, run, stores, device="cpu", compression=None)
    write_records(result, records, run="run")
    pd.concat(truths).to_csv(folder / "truth.csv", index=False)
    return folder


@pytest.fixture
def given(made, tmp_path):
    """Return a copy of that folder that a test may change."""
    shutil.copytree(made / "both.mxs", tmp_path / "both.mxs")
    shutil.copy(made / "truth.csv", tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def whole(made):
    return evaluate(made / "both.mxs", labels=made / "truth.csv", label=["lineage"], **QUICK)


def test_every_baseline_is_scored_on_the_same_cells(whole):
    scores = whole.scores.set_index("representation")

    assert set(scores.index) == {
        "SpliCER",
        "SpliCER + mean intensity",
        "untrained encoder",
        "compartment statistics",
        "moments of each compartment",
        "mean of the blurred image",
        "PCA of pixels",
        "mean intensity",
        "mean intensity and shape",
        "PCA of mean intensity",
    }
    assert scores["n_cells"].nunique() == 1
    assert scores.loc["mean intensity", "gain"] == 0
    together, alone = scores.loc["SpliCER + mean intensity"], scores.drop("SpliCER + mean intensity")
    assert together["balanced_accuracy"] >= alone.loc["mean intensity", "balanced_accuracy"] - 0.02
    assert alone[["rank_me", "silhouette", "nmi", "ari"]].notna().all(axis=None)
    assert (scores["balanced_accuracy"] > 1.5 * scores["chance"]).all()
    (sentences,) = whole.verdicts
    assert sentences.startswith("lineage: best by linear probe is ")
    assert "Training was" in sentences.split("\n")[1]
    blurred, plain = alone.loc["mean of the blurred image"], alone.loc["mean intensity"]
    assert blurred["balanced_accuracy"] > plain["balanced_accuracy"] - 0.05


def test_one_slide_trains_the_probe_and_the_other_tests_it(made):
    options = QUICK | {"labels": made / "truth.csv", "label": ["lineage"], "images": False}
    within = evaluate(made / "both.mxs", **options)

    found = evaluate(made / "both.mxs", train_on=["S01"], test_on=["S02"], **options)

    row = found.scores.set_index("representation").loc["mean intensity"]
    assert row["folds_by"] == "quadrant of slide S02, trained on S01"
    assert row["balanced_accuracy"] > 2 * row["chance"]
    advice = "Pass `train_on=['S01']` and `test_on=['S02']`"
    assert any(advice in note for note in within.notes)
    assert not any(advice in note for note in found.notes)


def test_permutation_importance_is_measured_for_the_embedding_and_for_mean_intensity(whole):
    by_name = dict(list(whole.importance.groupby("representation")))

    assert set(by_name) == {"SpliCER", "mean intensity"}
    means = by_name["mean intensity"].set_index("marker")["loss"]
    assert means.idxmax() in ("CD31", "CD20", "SMA", "CD68", "CD3e", "CD163", "CD45", "Pan-CK", "E-Cadherin")
    assert len(by_name["SpliCER"]) == len(means)


def test_a_probe_predicts_the_slide(whole):
    mixing = whole.mixing.set_index("representation")

    assert (mixing["chance"] == 0.5).all()
    assert mixing["predictability"].between(0.2, 1).all()


@pytest.fixture(scope="module")
def without_images(made):
    then = (made / "both.mxs" / "cells.h5ad").read_bytes()
    found = evaluate(made / "both.mxs", labels=made / "truth.csv", label=["lineage"], images=False, **QUICK)
    assert (made / "both.mxs" / "cells.h5ad").read_bytes() == then
    return found


def test_only_scores_are_written_and_replace_earlier_ones(given, without_images):
    cells = given / "both.mxs" / "cells.h5ad"
    before = anndata.read_h5ad(cells)

    write_scores(without_images, given / "both.mxs")
    write_scores(without_images, given / "both.mxs")

    after = anndata.read_h5ad(cells)
    pd.testing.assert_frame_equal(after.obs, before.obs)
    np.testing.assert_array_equal(after.obsm["X_splicer"], before.obsm["X_splicer"])
    table = after.uns["mxsplicer_probe"]
    assert list(table["representation"]) == list(without_images.scores["representation"])
    np.testing.assert_allclose(table["gain"], without_images.scores["gain"])
    assert set(after.uns["mxsplicer_evaluation"]) == {*without_images.tables, "verdicts", "notes"}
    assert not list(given.rglob("*.partial"))


def test_without_patches_a_note_names_what_is_missing(without_images):
    assert "PCA of pixels" not in set(without_images.scores["representation"])
    assert set(without_images.importance["representation"]) == {"mean intensity"}
    assert any("No patches were read" in note for note in without_images.notes)


def test_baselines_scored_on_some_of_the_cells_are_noted(made):
    few = QUICK | {"image_cells": 300}
    found = evaluate(made / "both.mxs", labels=made / "truth.csv", label=["lineage"], max_cells=600, **few)

    cells = found.scores.set_index("representation")["n_cells"]
    assert cells["PCA of pixels"] == cells["untrained encoder"] <= 300 < cells["SpliCER"] == cells["mean intensity"]
    assert cells["SpliCER"] <= 600 < len(pd.read_csv(made / "truth.csv")) == found.scores["n_labelled"].iloc[0]
    assert any("PCA of pixels" in note for note in found.notes)
    untrained = found.scores.set_index("representation").loc["untrained encoder"]
    assert np.isfinite(untrained[["trained_gain_sd", "knn_trained_gain_sd"]].astype(float)).all()
    assert "Training was" in found.verdicts[0]


def test_stored_patches_are_used_if_a_slide_was_moved(given):
    index = given / "both.mxs" / "mxsplicer.json"
    content = json.loads(index.read_text())
    for slide in content["slides"]:
        slide["image"] = "/nowhere/slide.ome.tiff"
    index.write_text(json.dumps(content))

    found = evaluate(given / "both.mxs", labels=given / "truth.csv", label=["lineage"], **QUICK)

    cells = found.scores.set_index("representation")["n_cells"]
    assert 0 < cells["PCA of pixels"] < cells["SpliCER"]


def test_other_embeddings_of_the_same_cells_are_matched_by_name_in_any_order(given):
    adata = anndata.read_h5ad(given / "both.mxs" / "cells.h5ad")
    order = np.random.default_rng(0).permutation(adata.n_obs)[: adata.n_obs - 40]
    other = adata[order].copy()
    other.write_h5ad(given / "other.h5ad")

    found = evaluate(
        given / "both.mxs",
        labels=given / "truth.csv",
        label=["lineage"],
        compare=[given / "other.h5ad"],
        images=False,
        **QUICK,
    )

    scores = found.scores.set_index("representation")
    assert scores.loc["SpliCER (other)", "balanced_accuracy"] == scores.loc["SpliCER", "balanced_accuracy"]
    assert (scores["n_labelled"] == adata.n_obs - 40).all()


def test_cells_of_another_mask_raise(given):
    adata = anndata.read_h5ad(given / "both.mxs" / "cells.h5ad")
    adata.obsm["spatial"] = adata.obsm["spatial"][::-1]
    adata.write_h5ad(given / "other.h5ad")

    with pytest.raises(InputError, match="the file was made with another mask"):
        evaluate(
            given / "both.mxs", labels=given / "truth.csv", label=["lineage"], compare=[given / "other.h5ad"], **QUICK
        )


def test_labels_may_be_columns_of_obs_and_keys_of_obsm_are_scored_too(given):
    cells = given / "mine.h5ad"
    adata = anndata.read_h5ad(given / "both.mxs" / "cells.h5ad")
    truth = pd.read_csv(given / "truth.csv").set_index(["slide", "cell_id"])["lineage"]
    adata.obs["type"] = truth.loc[list(zip(adata.obs["slide"], adata.obs["cell_id"], strict=True))].to_numpy()
    del adata.uns["mxsplicer"]
    adata.obsm["X_mine"] = adata.obsm.pop("X_splicer")
    adata.write_h5ad(cells)

    named = evaluate(cells, labels="type", use_rep=["X_mine"], **QUICK)

    assert re.search(r"best by linear probe is X_mine with|\(X_mine has ", named.verdicts[0])  # both are nearly perfect
    assert "X_mine" in set(named.scores["representation"])


def test_patients_of_a_table_of_samples_make_the_folds(given):
    (given / "samples.csv").write_text("slide,patient\nS01,P1\nS02,P2\n")

    with pytest.raises(InputError, match="'patient' has 2 groups; 3 are needed"):
        evaluate(
            given / "both.mxs",
            labels=given / "truth.csv",
            label=["lineage"],
            samples=given / "samples.csv",
            groups="patient",
            **QUICK,
        )


def test_outlines_are_labels_and_a_label_that_cannot_be_scored_is_noted(given):
    folder = given / "outlines"
    folder.mkdir()
    boxes = [(0, 0, 448, 220, "Tumor"), (0, 220, 448, 448, {"name": "Stroma"})]
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [[[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]]},
            "properties": {"objectType": "annotation", "classification": name},
        }
        for x0, y0, x1, y1, name in boxes
    ]
    for slide in ("S01", "S02"):
        (folder / f"{slide}.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))

    with pytest.raises(InputError, match="'annotation' cannot be scored by quadrant"):
        evaluate(given / "both.mxs", labels=folder, **QUICK)  # each class fills two quadrants of every slide


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "no label was named"),
        ({"label": ["type"]}, "label 'type' was not found"),
        ({"labels": "nowhere.csv", "label": ["lineage"]}, "table nowhere.csv was not found"),
        ({"label": ["slide"], "use_rep": ["X_pca"]}, "representation 'X_pca' was not found"),
        ({"label": ["slide"], "compare": ["gone.h5ad"]}, "file gone.h5ad was not found"),
    ],
)
def test_arguments_that_cannot_be_used_raise_one_sentence(made, options, sentence):
    with pytest.raises(InputError, match=sentence):
        evaluate(made / "both.mxs", **options, **QUICK)


def test_a_file_that_is_not_anndata_raises(tmp_path):
    (tmp_path / "cells.h5ad").write_text("no")

    with pytest.raises(InputError, match="not an AnnData file"):
        evaluate(tmp_path / "cells.h5ad", label=["type"])
