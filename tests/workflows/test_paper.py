"""The paper's workflow: its plan, and one table from files to figure on generated pictures."""

import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import yaml

import mxsplicer

pytest.importorskip("snakemake")

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "workflows/paper"


def snakemake(*words):
    """Run Snakemake from the root of the repository, and return what it says."""
    command = [sys.executable, "-m", "snakemake", "--nolock", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def montage(path, side, n=60):
    """Write a montage of one bright disc of DNA per tile of 40 px; its size depends on the phase."""
    rng = np.random.default_rng(side)
    image = rng.integers(40, 60, (3, 40, 40 * (n + 1))).astype(np.uint16)
    y, x = np.mgrid[:40, :40] - 19.5
    for number in range(n):
        image[1, :, 40 * number : 40 * (number + 1)] += 800 * (y**2 + x**2 < side**2).astype(np.uint16)
    tifffile.imwrite(path, image)


@pytest.mark.parametrize("profile", ["quick", "hours", "full"])
def test_every_table_of_a_profile_can_be_planned(profile, tmp_path):
    tables = yaml.safe_load((PAPER / f"config/{profile}.yaml").read_text("utf-8"))["tables"]
    named = [table.get(key) for table in tables.values() for key in ("source", "mnist", "cifar")]
    for file in filter(None, named):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()

    output = snakemake(
        "-n", "--profile", PAPER / "profiles" / profile, "--config", f"data={tmp_path}", f"out={tmp_path}"
    )

    planned = dict(re.findall(r"^(\w+) +(\d+)$", output, re.MULTILINE))
    assert int(planned["table"]) == len(tables)
    own = [table for table in tables.values() if "runs_of" not in table]
    sizes = [(len(one[key]) for key in ("methods", "losses", "plans", "seeds") if key in one) for one in own]
    assert int(planned["train"]) >= sum(map(math.prod, sizes))


def test_a_table_is_made_from_pictures_to_figure(tmp_path):
    for phase, side in (("G1", 6), ("S_phase", 8), ("G2", 10), ("Prophase", 12)):
        montage(tmp_path / f"{phase}.ome.tif", side)
    table = {
        "loader": "cell_cycle",
        "source": ".",
        "slides": ["cells"],
        "cut": "--patch-size-um 40",
        "training": "--encoder-area patch --deconstruct marker --epochs 1",
        "methods": ["splicer"],
        "losses": ["vicreg"],
        "seeds": [0],
        "score": "--label phase --groups group",
    }
    config = {"out": str(tmp_path / "out"), "data": str(tmp_path), "training": "--encoder-width 8 --batch-size 16"}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({**config, "tables": {"cell_cycle": table}}), "utf-8")

    snakemake("cell_cycle", "-s", PAPER / "Snakefile", "--configfile", tmp_path / "tiny.yaml", "--cores", 1)

    scores = pd.read_csv(tmp_path / "out/cell_cycle.csv")
    joined = ("", " + mean intensity", " + mean intensity and shape")
    assert set(scores["method"]) == {f"splicer vicreg{end}" for end in joined}
    assert scores["balanced_accuracy"].between(0, 1).all()
    assert scores["n_cells"].gt(200).all()
    assert "splicer vicreg |" in (tmp_path / "out/cell_cycle.md").read_text("utf-8")
    assert (tmp_path / "out/cell_cycle.png").stat().st_size > 1000


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a folder with a tiny slide of tissue, its patches and truth, and a run trained on them."""
    folder = tmp_path_factory.mktemp("tissue")
    made = mxsplicer.simulate_slide(folder / "slide.ome.tiff", size_px=512)
    slide = mxsplicer.open_slide(made.image)
    store = mxsplicer.extract_patches(
        slide, mxsplicer.open_mask(made.mask, slide=slide), folder / "s.zarr", patch_size_um=16
    )
    recipe = mxsplicer.Recipe(deconstruction="marker", encoder_width=8, component_width=4, batch_size=64, epochs=1)
    mxsplicer.train(store, folder / "run", recipe=recipe, device="cpu")
    truth = pd.read_csv(made.truth)
    truth["split"] = np.where(truth["x"] < truth["x"].median(), "train", "test")
    truth.to_csv(folder / "labels.csv", index=False)
    return folder


def scored(load, folder, script, *words):
    """Return the rows that a script of scores writes."""
    files = ["--run", folder / "run", "--stores", folder / "s.zarr", "--labels", folder / "labels.csv"]
    load(f"scripts/{script}", folder / "scores.csv", *files, *words)
    return pd.read_csv(folder / "scores.csv").set_index("representation")


def test_baselines_without_training_are_in_the_table(load, trained):
    found = scored(load, trained, "score", "--label", "lineage", "--baselines")

    baselines = {"untrained", "PCA of pixels", "mean of the patch", "mean intensity", "PCA of mean intensity"}
    assert baselines < set(found.index)
    assert found.loc["mean intensity", "balanced_accuracy"] > 2 * found.loc["mean intensity", "chance"]


def test_pictures_with_a_split_are_scored_on_their_test_part(load, trained):
    found = scored(load, trained, "score", "--label", "region", "--split")

    labels = pd.read_csv(trained / "labels.csv")
    assert found.index.tolist() == ["z"]
    assert found.loc["z", "n_cells"] == (labels["split"] == "test").sum()
    assert found.loc["z", "singular_values"].startswith("1 ")


def test_the_ceiling_is_trained_in_the_folds_of_the_probes(load, trained):
    found = scored(load, trained, "supervised", "--label", "lineage", "region")

    assert found["label"].tolist() == ["lineage", "region"]
    assert found["balanced_accuracy"].between(0, 1).all()
    assert found["folds_by"].str.startswith("quadrant").all()


def test_remedies_in_the_classifier_are_compared_with_a_plain_head(load, trained):
    found = scored(load, trained, "heads", "--label", "region")

    assert found.index.tolist() == ["z", "z + channel dropout", "z + sieve of 8", "z + sieve of 32"]
    assert (
        found.loc["z + sieve of 32", "balanced_accuracy"] < found.loc["z", "balanced_accuracy"]
    )  # one half is enough here


def test_z_is_held_against_the_markers_in_three_forms(load, trained):
    found = scored(load, trained, "markers")

    assert found["label"].tolist() == ["mean |r|", "largest |r|", "ridge R²"]
    mean, largest, _ = found["balanced_accuracy"]
    assert 0 < mean < largest <= 1
