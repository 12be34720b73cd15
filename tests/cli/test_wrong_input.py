"""Wrong input is answered by one sentence and exit code 2, and nothing is written."""

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from mxsplicer.patches.extraction import extract_patches
from mxsplicer.splicer.recipe import Recipe
from mxsplicer.splicer.training import train
from mxsplicer.testing import tiny_slide

CELLS_AT = [(y, x) for y in range(10, 60, 12) for x in range(10, 90, 12)]
SLIDE, MASK = tiny_slide(cells_at=CELLS_AT)  # three markers: DAPI, CD3e, CD20; (64, 96) pixels of half a micrometre


def write_slide(name="slide.ome.tif", image=SLIDE.image, markers=SLIDE.markers, size_um=0.5, axes="CYX"):
    metadata = {"axes": axes, "PhysicalSizeX": size_um, "PhysicalSizeXUnit": "µm"}
    if markers:
        metadata["Channel"] = {"Name": list(markers)}
    tifffile.imwrite(name, image, photometric="minisblack", metadata=metadata, ome=True)
    return name


def write_mask(name="mask.tif", labels=MASK):
    tifffile.imwrite(name, labels, photometric="minisblack", metadata=None)
    return name


def write_table(name, **columns):
    pd.DataFrame(columns).to_csv(name, index=False)
    return name


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """Return the run of an encoder of the tiny slide, patches of 16 µm."""
    folder = tmp_path_factory.mktemp("model")
    store = extract_patches(SLIDE, MASK, folder / "patches.zarr", patch_size_um=16)
    small = Recipe(epochs=1, batch_size=16, encoder_width=4, component_width=2, chunk_width=4)
    train(store, folder / "run", recipe=small)
    return folder / "run"


def not_a_tiff(_):
    Path("slide.ome.tif").write_text("version https://git-lfs.github.com/spec/v1\n")
    return ["slide.ome.tif"]


