"""Compare the speed of extraction with decoding each tile once and writing the same bytes with zarr.

Run by hand: ``python tests/benchmarks/bench_extraction.py [--tile-px 256 512 1024] [--folder /tmp/bench]``.
The slide is 19 channels of shot noise over a coarse pattern, 16 bits, deflate. Cells lie on a jittered grid. Decoding
and writing use as many threads as the extraction. All runs alternate ``--repeats`` times, and the shortest elapsed and
processor times are printed: other work on the machine makes both longer, elapsed time much longer. The number of times
that the tiles of a whole slide (``--whole-px``) are decoded is counted without its pixels.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import tifffile
import zarr

from mxsplicer.cells.measure import measure_cells
from mxsplicer.images.slide import Slide
from mxsplicer.images.tiff import open_tiff
from mxsplicer.patches.blocks import Block
from mxsplicer.patches.cutting import Cutter, prepare_cutter
from mxsplicer.patches.extraction import extract_patches, stream_blocks
from mxsplicer.patches.extraction_plan import plan_extraction_workers
from mxsplicer.patches.geometry import PatchGeometry, Piece
from mxsplicer.patches.pieces import TileReader
from mxsplicer.patches.store import PatchStore
from mxsplicer.system.memory import Budget

N_MARKERS, PIXEL_UM, PATCH_PX = 19, 0.325, 64


def main() -> None:
    """Print the figures for each size of tile."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-px", type=int, default=4096)
    parser.add_argument("--cells", type=int, default=8000)
    parser.add_argument("--tile-px", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--whole-px", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, default=None, help="keeps the slides for the next time")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    folder = options.folder or Path(mkdtemp())
    for tile_px in options.tile_px:
        for line in figures(folder, tile_px, options):
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
    if options.folder is None:
        shutil.rmtree(folder)


def figures(folder: Path, tile_px: int, options: argparse.Namespace) -> Iterator[str]:
    """Yield the figures for one size of tile, as lines of text."""
    workers = options.workers
    path = folder / f"bench_{options.size_px}_{tile_px}.tif"
    if not path.exists():
        write_slide(path, options.size_px, tile_px)
    markers = tuple(f"M{n}" for n in range(N_MARKERS))
    slide = Slide("bench", open_tiff(path).image, markers, PIXEL_UM, tile_px=(tile_px, tile_px), path=path)
    mask = draw_mask(options.size_px, options.cells)
    cells = measure_cells(slide, mask)
    patch_um = PATCH_PX * PIXEL_UM
    store_path = folder / "bench.zarr"
    readers = remember_readers()
    in_memory = replace(slide, image=slide.image[:], path=None)

    def extract() -> None:
        extract_patches(slide, mask, store_path, patch_size_um=patch_um, cells=cells, workers=workers, overwrite=True)

    def stream(slide: Slide, workers: int) -> None:
        for _ in stream_blocks(slide, mask, cells, patch_size_um=patch_um, workers=workers):
            pass

    extract()
    reader = readers[-1]
    store = PatchStore.open(store_path)
    blocks_in_memory = [store.read_block(number) for number in range(store.n_blocks)]
    rows = np.random.default_rng(0).permutation(store.n_cells)[: 4 * 256]
    seconds, of_processor = shortest(
        {
            "decode": lambda: decode(slide, tile_px, workers),
            "write": lambda: write(blocks_in_memory, store, folder / "floor.zarr", workers),
            "extract": extract,
            "stream": lambda: stream(slide, workers),
            "cut": lambda: stream(in_memory, 1),
            "random": lambda: [store.read_rows(batch) for batch in np.split(rows, 4)],
            "blocks": lambda: [store.read_block(number) for number in range(store.n_blocks)],
        },
        options.repeats,
    )
    voxels = len(cells) * N_MARKERS * PATCH_PX**2
    stored = sum(file.stat().st_size for file in store_path.rglob("*") if file.is_file())
    ratio, ratio_of_processor = (one["extract"] / (one["decode"] + one["write"]) for one in (seconds, of_processor))
    yield f"tiles of {tile_px}: {len(cells)} cells, {voxels / 1e6:.0f} M voxels, {workers} threads"
    yield f"  store               {stored / 1e6:8.0f} MB ({stored / (2 * voxels):.2f} of the patches)"
    yield f"  {'':<20}{'clock':>8}{'processor':>12}"
    for name, label in (("decode", "decode tiles once"), ("write", "write same bytes"), ("extract", "extract")):
        yield f"  {label:<20}{seconds[name]:8.2f}{of_processor[name]:12.2f} s"
    yield f"  ratio               {ratio:8.2f}{ratio_of_processor:12.2f} x (decode + write)"
    yield f"  stream              {seconds['stream']:8.2f} s, {seconds['stream'] / seconds['decode']:.2f} x decode"
    yield f"  cutting alone       {voxels / of_processor['cut'] / 1e6:8.0f} M voxels per core-second"
    yield f"  decodes per tile    {reader.n_decoded / len(reader.tiles):8.2f}"
    whole, workers_of_whole, cache = decodes_of_whole_slide(options.whole_px, tile_px)
    yield f"  of a whole slide    {whole:8.2f}, {workers_of_whole} workers and {cache >> 20} MiB of tiles in 2G"
    yield f"  read blocks         {store.n_cells / seconds['blocks']:8.0f} cells/s"
    yield f"  read random rows    {len(rows) / seconds['random']:8.0f} cells/s, 256 at a time"


def shortest(works: dict[str, Callable[[], object]], repeats: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return the fewest seconds of the clock and of the processor that each takes.

    Runs alternate, so that other work of the machine affects all alike.
    """
    clock: dict[str, list[float]] = {name: [] for name in works}
    processor: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            began, worked = time.perf_counter(), time.process_time()
            work()
            clock[name].append(time.perf_counter() - began)
            processor[name].append(time.process_time() - worked)
    return {name: min(of_one) for name, of_one in clock.items()}, {
        name: min(of_one) for name, of_one in processor.items()
    }


def decodes_of_whole_slide(size_px: int, tile_px: int) -> tuple[float, int, int]:
    """Return how often a tile of a large slide is decoded in 2G of memory, by how many workers with how much cache."""
    nothing = np.broadcast_to(np.uint16(0), (N_MARKERS, size_px, size_px))
    no_cell = np.broadcast_to(np.uint32(0), (size_px, size_px))
    slide = Slide("whole", nothing, tuple(map(str, range(N_MARKERS))), PIXEL_UM, tile_px=(tile_px, tile_px))
    n = int(size_px**2 * 1e-3)  # dense tissue
    y, x = np.random.default_rng(0).uniform(0, size_px, (2, n))
    cutter, _ = prepare_cutter(
        slide, no_cell, x, y, np.arange(n), geometry=PatchGeometry.of(slide, PATCH_PX * PIXEL_UM)
    )
    plan = plan_extraction_workers(cutter, Budget(2 << 30, taken=600 << 20), workers=2)
    reader = PlannedReader(cutter, plan.cache_bytes)
    for number in range(cutter.n_blocks):
        for place in cutter.pieces(number):
            reader.read(place, block=number)
    return reader.n_decoded / len(reader.tiles), plan.n_workers, plan.cache_bytes


class PlannedReader(TileReader):
    """Counts what would be decoded, with pieces of the right size that hold nothing."""

    def __init__(self, cutter: Cutter, max_bytes: int) -> None:
        plan = {number: tuple(cutter.pieces(number)) for number in range(cutter.n_blocks)}
        super().__init__([cutter.image, cutter.mask], geometry=cutter.geometry, plan=plan, max_bytes=max_bytes)

    def _pieces_of(self, tile: tuple[int, int]) -> dict[Piece, list[np.ndarray]]:
        windows = {place: self._grid.window(place) for place in self._parts[tile] if self._needed[place]}
        return {place: [image[..., *window] for image in self._images] for place, window in windows.items()}


def decode(slide: Slide, tile_px: int, workers: int) -> None:
    """Decode every tile of the slide once."""
    places = range(0, slide.shape_px[0], tile_px)
    with ThreadPoolExecutor(workers) as pool:
        windows = [(slice(y, y + tile_px), slice(x, x + tile_px)) for y in places for x in places]
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


def remember_readers() -> list[TileReader]:
    """Return a list to which every tile reader made from now on is added."""
    made: list[TileReader] = []
    begin = TileReader.__init__

    def remember(self: TileReader, *args: object, **options: object) -> None:
        begin(self, *args, **options)
        made.append(self)

    TileReader.__init__ = remember
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


def write_slide(path: Path, size_px: int, tile_px: int) -> None:
    """Write the slide."""
    rng = np.random.default_rng(0)
    image = np.empty((N_MARKERS, size_px, size_px), np.uint16)
    for plane in image:
        pattern = rng.gamma(0.5, 400, (size_px // 16, size_px // 16)).repeat(16, axis=0).repeat(16, axis=1)
        plane[:] = rng.poisson(pattern + 50)
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(
        path, image, tile=(tile_px, tile_px), compression="deflate", photometric="minisblack", metadata={"axes": "CYX"}
    )


if __name__ == "__main__":
    main()
