"""The built-in model: nothing is trained unless it is asked for."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pytest

from mxsplicer import tl
from mxsplicer.errors import InputError
from mxsplicer.evaluation import evaluate
from mxsplicer.result.merging import merge_results
from mxsplicer.result.options import BUILTIN, Options
from mxsplicer.result.pipeline import embed_slides
from mxsplicer.result.verification import verify
from mxsplicer.simulation import simulate_slide
from mxsplicer.splicer.moment_names import MOMENTS
from mxsplicer.splicer.recipe import Recipe
from mxsplicer.splicer.run import load_run

ONLY_CELLS = {"only_cells": True, "per_slide": False}


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("builtin")
    return [simulate_slide(folder / f"S{n}.ome.tiff", size_px=256, slide_number=n) for n in range(2)]


@pytest.fixture(scope="module")
def result(slides, tmp_path_factory):
    options = Options(masks=(slides[0].mask,), **ONLY_CELLS)
    return embed_slides(slides[0].image, tmp_path_factory.mktemp("first") / "S0.mxs", options=options, device="cpu")


def z_of(result):
    return anndata.read_h5ad(result.cells).obsm["X_splicer"]


def test_without_options_nothing_is_trained(result):
    adata = anndata.read_h5ad(result.cells)
    run = load_run(result.path)
    assert not run.is_trained
    assert run.settings["steps"] == 0
    names = list(adata.uns["mxsplicer"]["features"])
    assert len(names) == adata.obsm["X_splicer"].shape[1]
    assert not [name for name in names if name.startswith("learned")]
    assert np.isfinite(adata.obsm["X_splicer"]).all()
    assert adata.uns["mxsplicer"]["settings"]["encoder"] == MOMENTS
    assert "Nothing was trained" in (run.path / "README.md").read_text(encoding="utf-8")
    assert not list(result.path.glob("run/log*"))


def test_where_nothing_is_trained_no_library_of_training_is_loaded():
    code = "import sys, mxsplicer.result.pipeline; print({'lightning_fabric', 'torch._dynamo'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("ours", [False, True])
def test_umap_is_compiled_in_a_thread_only_where_the_process_is_ours(slides, tmp_path, monkeypatch, ours):
    started = []

    def stop(job):
        msg = "stopped."
        raise InputError(msg)

    monkeypatch.setattr("mxsplicer.result.pipeline.is_own_process", lambda: ours)
    monkeypatch.setattr("mxsplicer.result.pipeline.compile_early", lambda: started.append(True))
    monkeypatch.setattr("mxsplicer.result.pipeline.make_masks", stop)
    with pytest.raises(InputError, match="stopped"):
        embed_slides(slides[0].image, tmp_path / "S0.mxs", options=Options(masks=(slides[0].mask,)))
    assert started == [True] * ours


@pytest.mark.parametrize(
    ("given", "is_builtin"),
    [
        ({}, True),
        ({"model": BUILTIN}, True),
        ({"recipe": Recipe(encoder=MOMENTS)}, True),
        ({"recipe": Recipe(seed=3)}, True),
        ({"recipe": Recipe(normalization="common")}, True),
        ({"train": True}, False),
        ({"budget_s": 60.0}, False),
        ({"recipe": Recipe(max_steps=2)}, False),
        ({"recipe": Recipe(method="joint")}, False),
        ({"recipe": Recipe(encoder="resnet18")}, False),
        ({"model": Path("other.mxs")}, False),
    ],
)
def test_what_asks_for_a_training(given, is_builtin):
    assert Options(**given).is_builtin == is_builtin


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"model": BUILTIN, "recipe": Recipe(max_steps=2)}, "max_steps"),
        ({"model": BUILTIN, "recipe": Recipe(method="joint")}, "method"),
        ({"model": BUILTIN, "train": True}, "train"),
        ({"model": BUILTIN, "budget_s": 60.0}, "budget_s"),
        ({"recipe": Recipe(encoder=MOMENTS), "train": True}, "encoder"),
    ],
)
def test_a_training_of_the_built_in_model_is_refused(given, named):
    with pytest.raises(InputError, match=f"`{named}`"):
        Options(**given)


def test_a_slide_that_comes_later_changes_nothing_of_the_first(result, slides, tmp_path):
    options = Options(masks=(slides[1].mask,), model=result.path, **ONLY_CELLS)
    later = embed_slides(slides[1].image, tmp_path / "later.mxs", options=options, device="cpu")
    assert list(anndata.read_h5ad(later.cells).uns["mxsplicer"]["features"]) == list(
        anndata.read_h5ad(result.cells).uns["mxsplicer"]["features"]
    )
    before = z_of(result)
    again = replace(options, masks=(slides[0].mask,))
    alone = embed_slides(slides[0].image, tmp_path / "again.mxs", options=again, device="cpu")
    np.testing.assert_array_equal(z_of(alone), before)


def test_slides_embedded_apart_are_not_analysed_together(result, slides, tmp_path, caplog):
    options = Options(masks=(slides[1].mask,), **ONLY_CELLS)
    apart = embed_slides(slides[1].image, tmp_path / "apart.mxs", options=options, device="cpu")
    both = [anndata.read_h5ad(one.cells) for one in (result, apart)]
    for adata in both:  # of one width, as where the same number of patterns varies
        adata.obsm["X_splicer"] = adata.obsm["X_splicer"][:, :100]
    for kept in ("unique", "first"):
        joined = anndata.concat(both, uns_merge=kept)
        joined.obs["kind"] = np.where(joined.obs["x_px"] < 128, "left", "right")
        joined.write_h5ad(tmp_path / "joined.h5ad")
        with pytest.raises(InputError, match="2 models computed X_splicer"):
            tl.cluster(joined)
        with pytest.raises(InputError, match="2 models computed X_splicer"):
            tl.train_classifier(joined, "kind")
        with pytest.raises(InputError, match="2 models computed X_splicer"):
            evaluate(tmp_path / "joined.h5ad", label=["kind"])

    tl.cluster(anndata.concat(both)[::5].copy())
    assert "not recorded that one model embedded these 2 slides" in caplog.text


def test_slides_of_one_model_are_analysed_together_without_a_word(result, slides, tmp_path, caplog):
    options = Options(masks=(slides[1].mask,), model=result.path, **ONLY_CELLS)
    later = embed_slides(slides[1].image, tmp_path / "later.mxs", options=options, device="cpu")
    merged = merge_results([result.path, later.path], tmp_path / "both.mxs", options=Options())
    caplog.clear()
    tl.cluster(anndata.read_h5ad(merged.cells))
    tl.cluster(anndata.concat([anndata.read_h5ad(one.cells) for one in (result, later)], uns_merge="unique"))
    assert "one model" not in caplog.text


def test_its_cells_are_recomputed_by_verify(result):
    assert verify(result.path).agrees