def truncated(_):
    content = Path(write_slide()).read_bytes()
    Path("slide.ome.tif").write_bytes(content[: len(content) // 2])
    return ["slide.ome.tif"]


def without_names(_):
    return [write_slide(image=SLIDE.image[0], markers=None, axes="YX")]


def colour(_):
    tifffile.imwrite("slide.tif", np.zeros((64, 96, 3), np.uint8), photometric="rgb")
    return ["slide.tif"]


def masked(labels):
    return lambda _: [write_slide(), "--mask", write_mask(labels=labels)]


def with_options(*options):
    return lambda _: [write_slide(), "--mask", write_mask(), *options]


def too_few_names(_):
    Path("markers.csv").write_text("marker_name\nDAPI\nCD3e\n")
    return [write_slide(), "--mask", write_mask(), "--markers", "markers.csv"]


def with_labels(*options, **columns):
    return lambda _: [write_slide(), "--mask", write_mask(), "--labels", write_table("labels.csv", **columns), *options]


def with_samples(*options, **columns):
    return lambda _: [
        write_slide(),
        "--mask",
        write_mask(),
        "--cohort",
        write_table("samples.csv", **columns),
        *options,
    ]


def of_model(model, *options, **slide):
    return [write_slide(**slide), "--mask", write_mask(), "--model", model, *options]


def output_of_others(_):
    Path("out").mkdir()
    Path("out/thesis.docx").write_text("years of work")
    return [write_slide(), "--mask", write_mask(), "--out", "out", "--overwrite"]


def two_slides(*options, **second):
    def write(_):
        Path("other").mkdir()
        return [write_slide(), write_slide(**({"name": "b.ome.tif"} | second)), *options]

    return write


IDS = np.unique(MASK)[1:]
CASES = {
    "not a TIFF": (not_a_tiff, ["slide.ome.tif is not a TIFF file"]),
    "no such file": (lambda _: ["slide.tif"], ["SLIDE slide.tif not found. Check the path"]),
    "a folder": (lambda _: ["."], ["is a folder. Give the image file"]),
    "truncated": (truncated, ["slide.ome.tif", "truncated"]),
    "one channel without a name": (without_names, ["lacks the name of its only channel", "--markers"]),
    "RGB": (colour, ["slide.tif has the axes YXS (64, 96, 3): a colour (RGB) image"]),
    "a mask of a smaller level": (masked(MASK[::2, ::2]), ["(32, 48)", "(64, 96)", "2 times smaller", "level"]),
    "a transposed mask": (masked(MASK.T), ["(96, 64)", "(64, 96)", "swapped: transpose the mask"]),
    "a mask of another slide": (masked(MASK[:-9]), ["(55, 96)", "(64, 96)", "another slide"]),
    "a mask without cells": (masked(MASK * 0), ["mask of slide 'slide' holds no cell"]),
    "a mask of probabilities": (
        masked(MASK / 100),
        ["mask mask.tif holds 0.01", "image of intensities or probabilities"],
    ),
    "a mask of negative ids": (masked(-MASK.astype(np.int64)), ["mask mask.tif holds the id -", "Relabel it"]),
    "a mask of several pages": (masked(np.stack([MASK] * 2)), ["(2, 64, 96)", "--mask-page"]),
    "a mask page that is not there": (with_options("--mask-page", 3), ["mask.tif", "no page 3"]),
    "two masks for a slide": (with_options("--mask", "mask.tif"), ["1 slides and 2 masks"]),
    "no mask": (lambda _: [write_slide(), "--mask", "gone.tif"], ["--mask gone.tif not found"]),
    "a folder without the mask": (two_slides("--mask", "other", "--out", "o"), ["holds 0 masks", "'slide'"]),
    "no names": (lambda _: [write_slide(markers=None)], ["lacks the names of its 3 channels", "--markers"]),
    "no pixel size": (lambda _: [write_slide(size_um=None)], ["lacks a plausible pixel size", "--pixel-size"]),
    "no marker table": (with_options("--markers", "gone.csv"), ["--markers gone.csv not found"]),
    "an unknown marker": (
        lambda _: [write_slide(), "--nuclear-marker", "DAPY"],
        ["slide 'slide' has no marker 'DAPY'. Did you mean 'DAPI'? Its markers: DAPI, CD3e, CD20"],
    ),
    "no nuclear marker": (lambda _: [write_slide(markers=list("abc"))], ["--mask", "--nuclear-marker"]),
    "a model of another pixel size": (
        lambda model: of_model(model, "--patch-size-um", 8, size_um=0.25),
        ["pixels of 0.25 µm", "trained on 0.5 µm"],
    ),
    "a model of another patch size": (
        lambda model: of_model(model, "--patch-size-um", 8),
        ["are 16 px wide, and the model takes 32 px"],
    ),
    "no model": (with_options("--model", "gone"), ["--model gone not found"]),
    "an output of others": (output_of_others, ["out exists and is not a result of mxsplicer"]),
    "a patch larger than the slide": (
        with_options("--patch-size-um", 200),
        ["a patch of 200 µm (400 pixels) does not fit on slide 'slide'"],
    ),
    "a patch of nothing": (with_options("--patch-size-um", 0), ["a patch of 0.0 µm"]),
    "labels without the column": (
        with_labels("--score", "typ", cell_id=IDS, type="a"),
        ["table labels.csv has no column 'typ'. Its columns: cell_id, type"],
    ),
    "labels without ids": (with_labels(type=["a", "b"]), ["no column of cell ids"]),
    "labels of no column of words": (with_labels(cell_id=IDS), ["labels.csv has no text column", "--score"]),
    "labels of other cells": (with_labels(cell_id=[900, 901], type=["a", "b"]), ["none of the 35 cells"]),
    "labels that name a cell twice": (with_labels(cell_id=[1, 1], type=["a", "b"]), ["has cell 1 twice"]),
    "no labels": (with_options("--labels", "gone.csv"), ["--labels gone.csv not found"]),
    "a label of no table": (with_options("--score", "type"), ["--score type", "--labels"]),
    "labels without a mask": (
        lambda _: [write_slide(), "--labels", write_table("labels.csv", cell_id=IDS, type="a")],
        ["matched by the ids of cells", "--mask"],
    ),
    "samples without the slide": (with_samples(slide=["other"], patient=[1]), ["samples.csv", "lacks slide"]),
    "samples without the groups": (
        with_samples("--fold-by", "donor", slide=["slide"], patient=[1]),
        ["samples.csv has no column 'donor'. Its columns: slide, patient"],
    ),
    "groups of no table": (with_options("--fold-by", "patient"), ["--fold-by patient", "--cohort"]),
    "an unknown method": (with_options("--method", "simsiam"), ["'simsiam'", "splicer, joint"]),
    "a loss of a component that is not there": (
        with_options("--loss", "CD3=simclr"),
        ["--loss names 'CD3'", "Did you mean 'CD3e'"],
    ),
    "groups of nothing": (
        with_options("--deconstruct", "groups"),
        ["no groups of markers", "--deconstruct groups.yaml"],
    ),
    "a file of groups that is not there": (with_options("--deconstruct", "t.yaml"), ["t.yaml: no such file"]),
    "an unknown preset": (with_options("--preset", "best"), ["'best'", "default, paper"]),
    "an unknown loss": (with_options("--loss", "mse"), ["'mse'", "vicreg, simclr"]),
    "an unknown encoder": (with_options("--encoder", "vit"), ["'vit'", "resnet50, separable, hybrid"]),
    "an unknown area": (with_options("--encoder-area", "blur"), ["--encoder-area is 'blur'", "cell or patch"]),
    "unknown views": (with_options("--views", "spanning"), ["'spanning'", "Choose shared or independent"]),
    "an unknown device": (with_options("--device", "tpu"), ["'tpu'", "auto, cpu, cuda, cuda:N and mps"]),
    "a number that is none": (with_options("--epochs", "many"), ["--epochs", "integer"]),
    "no epochs": (with_options("--epochs", 0), ["--epochs"]),
    "an unknown option": (with_options("--lernrate", 1), ["--lernrate", "--learning-rate"]),
    "no slide": (lambda _: [], ["no slide was given", "--cohort"]),
    "two slides and no output": (two_slides(), ["2 slides were given", "--out"]),
    "two slides of one name": (
        two_slides("--out", "out", name="other/slide.ome.tif"),
        ["two slides are called 'slide', as their files are. Name them in a table", "--cohort"],
    ),
    "two slides of different panels": (
        two_slides("--out", "out", markers=["DAPI", "CD3e", "CD8"]),
        ["slides 'slide' and 'b' differ in their markers: CD20, CD8"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_wrong_input_gets_one_sentence_and_nothing_is_written(command, model, case):
    write, parts = CASES[case]
    arguments = write(model)

    outcome = command("embed", *arguments)

    assert outcome.code == 2, outcome.err
    assert outcome.written == []
    assert outcome.out == ""
    assert outcome.err.startswith("mxsplicer: ")
    assert outcome.err.count("\n") == 1, outcome.err
    assert outcome.err.endswith((".\n", "?\n"))
    for part in parts:
        assert part in outcome.err


def another_panel(model):
    return of_model(model, "--patch-size-um", 16, markers=["DAPI", "CD3", "CD20"])


@pytest.mark.parametrize(
    ("write", "parts"),
    [
        (too_few_names, ["3 channels but 2 marker names (markers.csv)", "  > 3        CD20         -\n"]),
        (
            another_panel,
            [
                "the model needs markers that slide 'slide' lacks: CD3e. Of the slide, the model does not know: CD3.",
                "pass --rename CD3=CD3e; or train",
                "    channel  on the slide  in the model\n    1        DAPI          DAPI\n",
                "  > 2        CD3           -\n",
            ],
        ),
    ],
)
def test_names_that_do_not_agree_are_shown_side_by_side(command, model, write, parts):
    outcome = command("embed", *write(model))

    assert (outcome.code, outcome.out, outcome.written) == (2, "", [])
    for part in parts:
        assert part in outcome.err


def test_a_disk_that_is_too_small_is_reported_before_anything_is_written(command, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))

    outcome = command("embed", write_slide(), "--mask", write_mask(), "--patch-size-um", 8)

    assert outcome.code == 2
    assert "patches of 35 cells need about" in outcome.err
    assert outcome.written == []


def test_a_disk_that_fills_up_is_reported_and_the_same_command_finishes(command, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "cells.h5ad")

    small = ["--patch-size-um", 8, "--epochs", 1, "--batch-size", 16, "--encoder-width", 4, "--chunk-width", 4]
    arguments = ["embed", write_slide(), "--mask", write_mask(), *small]
    with monkeypatch.context() as patched:
        patched.setattr("mxsplicer.splicer.training.train", full)
        outcome = command(*arguments)

    assert outcome.code == 2
    assert "the disk is full (cells.h5ad). Free some space and run the same command again." in outcome.err
    assert not {"slide.mxs/mxsplicer.json", "slide.mxs/cells.h5ad", "slide.mxs/run"} & set(outcome.written)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["segment", "slide.ome.tif", "--out", "taken"], "taken exists"),
        (["extract", "slide.ome.tif", "--out", "taken", "--mask", "mask.tif", "--patch-size-um", 8], "taken exists"),
        (["simulate", "--out", "slide.ome.tiff", "--size-px", 256], "'slide.ome.tiff' exists"),
        (["train", "taken", "--out", "run"], "taken is not a patch store. Make one with `mxsplicer extract`"),
        (["report", "taken"], "taken has no cells.h5ad"),
        (["segment", "mask.tif", "--out", "new.zarr"], "mask.tif (TIFF) lacks the name of its only channel"),
        (["segment", "slide.ome.tif", "--out", "new.zarr", "--nuclear-marker", "CD8"], "no marker 'CD8'"),
        (["extract", "slide.ome.tif", "--out", "new.zarr", "--mask", "slide.ome.tif"], "Choose one by --mask-page"),
        (["extract", "slide.ome.tif", "--out", "new.zarr"], "Missing option '--mask'"),
        (["extract", "slide.ome.tif", "--mask", "mask.tif"], "Missing option '--out'"),
        (
            ["embed", "slide.ome.tif", "--mask", "mask.tif", "--out", "taken"],
            "taken exists and is not a result of mxsplicer",
        ),
        (["dance"], "No such command 'dance'"),
    ],
)
def test_every_command_refuses_in_one_sentence(command, arguments, sentence):
    write_slide()
    write_slide("slide.ome.tiff")
    write_mask()
    Path("taken").write_text("of others")

    outcome = command(*arguments)

    assert outcome.code == 2, outcome.err
    assert sentence in outcome.err
    assert outcome.err.count("\n") == 1
    assert outcome.written == []


@pytest.mark.parametrize("name", ["embed", "info", "check", "segment", "extract", "train", "report", "simulate"])
def test_every_command_explains_itself(command, name):
    outcome = command(name, "--help")

    assert (outcome.code, outcome.err) == (0, "")
    assert f"mxsplicer {name}" in outcome.out


def test_a_bug_is_reported_in_one_sentence_that_names_the_debug_option(command, monkeypatch):
    def broken(*_, **__):
        msg = "a bug"
        raise ZeroDivisionError(msg)

    monkeypatch.setattr("mxsplicer.images.opening.open_slide", broken)
    write_slide()

    outcome = command("info", "slide.ome.tif")

    assert outcome.code == 1
    assert outcome.err == "mxsplicer: failed: ZeroDivisionError: a bug. Run `mxsplicer --debug ...` to see where.\n"
    with pytest.raises(ZeroDivisionError):
        command("--debug", "info", "slide.ome.tif")


def test_info_shows_a_slide_without_reading_its_pixels(command):
    outcome = command("info", write_slide())

    assert outcome.code == 0
    for part in ("3 channels, 64 x 96 pixels", "0.5 µm (OME-XML)", "DAPI, CD3e, CD20 (OME-TIFF)"):
        assert part in outcome.out
