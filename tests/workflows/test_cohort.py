"""The workflow of a cohort on small slides: one is broken, one job is killed, and only missing files are made again."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import anndata
import pytest

from mxsplicer.result.status import status_of
from mxsplicer.simulation import simulate_slide

pytest.importorskip("snakemake")
WORKFLOW = Path(__file__).parents[2] / "workflows" / "cohort"
SMALL = "--epochs 1 --batch-size 64 --encoder-width 4 --component-width 2 --chunk-width 4"

# Slides as people name them: with blanks and apostrophes, and in any script.
NAMES = ("core A1", "O'Neill 2", "肿瘤")
TABLE = """# slides of the study
Slide;path;mask;patient
core A1;core A1.ome.tiff;core A1_mask.ome.tiff;P#1
#core A2;left out for now
O'Neill 2;O'Neill 2.ome.tiff;;P#2
肿瘤;肿瘤.ome.tiff;;P#3
"""

# The command, except that its process is killed when it embeds the second slide for the first time.
KILLER = """
import psutil, sys
from pathlib import Path
if "embed" in sys.argv and "O'Neill 2.ome.tiff" in " ".join(sys.argv) and not Path("killed").exists():
    Path("killed").touch()
    psutil.Process().kill()
from mxsplicer.cli import main
main()
"""


def run(folder, *more, profile="local", **settings):
    config = {
        "samples": "samples.csv",
        "out": "my study",
        "mxsplicer": f"{sys.executable} {folder}/killer.py",
        "patch_size_um": 8,
        "training_cells": 90,
        "train": SMALL,
        **settings,
    }
    given = [f"{name}={value}" for name, value in config.items()]
    options = ["--profile", str(WORKFLOW / "profiles" / profile), "--retries", "0", *more]
    command = [sys.executable, "-m", "snakemake", "-s", str(WORKFLOW / "Snakefile"), *options, "--config", *given]
    path = os.pathsep.join([str(WORKFLOW.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_broken_slide_and_a_killed_job_do_not_stop_the_others(tmp_path):
    for number, name in enumerate(NAMES):
        simulate_slide(tmp_path / f"{name}.ome.tiff", size_px=256, slide_number=number)
    (tmp_path / "肿瘤.ome.tiff").write_text("no slide")
    (tmp_path / "killer.py").write_text(KILLER)
    (tmp_path / "samples.csv").write_text(TABLE)

    killed = run(tmp_path, "--cores", "2")

    study = tmp_path / "my study"
    assert killed.returncode != 0
    assert (tmp_path / "killed").exists(), killed.stderr
    assert not (study / "cohort.mxs").exists()
    states = {item.name: item.state for item in status_of(study).items}
    assert (states["core A1"], states["肿瘤"], states["cohort"]) == ("done", "failed", "waiting")
    plans = [json.loads((study / "slides" / name / "plan.json").read_text()) for name in NAMES]
    assert [plan and plan["memory_bytes"] > 0 for plan in plans] == [True, True, None]
    made = {file: file.stat().st_mtime_ns for file in study.rglob("*.json") if file.is_file()}

    again = run(tmp_path, "--cores", "2")

    assert again.returncode == 0, again.stderr
    assert {file: file.stat().st_mtime_ns for file in made} == made, "finished files were made again"
    adata = anndata.read_h5ad(study / "cohort.mxs" / "cells.h5ad")
    assert list(adata.obs["slide"].cat.categories) == ["core A1", "O'Neill 2"]
    assert set(adata.obs["patient"]) == {"P#1", "P#2"}
    failed = json.loads((study / "cohort.mxs" / "settings.json").read_text())["failed"]
    assert list(failed) == ["肿瘤"]
    assert "肿瘤.ome.tiff" in failed["肿瘤"]
    status = status_of(study)
    assert (status.state, {item.name: item.state for item in status.items}["肿瘤"]) == ("done", "failed")
    dry_run = run(tmp_path, "--dry-run")
    assert "nothing to be done" in (dry_run.stdout + dry_run.stderr).lower()


def test_another_name_than_that_of_the_file_is_refused_before_any_job(tmp_path):
    (tmp_path / "samples.csv").write_text("slide,path\nCRC01,scans/one.ome.tiff\n")

    done = run(tmp_path, "--dry-run")

    assert done.returncode != 0
    assert "write 'one'" in done.stdout + done.stderr


def test_nothing_is_trained_unless_options_of_a_training_are_given(tmp_path):
    (tmp_path / "samples.csv").write_text("slide,path\na,a.tiff\nb,b.tiff\n")
    for train, shown, share in (("", "--encoder moments", 1000), ("--epochs 3", "--epochs 3", 100_000)):
        done = run(tmp_path, "--dry-run", "--printshellcmds", train=train, training_cells="")

        commands = done.stdout + done.stderr
        assert f"--overwrite {shown} >" in commands
        assert f"--cells {share} " in commands


@pytest.mark.parametrize(("profile", "gpus"), [("local", 0), ("gpu", 1), ("slurm", 1)])
def test_every_profile_plans_all_jobs(tmp_path, profile, gpus):
    if profile == "slurm":
        pytest.importorskip("snakemake_executor_plugin_slurm")
    (tmp_path / "samples.csv").write_text("slide,path,mask\na,a.tiff,m.tiff\nb,b.tiff,\n")

    done = run(tmp_path, "--dry-run", profile=profile)

    assert done.returncode == 0, done.stderr
    planned = done.stdout + done.stderr
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", planned, re.MULTILINE))
    assert jobs == {
        "all": "1",
        "segment": "2",
        "plan": "2",
        "extract": "2",
        "train": "1",
        "embed": "2",
        "merge": "1",
        "total": "11",
    }
    for rule in ("train", "embed"):
        resources = re.search(rf"rule {rule}:.*?resources: ([^\n]*)", planned, re.DOTALL)[1]
        assert f"gpu={gpus}" in resources


def test_a_classifier_names_the_cells_of_the_merged_result(tmp_path):
    (tmp_path / "samples.csv").write_text("slide,path,mask\na,a.tiff,m.tiff\n")
    (tmp_path / "types.json").write_text("{}")

    done = run(tmp_path, "--dry-run", "--printshellcmds", classifier="types.json")

    assert done.returncode == 0, done.stderr
    planned = " ".join((done.stdout + done.stderr).split())
    assert "annotate 'my study/cohort.mxs' --apply types.json" in planned, planned[-2000:]
