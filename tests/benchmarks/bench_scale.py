"""Fit the model of docs/scale-model.md, the cost of a slide by stage, on two small slides and check it on a larger one.

    python tests/benchmarks/bench_scale.py [small] [medium] [large]

Sides of the slides in pixels; 512, 1024 and 1536 by default. Times are processor times of all threads, on which other
work of the machine has less influence; the shortest of three counts. The time of a stage is modelled as a constant plus
a term that is proportional to pixels or cells.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import anndata
import torch

from mxsplicer import tl
from mxsplicer.cells.measure import measure_cells
from mxsplicer.embedding.embed import embed_to_file
from mxsplicer.embedding.sources import from_slide
from mxsplicer.images.opening import open_slide
from mxsplicer.masks.files import open_mask
from mxsplicer.patches.extraction import extract_patches
from mxsplicer.patches.store import PatchStore
from mxsplicer.report import write_report
from mxsplicer.segmentation.segment import segment
from mxsplicer.simulation import simulate_slide
from mxsplicer.splicer.recipe import Recipe
from mxsplicer.splicer.training import train

PATCH_UM, STEPS, BATCH = 16.0, 30, 64
RECIPE = Recipe(epochs=1, batch_size=BATCH, encoder_width=16)
BY_PIXELS = ("segmentation", "measuring cells")  # the others go by cells


@dataclass
class Slide:
    """What one slide took."""

    pixels: float  # over all markers
    cells: int
    seconds: dict[str, float]
    bytes: dict[str, int]


def show(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def measured(folder: Path, side: int) -> Slide:
    """Take a simulated slide through all stages."""
    made = simulate_slide(folder / f"{side}.ome.tiff", size_px=side, seed=side)
    slide, seconds = open_slide(made.image), {}

    def timed(stage: str, work: Callable[[], object], *, times: int = 3) -> object:
        seconds[stage] = float("inf")
        for _ in range(times):
            began = time.process_time()
            out = work()
            seconds[stage] = min(seconds[stage], time.process_time() - began)
        show(f"{side:>6}  {stage:<18}{seconds[stage]:8.2f} s")
        return out

    timed("segmentation", lambda: segment(slide, folder / f"{side}_mask.zarr", workers=1, overwrite=True))
    mask = open_mask(made.mask, slide=slide)
    cells = timed("measuring cells", lambda: measure_cells(slide, mask, workers=1))
    store_path = folder / f"{side}.zarr"
    cut = {"cells": cells, "patch_size_um": PATCH_UM, "workers": 1, "overwrite": True}
    timed("patches", lambda: extract_patches(slide, mask, store_path, **cut))
    store = PatchStore.open(store_path)
    if not (folder / "run").exists():
        run = timed("training", lambda: train(store, folder / "run", recipe=RECIPE, device="cpu"), times=1)
    else:
        from mxsplicer.splicer.run import load_run

        run = load_run(folder / "run")
    source = from_slide(slide, mask, cells, patch_size_um=PATCH_UM, workers=1)
    out = folder / f"{side}.h5ad"
    timed("embedding", lambda: embed_to_file(out, run, source, device="cpu"))
    adata = anndata.read_h5ad(out)
    timed("maps", lambda: tl.correlate(adata, use_rep="X_splicer", key_added="splicer_correlation"))
    timed("clusters", lambda: tl.cluster(adata))
    tl.name_clusters(adata)
    timed("report", lambda: write_report(adata, folder / f"{side}.html", slides=[slide], masks=[mask], overwrite=True))
    on_disk = sum(file.stat().st_size for file in store_path.rglob("*") if file.is_file())
    n = len(cells.table)
    return Slide(
        pixels=slide.image.shape[0] * side * side,
        cells=n,
        seconds=seconds,
        bytes={"patches": on_disk, "AnnData": out.stat().st_size, "image": made.image.stat().st_size},
    )


def main() -> None:
    """Print the constants, and how far the model is off on the large slide."""
    torch.set_num_threads(1)
    sides = [int(one) for one in sys.argv[1:]] or [512, 1024, 1536]
    with TemporaryDirectory() as name:
        folder = Path(name)
        measured(folder, sides[0] - 64)  # compile and load what is needed at first use
        small, medium, large = (measured(folder, side) for side in sides)
    show(f"\ncells: {small.cells:,}, {medium.cells:,}, {large.cells:,}")
    show(f"{'stage':<18}{'constant, s':>12}{'per unit':>24}{'predicted':>12}{'measured':>12}")
    total = found = 0.0
    for stage, a in small.seconds.items():
        b, by_pixels = medium.seconds[stage], stage in BY_PIXELS
        x, y, z = ((one.pixels if by_pixels else one.cells) for one in (small, medium, large))
        slope = max(0.0, (b - a) / (y - x))
        constant = max(0.0, a - slope * x)
        predicted = constant + slope * z
        unit = f"{slope * 1e9:.1f} s per G pixels" if by_pixels else f"{slope * 1e3:.2f} ms per cell"
        show(f"{stage:<18}{constant:>12.2f}{unit:>24}{predicted:>10.1f} s{large.seconds[stage]:>10.1f} s")
        total, found = total + predicted, found + large.seconds[stage]
    show(f"all: predicted {total:.1f} s, measured {found:.1f} s, off by {100 * (total / found - 1):+.0f} %")
    for kind in ("patches", "AnnData"):
        show(f"{kind}: {medium.bytes[kind] / medium.cells:,.0f} bytes per cell, {large.bytes[kind] / large.cells:,.0f}")
    show(f"image: {large.bytes['image'] / large.pixels:.2f} bytes per channel pixel")


if __name__ == "__main__":
    main()
