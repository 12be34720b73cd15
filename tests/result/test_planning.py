"""What follows from cells and machine: the side of a patch, and the steps of a budget. And what a plan says of both."""

import json
from dataclasses import replace

import anndata
import pytest
import torch

from mxsplicer.errors import InputError
from mxsplicer.result import pipeline, planning
from mxsplicer.result.options import Options, read_option, write_options
from mxsplicer.result.pipeline import embed_slides
from mxsplicer.result.planning import plan_slides, seconds_after_encoder, steps_within
from mxsplicer.simulation import simulate_slide
from mxsplicer.splicer.recipe import Recipe
from mxsplicer.splicer.run import load_run

SMALL = Recipe(encoder="resnet18", batch_size=64, encoder_width=4, component_width=2, chunk_width=2, epochs=1)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    return simulate_slide(tmp_path_factory.mktemp("planning") / "S01.ome.tiff", size_px=256, seed=1)


@pytest.fixture(scope="module")
def options(simulated):
    return Options(masks=(simulated.mask,), recipe=SMALL, only_cells=True)


def settings_of(result):
    return json.loads(result.settings.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def result(simulated, options, tmp_path_factory):
    torch.set_num_threads(1)
    return embed_slides(simulated.image, tmp_path_factory.mktemp("fit") / "S01.mxs", options=options, device="cpu")


def test_patches_fit_the_cells_and_the_side_is_kept(result):
    chosen = settings_of(result)["chosen"]
    run = load_run(result.run)
    about = anndata.read_h5ad(result.cells).uns["mxsplicer"]

    assert run.patch_px in (40, 48, 56)
    assert chosen["patch_size_um"] == run.patch_px * run.pixel_size_um == about["patch_size_um"]
    assert chosen["larger_cells"] == about["larger_cells"] == {"S01": chosen["larger_cells"]["S01"]}
    assert chosen["larger_cells"]["S01"] < 10
    assert f"Patches are {run.patch_px} px ({chosen['patch_size_um']:g} µm) wide" in result.log.read_text()


def test_a_plan_chooses_the_same_side_as_the_run(simulated, options, result):
    plan = plan_slides(simulated.image, options=options, device="cpu")

    assert plan.patch_px == load_run(result.run).patch_px
    assert plan.steps == load_run(result.run).settings["steps"]
    assert list(plan.seconds) == ["cells", "patches", "training", "embedding"]


def test_a_side_that_is_given_wins_and_larger_cells_are_reported(simulated, options, tmp_path, caplog):
    given = replace(options, patch_size_um=8)
    result = embed_slides(simulated.image, tmp_path / "S01.mxs", options=given, device="cpu")

    larger = settings_of(result)["chosen"]["larger_cells"]["S01"]
    assert load_run(result.run).patch_px == 16
    assert larger > 50
    assert f"Patches are 8 µm wide; {larger} of" in caplog.text


def test_an_encoder_that_sees_the_surroundings_has_the_default_side(simulated, options):
    keeping = replace(options, recipe=replace(SMALL, surroundings="keep"))

    assert plan_slides(simulated.image, options=keeping, device="cpu").patch_px == 64


def test_a_finished_call_is_continued_and_one_that_was_begun_with_the_earlier_default_too(result, simulated, options):
    text = result.settings.read_text(encoding="utf-8")
    embed_slides(simulated.image, result.path, options=options, device="cpu")
    earlier = json.loads(text)
    del earlier["chosen"]
    earlier["options"]["patch_size_um"] = 32.0
    result.settings.write_text(json.dumps(earlier), encoding="utf-8")
    try:
        embed_slides(simulated.image, result.path, options=options, device="cpu")
        with pytest.raises(InputError, match=r"patch-size-um was 32\.0, now 8"):
            embed_slides(simulated.image, result.path, options=replace(options, patch_size_um=8), device="cpu")
    finally:
        result.settings.write_text(text, encoding="utf-8")


def test_a_budget_decides_the_steps_once(simulated, options, tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "seconds_to_step", lambda *_: {"training": 0.1})
    monkeypatch.setattr(planning, "seconds_to_embed", lambda *_: 0.0)
    limited = replace(options, budget_s=3.0, recipe=replace(SMALL, epochs=100))
    training = pipeline._train
    monkeypatch.setattr(pipeline, "_train", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        embed_slides(simulated.image, tmp_path / "S01.mxs", options=limited, device="cpu")
    monkeypatch.setattr(pipeline, "_train", training)
    monkeypatch.setattr(planning, "seconds_to_step", lambda *_: {"training": 0.01})  # less busy since

    result = embed_slides(simulated.image, tmp_path / "S01.mxs", options=limited, device="cpu")

    assert load_run(result.run).settings["steps"] == settings_of(result)["chosen"]["max_steps"] == 25
    assert "Training takes 25 steps of about 0.1 s" in result.log.read_text()


def test_a_budget_that_is_too_short_is_refused_before_anything_is_written(simulated, options, tmp_path):
    with pytest.raises(
        InputError, match=r"^a budget of 0.1 s is too short: embedding .* Set `budget_s` to at least 1m"
    ):
        embed_slides(simulated.image, tmp_path / "S01.mxs", options=replace(options, budget_s=0.1), device="cpu")

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", ["soon", "", "30", "0m", "-3m"])
def test_a_budget_is_a_duration(wrong):
    with pytest.raises(InputError, match=r"is not a duration\. Write it as 90s, 30m or 2h"):
        read_option("budget", wrong)
    assert read_option("budget", "1h30m") == {"budget_s": 5400.0}
    assert write_options({"budget_s": 5400.0}) == {"budget": "5400s"}


def test_a_budget_needs_a_training():
    with pytest.raises(InputError, match="limits a training"):
        Options(budget_s=60, model="run")


def test_a_plan_adds_up(simulated, options, monkeypatch):
    with_labels = replace(options, labels=simulated.truth, label=("lineage",), only_cells=False)
    monkeypatch.setattr(
        planning, "seconds_to_step", lambda *_: {"training": 0.5, "training the baseline (joint)": 0.25}
    )
    monkeypatch.setattr(planning, "seconds_to_embed", lambda *_: 0.125)
    monkeypatch.setattr(planning, "_machine_slowness", lambda: 2.0)

    plan = plan_slides(simulated.image, options=with_labels, device="cpu")

    assert plan.seconds["training"] == plan.steps * 0.5
    assert plan.seconds["training the baseline (joint)"] == plan.steps * 0.25
    assert plan.seconds["embedding"] == pytest.approx(plan.n_cells * 0.125, abs=0.1)
    later = seconds_after_encoder(plan.n_cells, plan.n_features, 19, n_labels=1, n_encoders=3)
    assert {stage: plan.seconds[stage] for stage in later} == pytest.approx(
        {stage: 2 * value for stage, value in later.items()}, rel=0.01
    )
    assert plan.not_counted == ()


def test_a_plan_of_the_built_in_model_counts_its_scales_and_what_is_compiled_meanwhile(simulated, monkeypatch):
    monkeypatch.setattr(planning, "seconds_to_embed", lambda *_: 0.125)
    monkeypatch.setattr(planning, "_machine_slowness", lambda: 2.0)
    whole = plan_slides(simulated.image, options=Options(masks=(simulated.mask,)), device="cpu")
    cells = plan_slides(simulated.image, options=Options(masks=(simulated.mask,), only_cells=True), device="cpu")

    assert list(cells.seconds) == ["cells", "patches", "scales", "embedding"]
    assert cells.seconds["scales"] > min(cells.n_cells, 2_000) * 0.125
    for stage in ("scales", "embedding"):
        assert whole.seconds[stage] > cells.seconds[stage] + 2


def test_a_plan_segments_a_square_of_a_slide_without_a_mask(simulated, options):
    plan = plan_slides(simulated.image, options=replace(options, masks=()), device="cpu")

    assert {"segmentation", "cells", "training"} <= plan.seconds.keys()
    assert plan.not_counted == ()
    assert 24 <= plan.patch_px <= 56


def test_a_reserve_of_the_budget_is_left():
    assert steps_within(1000, to_embed=50, per_step=1) == 800
