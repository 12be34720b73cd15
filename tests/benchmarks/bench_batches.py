"""Compare the rate of shuffled batches from a store larger than the buffer with that of the encoder.

Run by hand: ``python tests/benchmarks/bench_batches.py [--cells 8000] [--folder /tmp/bench]``.
The store holds patches of 19 x 64 x 64 uint16; the buffer is a quarter of it. Batches are drawn without an encoder,
with the files in the system's cache and with the cache dropped before every epoch. The primary encoder of the default
training runs forward and backward on two cores over batches in memory. Runs alternate; medians are printed.
"""

import argparse
import os
import shutil
import sys
import time
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import torch

from mxsplicer.cells.measure import measure_cells
from mxsplicer.images.slide import Slide
from mxsplicer.patches.extraction import extract_patches
from mxsplicer.patches.store import PatchStore
from mxsplicer.splicer import batches
from mxsplicer.splicer import normalization as normalization_module
from mxsplicer.splicer.encoders import ENCODERS

N_MARKERS, PIXEL_UM, PATCH_PX, BATCH = 19, 0.5, 64, 256


def main() -> None:
    """Print the rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="of the encoder, in each repeat")
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--folder", type=Path, default=None, help="keeps the store for the next time")
    options = parser.parse_args()
    torch.set_num_threads(2)
    folder = options.folder or Path(mkdtemp())
    store = make_store(folder / f"batches_{options.cells}.zarr", options.cells)
    batches._BUFFER_BYTES = store.n_cells * N_MARKERS * PATCH_PX**2 * 2 // 4
    drawn = batches.Batches([store], BATCH)
    normalization, _ = normalization_module.measure_normalization([store])
    encoder = ENCODERS[options.encoder](N_MARKERS, PATCH_PX, width=options.width).train()
    patches, regions = next(drawn.epoch(0))
    normalized = normalization(patches, regions)

    rates: dict[str, list[float]] = {"read, cached": [], "read, from the disk": [], "encoder": []}
    for number in range(options.repeats):
        rates["read, cached"].append(drawn.batch_size * drawn.per_epoch / seconds_of_epoch(drawn, number))
        drop_from_cache(store.path)
        rates["read, from the disk"].append(drawn.batch_size * drawn.per_epoch / seconds_of_epoch(drawn, number))
        began = time.perf_counter()
        for _ in range(options.steps):
            encoder(normalized).square().mean().backward()
            encoder.zero_grad()
        rates["encoder"].append(options.steps * len(patches) / (time.perf_counter() - began))
    consumed = float(np.median(rates["encoder"]))
    sys.stdout.write(
        f"{store.n_cells} cells in {store.n_blocks} blocks, {drawn._blocks_at_once} of them in the buffer\n"
    )
    for name, of_one in rates.items():
        rate = float(np.median(of_one))
        sys.stdout.write(f"{name:<22}{rate:>9.0f} cells/s, {rate / consumed:>6.1f} x the encoder\n")
    if options.folder is None:
        shutil.rmtree(folder)


def make_store(path: Path, n_cells: int) -> PatchStore:
    """Return a store of noise, made unless it is there."""
    if path.exists():
        return PatchStore.open(path)
    rng = np.random.default_rng(0)
    side = 16 * int(np.ceil(n_cells**0.5))
    image = np.stack([rng.poisson(rng.gamma(0.5, 400, (side, side))) for _ in range(N_MARKERS)]).astype(np.uint16)
    mask = np.zeros((side, side), np.uint32)
    n = side // 16
    mask.reshape(n, 16, n, 16)[:, 4:12, :, 4:12] = np.arange(1, n * n + 1).reshape(n, 1, n, 1)
    slide = Slide("bench", image, tuple(f"M{marker}" for marker in range(N_MARKERS)), PIXEL_UM)
    path.parent.mkdir(parents=True, exist_ok=True)
    return extract_patches(slide, mask, path, patch_size_um=PATCH_PX * PIXEL_UM, cells=measure_cells(slide, mask))


def seconds_of_epoch(drawn: batches.Batches, number: int) -> float:
    """Return how long all batches of an epoch take when nothing is done with them."""
    began = time.perf_counter()
    for _ in drawn.epoch(number):
        pass
    return time.perf_counter() - began


def drop_from_cache(folder: Path) -> None:
    """Ask the system to forget the contents of files, where it can be asked."""
    for file in folder.rglob("*"):
        if file.is_file() and hasattr(os, "posix_fadvise"):
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    main()
