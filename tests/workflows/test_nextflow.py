"""The module for Nextflow: its script block runs as it stands, and makes what it declares.

Nextflow itself is not needed: expressions are replaced by values, as Nextflow would, and bash runs the rest.
"""

import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import anndata
import pandas as pd
import pytest
import yaml

import mxsplicer
from mxsplicer.simulation import simulate_slide

MODULE = Path(__file__).parents[2] / "workflows/nextflow/modules/local/mxsplicer/embed"
MAIN = (MODULE / "main.nf").read_text(encoding="utf-8")
META = yaml.safe_load((MODULE / "meta.yml").read_text(encoding="utf-8"))
VALUES = {
    "image": "slide.ome.tiff",
    "mask_arg": "--mask slide_mask.ome.tiff",
    "markers_arg": "--markers markers.csv",
    "memory_arg": "--max-memory 4000M",
    "prefix": "core_1",
    "device": "cpu",
    "task.cpus": "1",
    "task.process": "MXSPLICER_EMBED",
    "args": "--max-steps 2 --encoder-width 4",
    "args2": "",
}
MADE = {"core_1.h5ad", "core_1.csv", "core_1.html", "core_1.mxs", "versions.yml"}
pytestmark = pytest.mark.skipif(shutil.which("bash") is None or sys.platform == "win32", reason="runs bash")


def script(section):
    """Return the command of a section of the process, with values instead of expressions."""
    block = re.search(rf'\n    {section}:\n.*?"""\n(.*?)"""', MAIN, re.DOTALL)[1]
    filled = re.sub(r"(?<!\\)\$\{([\w.]+)\}", lambda found: VALUES[found[1]], block)
    return textwrap.dedent(filled.replace("\\\\", "\\").replace("\\$", "$"))


def run(section, folder):
    program = folder / "bin" / "mxsplicer"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m mxsplicer "$@"\n')
    program.chmod(0o755)
    command = f"export PATH={program.parent}:$PATH\n{script(section)}"
    before = set(folder.iterdir())
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return {path.name for path in set(folder.iterdir()) - before}


def test_the_script_makes_what_the_process_declares(tmp_path):
    simulated = simulate_slide(tmp_path / "slide.ome.tiff", size_px=256)
    names = mxsplicer.open_slide(simulated.image).markers
    (tmp_path / "markers.csv").write_text("\n".join(["marker_name", *names]), encoding="utf-8")

    made = run("script", tmp_path)

    assert made >= MADE
    table, adata = pd.read_csv(tmp_path / "core_1.csv"), anndata.read_h5ad(tmp_path / "core_1.h5ad")
    shape = ["X_centroid", "Y_centroid", "Area", "MajorAxisLength", "MinorAxisLength", "Eccentricity", "Orientation"]
    assert list(table)[: 2 + len(names) + len(shape)] == ["CellID", "imageid", *names, *shape]
    assert (len(table), adata.obsm["X_splicer"].shape[0]) == (adata.n_obs, adata.n_obs)
    versions = yaml.safe_load((tmp_path / "versions.yml").read_text())
    assert versions == {"MXSPLICER_EMBED": {"mxsplicer": mxsplicer.__version__}}


def test_the_stub_makes_the_same_files(tmp_path):
    assert run("stub", tmp_path) == MADE


def test_inputs_and_outputs_are_those_of_the_description():
    declared = MAIN.split("    input:")[1].split("    when:")[0]
    inputs, outputs = declared.split("    output:")
    described = [name for channel in META["input"] for element in channel for name in element]

    assert re.findall(r"(?:val|path)\((\w+)\)", inputs) == described
    assert re.findall(r"emit: (\w+)", outputs) == list(META["output"])
    assert set(re.findall(r'path\(?\s*"([^"]+)"', outputs)) == {
        name
        for channel in META["output"].values()
        for one in channel
        for element in (one if isinstance(one, list) else [one])
        for name in element
        if name != "meta"
    }
