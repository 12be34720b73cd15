"""Compare the leading chunk of a feature with the marker that the feature follows, and with what it depends on.

Run by hand on results whose folders hold their run and the patches that it was trained on::

    python tests/benchmarks/bench_shares.py RESULT ...

The dependence of a feature is measured by replacing one marker of each cell with that of another cell, and recording
the change of the feature. Next to each agreement, the agreement after shuffling chunks among the features is printed.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
from napari_mxsplicer.study import ChunkShares

from mxsplicer import load_run
from mxsplicer.embedding.encode import encode_inputs
from mxsplicer.patches.store import PatchStore
from mxsplicer.splicer.run import Run

_CELLS, _SHUFFLES = 1_200, 300


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="+", metavar="RESULT")
    for path in parser.parse_args().results:
        measure(path)


def measure(path: Path) -> None:
    """Compare leading chunks with correlations, and both with what moves the features."""
    adata, run = anndata.read_h5ad(path / "cells.h5ad"), load_run(path)
    markers, components = list(run.markers), tuple(run.settings["components"])
    z, r = adata.obsm["X_splicer"], np.abs(adata.varm["splicer_correlation"])
    follows, order, moves = r.argmax(axis=0), np.argsort(-r, axis=0), moved(run, path).argmax(axis=0)
    sys.stdout.write(f"{path}: {z.shape[1]} features, {len(components)} chunks, {run.settings['steps']} steps\n")
    show("the marker it follows most is what moves it most", follows, lambda some: some == moves)
    shares = run.chunk_shares(z)
    assert shares is not None, "no shares: it has to be a run of SpliCER with its projector"
    ends = np.cumsum(run.settings["chunk_widths"])
    squared = np.add.reduceat(run.projector["1.weight"].numpy() ** 2, [0, *ends[:-1]], axis=0).T
    for name, share in (("what it adds to the variance", shares), ("squared weights", squared)):
        of_all = share / share.sum(axis=1, keepdims=True)
        first, second = np.median(np.sort(of_all, axis=1)[:, -2:], axis=0)[::-1]
        sys.stdout.write(f"  {name}: shares of the leading and of the next chunk {first:.3f}, {second:.3f}\n")
        leads = ChunkShares(components, share).shown(markers)
        show("  the chunk's marker is the one it follows most", leads, lambda some: some == follows)
        show("  ... one of the three it follows most", leads, lambda some: (order[:3] == some).any(axis=0))
        show("  ... what moves it most", leads, lambda some: some == moves)


def moved(run: Run, path: Path) -> np.ndarray:
    """Return how far each feature moves when a marker is another cell's, (markers, features), in its variance."""
    store, rng = PatchStore.open(path / "patches.zarr"), np.random.default_rng(0)
    rows = np.sort(rng.choice(store.n_cells, min(_CELLS, store.n_cells), replace=False))
    x = run.normalize(store.patches.oindex[rows], store.regions.oindex[rows])
    before = encode_inputs(run, x)
    out = []
    for marker in range(x.shape[1]):
        other = x.clone()
        other[:, marker] = x[rng.permutation(len(x)), marker]
        out.append(np.square(encode_inputs(run, other) - before).mean(axis=0))
    return np.array(out) / np.maximum(before.var(axis=0), 1e-12)


def show(what: str, leads: np.ndarray, agrees: Callable[[np.ndarray], np.ndarray]) -> None:
    """Print how often it is so, and how often for shuffled features."""
    rng = np.random.default_rng(1)
    chance = np.mean([agrees(rng.permutation(leads)).mean() for _ in range(_SHUFFLES)])
    sys.stdout.write(f"  {what:52}{agrees(leads).mean():6.2f} ({chance:.2f})\n")


if __name__ == "__main__":
    main()
