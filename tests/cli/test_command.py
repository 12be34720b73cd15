"""What all commands share: old names, options from a file, --help-all, missing files, finished outputs."""

import json
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tifffile
import typer

from mxsplicer.cli import app
from mxsplicer.cli.old_names import POSITIONAL_OUT, RENAMED
from mxsplicer.splicer.recipe import REMOVED
from mxsplicer.testing import tiny_slide

COMMANDS = typer.main.get_command(app).commands
SMALL = ("--patch-size-um", 8, "--epochs", 1, "--encoder-width", 8, "--component-width", 2, "--chunk-width", 4)


def options_of(name):
    return {option for one in COMMANDS[name].params for option in one.opts}


@pytest.fixture
def slide(tmp_path):
    """Write a slide of 35 cells and its mask; return both names."""
    made, mask = tiny_slide(cells_at=[(y, x) for y in range(10, 60, 12) for x in range(10, 90, 12)])
    metadata = {"axes": "CYX", "PhysicalSizeX": 0.5, "Channel": {"Name": list(made.markers)}}
    tifffile.imwrite(tmp_path / "S01.ome.tif", made.image, photometric="minisblack", metadata=metadata, ome=True)
    tifffile.imwrite(tmp_path / "mask.tif", mask, photometric="minisblack", metadata=None)
    return "S01.ome.tif", "mask.tif"


@pytest.mark.parametrize("renamed", RENAMED, ids=lambda one: one.old)
def test_an_old_name_works_and_is_logged(renamed, command, caplog):
    names = renamed.commands or [name for name in COMMANDS if renamed.new in options_of(name)]
    assert names
    for name in names:
        assert renamed.old not in options_of(name)
        value = next(iter(renamed.values), "12345")
        old = command(name, f"{renamed.old}={value}")
        new = command(name, f"{renamed.new}={renamed.values.get(value, value)}")

        assert f"DeprecationWarning: {renamed.old} is now {renamed.new}" in " ".join(old.err.split())
        assert "No such option" not in old.err
        assert old.code == new.code
        assert old.err.splitlines()[-1] == new.err.splitlines()[-1]


@pytest.mark.parametrize("option", ["controls", "covariance_scope"])
def test_an_option_that_was_removed_is_refused_unless_a_file_of_options_has_what_is_left(option, command, slide):
    dashed, left = option.replace("_", "-"), json.dumps(REMOVED[option])
    Path("before.toml").write_text(f"{dashed} = {left}")
    Path("other.toml").write_text(f'{dashed} = "AF1"')

    typed = command("embed", slide[0], f"--{dashed}", "AF1")
    read = command("embed", slide[0], "--mask", slide[1], "--config", "before.toml", "--plan")
    refused = command("embed", slide[0], "--config", "other.toml")

    assert option not in options_of("embed")
    assert (typed.code, typed.written) == (refused.code, refused.written) == (2, [])
    assert f"--{dashed} was removed: it gained nothing. Leave it out." in " ".join(typed.err.split())
    assert f"{dashed} in other.toml was removed" in " ".join(refused.err.split())
    assert read.code == 0, read.err


def test_outputs_are_called_out_in_every_command():
    for name in ("embed", "merge", "segment", "extract", "train", "report", "simulate", "pull", "evaluate"):
        assert "--out" in options_of(name)
        assert not any(one.param_type_name == "argument" and one.name == "out" for one in COMMANDS[name].params)


def test_an_output_as_the_last_argument_still_works(command, slide):
    done = command("segment", slide[0], "made.zarr")

    assert done.code == 0, done.err
    assert Path("made.zarr/0").is_dir()
    assert "the positional argument made.zarr is now --out made.zarr" in " ".join(done.err.split())
    assert set(POSITIONAL_OUT) <= COMMANDS.keys()
    twice = command("segment", slide[0], "a.zarr", "b.zarr")
    assert (twice.code, twice.written) == (2, [])


def test_help_shows_the_common_options_and_help_all_every_one(command):
    common = {option for one in COMMANDS["embed"].params for option in one.opts if not getattr(one, "hidden", False)}
    short, long = command("embed", "--help"), command("embed", "--help-all")

    assert 15 <= len([option for option in common if option.startswith("--")]) <= 20
    assert "--redundancy-weight" not in short.out
    assert "more options: mxsplicer embed --help-all" in short.out
    assert all(option in long.out for option in options_of("embed") if option.startswith("--"))
    assert "--redundancy-weight" not in command("embed", "--help").out


def test_a_result_keeps_its_options_and_they_repeat_it(command, slide):
    image, mask = slide
    first = command("embed", image, "--mask", mask, *SMALL, "--component-weight", "CD3e=2", "--only-cells")
    config = tomllib.loads(Path("S01.mxs/config.toml").read_text())

    again = command("embed", "--config", "S01.mxs/config.toml")
    other = command("embed", "--config", "S01.mxs/config.toml", "--out", "other.mxs", "--no-only-cells", "--plan")
    refused = command("embed", "--config", "S01.mxs/config.toml", "--component-weight", "CD3e=3")

    assert first.code == 0, first.err
    assert config["slides"] == [str(Path(image).resolve())]
    assert config["mask"] == [str(Path(mask).resolve())]
    assert config["component-weight"] == ["CD3e=2.0"]
    assert (again.code, again.written) == (0, []), again.err
    assert "is complete" in " ".join(again.err.split())
    assert (other.code, other.written) == (0, []), other.err
    assert refused.code == 2
    assert "made differently" in refused.err
    repeated = command("embed", "--config", "S01.mxs/config.toml", "--out", "other.mxs")
    assert repeated.code == 0, repeated.err
    assert Path("S01.mxs/settings.json").is_file()
    options = [json.loads(Path(name, "settings.json").read_text())["options"] for name in ("S01.mxs", "other.mxs")]
    assert options[0] == options[1]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("epoch = 3", "study.toml has 'epoch', which is not an option of `mxsplicer embed`. Did you mean epochs?"),
        ("epochs = [3, 4]", "study.toml: epochs is a list, and takes one value."),
        ("epochs = 'many'", "Invalid value for '--epochs'"),
        ("epochs 3", "study.toml is not a TOML file"),
        ("mask = 'gone.tif'", "--mask gone.tif not found"),
        ("surroundings = 'blur'", "--encoder-area is 'blur'; it can be cell or patch."),
    ],
)
def test_a_mistake_in_a_file_of_options_is_reported_in_a_sentence(command, slide, content, sentence):
    Path("study.toml").write_text(content)

    done = command("embed", slide[0], "--config", "study.toml")

    assert (done.code, done.written) == (2, [])
    assert sentence in " ".join(done.err.split())


