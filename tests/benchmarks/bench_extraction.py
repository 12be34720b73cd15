"""How fast patches are cut, beside the floor: decoding each tile once and writing the same bytes.

Run by hand: ``python tests/benchmarks/bench_extraction.py [--size-px 4096] [--cells 8000] [--folder /tmp/bench]``.
The slide is 19 channels of shot noise over a coarse pattern, 16 bits, deflate, tiles of 512. Cells lie on a jittered
grid. The floor uses as many threads as the extraction. Every time is the best of ``--repeats``.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import tifffile
import zarr

from mxsplicer.patches import blocks
from mxsplicer.patches.extraction import extract_patches, stream_blocks
from mxsplicer.patches.store import Block, PatchStore
from mxsplicer.slides.cells import measure_cells
from mxsplicer.slides.slide import Slide
from mxsplicer.slides.tiff import open_tiff

N_MARKERS, PIXEL_UM, PATCH_PX, TILE_PX = 19, 0.325, 64, 512


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-px", type=int, default=4096)
    parser.add_argument("--cells", type=int, default=8000)
    parser.add_argument("--folder", type=Path, default=None, help="keeps the slide for the next time")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    folder, workers = options.folder or Path(mkdtemp()), options.workers
    path = folder / f"bench_{options.size_px}.tif"
    if not path.exists():
        write_slide(path, options.size_px)
    slide = Slide(
        "bench",
        open_tiff(path).image,
        tuple(f"M{n}" for n in range(N_MARKERS)),
        PIXEL_UM,
        tile_px=(TILE_PX, TILE_PX),
        path=path,
    )
    mask = draw_mask(options.size_px, options.cells)
    cells = measure_cells(slide, mask)
    patch_um = PATCH_PX * PIXEL_UM
    store_path = folder / "bench.zarr"
    readers = remember_readers()

    def extract() -> None:
        extract_patches(slide, mask, store_path, patch_size_um=patch_um, cells=cells, workers=workers, overwrite=True)

    def stream() -> None:
        for _ in stream_blocks(slide, mask, cells, patch_size_um=patch_um, workers=workers):
            pass

    decoding = best(lambda: decode(slide, workers), options.repeats)
    streaming = best(stream, options.repeats)
    extracting = best(extract, options.repeats)
    store = PatchStore.open(store_path)
    in_memory = [store.read_block(number) for number in range(store.n_blocks)]
    writing = best(lambda: write(in_memory, store, folder / "floor.zarr", workers), options.repeats)
    rows = np.random.default_rng(0).permutation(store.n_cells)[: 4 * 256]
    shuffled = best(lambda: [store.read_rows(batch) for batch in np.split(rows, 4)], options.repeats)
    blockwise = best(lambda: [store.read_block(number) for number in range(store.n_blocks)], options.repeats)

    voxels = len(cells) * N_MARKERS * PATCH_PX**2 / 1e6
    stored = sum(file.stat().st_size for file in store_path.rglob("*") if file.is_file())
    reader = readers[-1]
    lines = [
        f"{len(cells)} cells, {voxels:.0f} M voxels, {workers} threads, image {path.stat().st_size / 1e6:.0f} MB",
        f"store               {stored / 1e6:8.0f} MB ({stored / (2e6 * voxels):.2f} of the patches)",
        f"decode tiles once   {decoding:8.2f} s",
        f"write same bytes    {writing:8.2f} s",
        f"stream              {streaming:8.2f} s, {streaming / decoding:.2f} x decode",
        f"extract             {extracting:8.2f} s, {extracting / (decoding + writing):.2f} x (decode + write)",
        f"decodes per tile    {reader.n_decoded / len(reader.tiles):8.2f}",
        f"cutting alone       {cutting_speed(slide, mask, cells, patch_um) / 1e6:8.0f} M voxels per core-second",
        f"read blocks         {store.n_cells / blockwise:8.0f} cells/s",
        f"read random rows    {len(rows) / shuffled:8.0f} cells/s, 256 at a time",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    if options.folder is None:
        shutil.rmtree(folder)


def best(work: Callable[[], object], repeats: int) -> float:
    """Return the seconds of the fastest of several runs."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def decode(slide: Slide, workers: int) -> None:
    """Decode every tile of the slide once."""
    places = range(0, slide.shape_px[0], TILE_PX)
    with ThreadPoolExecutor(workers) as pool:
        windows = [(slice(y, y + TILE_PX), slice(x, x + TILE_PX)) for y in places for x in places]
        for _ in pool.map(lambda window: slide.image[(slice(None), *window)].shape, windows):
            pass


def write(in_memory: list[Block], like: PatchStore, path: Path, workers: int) -> None:
    """Write patches and regions that are in memory with zarr, laid out as in a store."""
    shutil.rmtree(path, ignore_errors=True)
    group = zarr.create_group(path)
    arrays = [
        group.create_array(
            name,
            shape=array.shape,
            dtype=array.dtype,
            chunks=array.chunks,
            shards=array.shards,
            compressors=array.compressors,
        )
        for name, array in [("patches", like.patches), ("regions", like.regions)]
    ]

    def write_block(block: Block) -> None:
        rows = slice(block.rows[0], block.rows[-1] + 1)
        arrays[0][rows], arrays[1][rows] = block.patches, block.regions

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(write_block, in_memory))


def cutting_speed(slide: Slide, mask: np.ndarray, cells: object, patch_um: float) -> float:
    """Return voxels per second of one thread when the slide is in memory, so that nothing is decoded."""
    in_memory = Slide(slide.name, slide.image[:], slide.markers, slide.pixel_size_um, tile_px=slide.tile_px)

    def stream() -> None:
        for _ in stream_blocks(in_memory, mask, cells, patch_size_um=patch_um, workers=1):
            pass

    return len(cells) * N_MARKERS * PATCH_PX**2 / best(stream, 3)


def remember_readers() -> list[blocks.TileReader]:
    """Return a list to which every tile reader made from now on is added."""
    made: list[blocks.TileReader] = []
    begin = blocks.TileReader.__init__

    def remember(self: blocks.TileReader, *args: object, **options: object) -> None:
        begin(self, *args, **options)
        made.append(self)

    blocks.TileReader.__init__ = remember
    return made


def draw_mask(size_px: int, n_cells: int) -> np.ndarray:
    """Return discs on a jittered grid."""
    rng = np.random.default_rng(0)
    per_side = round(n_cells**0.5)
    step = size_px / per_side
    radius = int(step * 0.3)
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    grid = (np.stack(np.mgrid[:per_side, :per_side], axis=-1).reshape(-1, 2) + 0.5) * step
    centres = np.clip(grid + rng.uniform(-4, 4, grid.shape), radius, size_px - radius - 1).astype(int)
    mask = np.zeros((size_px, size_px), np.uint32)
    for cell_id, (top, left) in enumerate((centres - radius).tolist(), start=1):
        mask[top : top + 2 * radius + 1, left : left + 2 * radius + 1][y**2 + x**2 <= radius**2] = cell_id
    return mask


def write_slide(path: Path, size_px: int) -> None:
    """Write the slide."""
    rng = np.random.default_rng(0)
    image = np.empty((N_MARKERS, size_px, size_px), np.uint16)
    for plane in image:
        pattern = rng.gamma(0.5, 400, (size_px // 16, size_px // 16)).repeat(16, axis=0).repeat(16, axis=1)
        plane[:] = rng.poisson(pattern + 50)
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(
        path, image, tile=(TILE_PX, TILE_PX), compression="deflate", photometric="minisblack", metadata={"axes": "CYX"}
    )


if __name__ == "__main__":
    main()
