"""Measure memory, disk and time of embedding millions of cells, without cutting patches and without the encoder.

    python tests/benchmarks/bench_embedding.py --cells 2300000 --features 512

No slide is needed: patches are noise and the encoder is one matrix, so that only the later steps are measured: the
blocks, the AnnData, correlation, clusters, features and the report. The process holds the table of cells while it
embeds, as `mxsplicer embed` does. About 16 bytes of disk are needed per cell and feature.
"""

import argparse
import gc
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from mxsplicer import tl
from mxsplicer.cells.measure import Cells
from mxsplicer.embedding.embed import embed_blocks, join_blocks
from mxsplicer.embedding.h5ad import complete_cells, open_cells
from mxsplicer.embedding.journal import BlockJournal
from mxsplicer.embedding.sources import Source
from mxsplicer.patches.blocks import Block
from mxsplicer.report import write_report
from mxsplicer.result.features import write_features
from mxsplicer.splicer.normalization import Normalization
from mxsplicer.splicer.run import Run
from mxsplicer.system.memory import measured_peak, resident_bytes

MARKERS = tuple(f"marker {i}" for i in range(19))
PATCH_PX, BLOCK = 16, 1024
COLUMNS = ("x", "y", "x_px", "y_px", "area_um2", "eccentricity", "major_axis_um", "minor_axis_um", "orientation")


class Matrix(nn.Module):
    """The mean of a patch, times a matrix: an encoder that costs next to nothing."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.out_features = features
        self.linear = nn.Linear(len(MARKERS), features)

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, d)."""
        return torch.tanh(self.linear(x.mean(dim=(2, 3))))


def make_cells(n: int) -> Cells:
    """Make cells of twelve types, all over a slide."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"cell_id": np.arange(1, n + 1, dtype=np.uint32)})
    for column in COLUMNS:
        table[column] = rng.uniform(1, 16_000, n)
    for column in ("y0", "x0", "y1", "x1"):
        table[column] = rng.integers(0, 32_000, n)
    table["at_border"] = False
    types, kind = rng.gamma(1, 200, (12, len(MARKERS))), rng.integers(0, 12, n)
    intensities = np.empty((n, len(MARKERS)), dtype=np.float32)
    for channel in range(len(MARKERS)):
        intensities[:, channel] = types[kind, channel] * rng.gamma(5, 0.2, n)
    return Cells(table, intensities, {"in mask": n, "kept": n}, MARKERS)


def make_source(cells: Cells) -> Source:
    """Make patches as bright as their cells."""
    noise = np.random.default_rng(1).poisson(50, (BLOCK, len(MARKERS), PATCH_PX, PATCH_PX)).astype(np.uint16)
    regions = np.ones((BLOCK, PATCH_PX, PATCH_PX), np.uint8)

    def blocks(skip: Collection[int]) -> Iterator[Block]:
        for number in range(-(-len(cells) // BLOCK)):
            if number in skip:
                continue
            rows = np.arange(number * BLOCK, min(len(cells), (number + 1) * BLOCK))
            patches = noise[: len(rows)] + cells.intensities[rows].astype(np.uint16)[:, :, None, None]
            table = cells.table.iloc[rows].assign(block=number, patch_valid_fraction=1.0)
            yield Block(number, rows, table, cells.intensities[rows], patches, regions[: len(rows)])

    return Source("emulated", MARKERS, PATCH_PX, 0.5, blocks, cells.ledger, cells)


def make_run(features: int) -> Run:
    """Make a run that was never trained."""
    torch.manual_seed(0)
    ones = torch.ones(len(MARKERS))
    normalization = Normalization(0 * ones, 4000 * ones, 5 * ones, ones)
    settings = {"method": "splicer", "surroundings": "hide"}
    return Run(Matrix(features).eval(), normalization, MARKERS, PATCH_PX, 0.5, settings)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=200_000)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--folder", type=Path, default=None)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    torch.set_num_threads(1)
    began = time.perf_counter()

    def show(stage: str) -> None:
        nonlocal began
        now = time.perf_counter()
        disk = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        print(  # noqa: T201
            f"{stage:<22} {now - began:7.1f} s   now {resident_bytes() / 1e6:6.0f} MB   "
            f"peak {measured_peak() / 1e6:6.0f} MB   disk {disk / 1e9:5.2f} GB",
            flush=True,
        )
        began = time.perf_counter()

    try:
        show("imports")
        cells = make_cells(arguments.cells)
        show("table of cells")
        embedded = folder / "embedded.h5ad"
        embed_blocks(embedded, make_run(arguments.features), make_source(cells))
        show("embedding")
        del cells
        join_blocks(embedded)
        show("joining")
        with open_cells(embedded) as adata:
            show("opened")
            tl.correlate(adata)
            show("correlation")
            tl.cluster(adata)
            show("clusters")
            write_features(folder / "features.zarr", adata.obsm["X_splicer"], adata.obs_names)
            show("features")
        complete_cells(adata, embedded, folder / "cells.h5ad")
        BlockJournal.of(embedded).remove()
        show("cells.h5ad")
        del adata
        gc.collect()
        with open_cells(folder / "cells.h5ad") as adata:
            write_report(adata, folder / "report.html")
        show("report")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
