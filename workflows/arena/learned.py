"""Learned descriptions: what `mxsplicer embed` writes, in a process of its own, and what it costs."""

import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from sets import DataSet

from mxsplicer.result.folder import open_result
from mxsplicer.splicer.run import load_run, save_run, untrained

DEFAULT, TRAINED, UNTRAINED, JOINT, PAPER = "X_splicer", "trained", "untrained", "joint", "paper preset"


def embed(data: DataSet, out: Path, options: Sequence[str] = ()) -> float:
    """Embed the slides of a data set into the result ``out``, and return the seconds of processor time.

    A finished result is not made again; its cost was written next to it.
    """
    cost = out.with_suffix(".json")
    if cost.exists():
        return float(json.loads(cost.read_text())["seconds"])
    words = [sys.executable, "-m", "mxsplicer", "embed", *(str(one.image) for one in data.slides)]
    words += [word for one in data.slides for word in ("--mask", str(one.mask))]
    words += [word for marker in data.drop for word in ("--drop", marker)]
    words += ["--out", str(out), "--only-cells", *options]
    before = _of_children()
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    if done.returncode:
        msg = f"mxsplicer embed failed on {data.name}: {done.stderr[-2000:]}"
        raise SystemExit(msg)
    seconds = _of_children() - before
    cost.write_text(json.dumps({"seconds": seconds, "words": words[1:]}))
    return seconds


def model_of(out: Path) -> Path:
    """Return the folder of the trained model of a result."""
    return Path(out, open_result(out)["files"]["run"])


def make_untrained(trained: Path, path: Path, *, seed: int = 0) -> Path:
    """Write the same encoder without training."""
    if not path.exists():
        path.mkdir()
        save_run(untrained(load_run(trained), seed=seed), path)
    return path


def read(out: Path, obs: pd.DataFrame) -> np.ndarray:
    """Return what a result has as the representation of its run, of the cells of ``obs`` in their order.

    Cells that the command left out are nan.
    """
    cells = anndata.read_h5ad(out / open_result(out)["files"]["cells"])
    names = pd.Index([f"{slide}:{cell}" for slide, cell in zip(cells.obs["slide"], cells.obs["cell_id"], strict=True)])
    wanted = [f"{slide}:{cell}" for slide, cell in zip(obs["slide"], obs["cell_id"], strict=True)]
    at = names.get_indexer(pd.Index(wanted))
    key = next(key for key in ("X_splicer", "X_joint") if key in cells.obsm)
    features = np.asarray(cells.obsm[key], dtype=np.float32)
    return np.where((at >= 0)[:, None], features[at], np.nan)


def n_cells(out: Path) -> int:
    """Return the number of cells in a result."""
    return int(anndata.read_h5ad(out / open_result(out)["files"]["cells"], backed="r").n_obs)


def _of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