def test_paths_in_a_file_of_options_are_relative_to_it(command, slide):
    Path("study").mkdir()
    Path("study/study.toml").write_text('slides = "../S01.ome.tif"\nmask = "../mask.tif"\npatch-size-um = 8\n')

    done = command("embed", "--config", "study/study.toml", "--encoder-width", 8, "--plan")

    assert (done.code, done.written) == (0, []), done.err


def test_stores_and_options_of_a_training_can_be_in_a_file(command, slide):
    command("extract", slide[0], "--mask", slide[1], "--out", "p.zarr", "--patch-size-um", 8)
    Path("train.toml").write_text('stores = ["p.zarr"]\nepochs = 1\nencoder-width = 8\ncomponent_width = 2\n')

    done = command("train", "--config", "train.toml", "--out", "run", "--chunk-width", 4)
    missing = command("train", "--config", "gone.toml", "--out", "run")

    settings = json.loads(Path("run/config.json").read_text())["settings"]
    assert done.code == 0, done.err
    assert (settings["encoder_width"], settings["component_width"], settings["chunk_width"]) == (8, 2, 4)
    assert missing.code == 2
    assert "--config gone.toml not found" in missing.err


def test_the_same_command_on_a_finished_output_has_nothing_to_do_and_another_is_refused(command, slide):
    image, mask = slide
    patches = ["extract", image, "--mask", mask, "--out", "p.zarr", "--patch-size-um", 8]
    small = ["--epochs", 1, "--encoder-width", 8, "--component-width", 2, "--chunk-width", 4]
    stages = {
        "mask.zarr": (["segment", image, "--out", "mask.zarr"], ["--expansion-um", 2]),
        "p.zarr": (patches, ["--min-area-um2", 6]),
        "run": (["train", "p.zarr", "--out", "run", *small], ["--seed", 1]),
        "s.ome.tiff": (["simulate", "--out", "s.ome.tiff", "--size-px", 256], ["--seed", 1]),
    }
    for out, (arguments, other) in stages.items():
        done = command(*arguments)
        again = command(*arguments, *(["--workers", 2] if out.endswith(".zarr") else []))
        refused = command(*arguments, *other)

        assert done.code == 0, done.err
        assert (again.code, again.written, again.out) == (0, [], f"{out} is complete\n")
        assert (refused.code, refused.written) == (2, [])
        message = " ".join(refused.err.split())
        assert f"{out} exists and was made from something else (other {other[0][2:]})" in message
        assert "pass --overwrite to replace it." in message


def test_an_output_of_changed_input_is_refused(command, slide):
    arguments = ["extract", slide[0], "--mask", slide[1], "--out", "p.zarr", "--patch-size-um", 8]
    command(*arguments)
    mask = tifffile.imread("mask.tif")
    tifffile.imwrite("mask.tif", np.where(mask == mask.max(), 0, mask), photometric="minisblack", metadata=None)

    refused = command(*arguments)

    assert refused.code == 2
    assert "made from something else (other mask)" in " ".join(refused.err.split())


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"simulate", "pull"}))
def test_a_missing_file_is_reported_before_anything_heavy_is_imported(tmp_path, name):
    more = {"extract": ["--mask", "m", "--out", "o"], "check": ["m"], "segment": ["--out", "o"], "push": ["a/b"]}
    more |= {"train": ["--out", "o"], "merge": ["--out", "o"]}
    look = (
        "import sys, mxsplicer.cli\n"
        "code = mxsplicer.cli.entry_point._exit_code(sys.argv[1:])\n"
        "heavy = {'torch', 'napari', 'scanpy', 'anndata', 'zarr', 'pandas', 'skimage'} & sys.modules.keys()\n"
        "print(code, sorted(heavy))"
    )

    ended = subprocess.run(
        [sys.executable, "-c", look, name, "gone", *more.get(name, [])],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )

    assert ended.stdout.split("\n")[-2] == "2 []", ended.stderr
    assert "gone not found" in ended.stderr


def test_the_package_is_a_program(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-m", "mxsplicer", "--version"], capture_output=True, text=True, cwd=tmp_path, check=False
    )

    assert ended.stdout.startswith("mxsplicer ")


@pytest.mark.parametrize("name", COMMANDS)
def test_lines_of_help_end_where_the_terminal_does(command, name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = [line.strip() for line in command(name, "--help").out.split("\u256d")[0].splitlines()]
    for line, following in pairwise(lines):
        if line and following and not line.startswith("Usage:"):
            assert len(f"{line} {following.split()[0]}") > 78
