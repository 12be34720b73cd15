"""Compare the speed of measuring cells with decoding each tile of the image and of the mask once.

Run by hand: ``python tests/benchmarks/bench_cells.py [--size-px 4096] [--cells 30000] [--folder FOLDER]``. The slide is
19 channels of shot noise over a coarse pattern, 16 bits, deflate, tiles of 512; cells are polygons that fill two thirds
of it. One thread runs, and its processor time counts, so that a busy machine does not matter. Every time is the best of
``--repeats``. A rate is the number of channel-pixels of the slide divided by the time of measuring beyond decoding.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import tifffile
from bench_extraction import N_MARKERS, PIXEL_UM, write_slide
from scipy.spatial import cKDTree
from skimage.segmentation import expand_labels

from mxsplicer.cells.measure import Cells, measure_cells
from mxsplicer.images.lazy_images import LazyImage
from mxsplicer.images.slide import Slide
from mxsplicer.images.tiff import open_tiff
from mxsplicer.masks.files import open_mask
from mxsplicer.system.memory import measured_peak

TILE_PX = 512
ASKED = [(), ("sum",), ("nucleus",), ("ring",), ("surroundings",), ("std",), ("median",), ("p10", "median", "p90")]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-px", type=int, default=4096)
    parser.add_argument("--cells", type=int, default=30_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    folder = options.folder or Path(mkdtemp())
    path = folder / f"slide-{options.size_px}.tif"
    if not path.exists():
        write_slide(path, options.size_px, TILE_PX)
    masks = draw_masks(folder, options.size_px, options.cells)
    mask, nuclei = (open_mask(one) for one in masks)
    series = open_tiff(path)
    markers = tuple(f"M{channel}" for channel in range(N_MARKERS))
    slide = Slide("bench", series.image, markers, PIXEL_UM, tile_px=series.tile_px)

    floor, _ = best(lambda: decode(slide, [mask, mask]), options.repeats)
    of_nuclei, _ = best(lambda: decode(slide, [mask, mask, nuclei, nuclei]), options.repeats)
    channel_px = N_MARKERS * options.size_px**2 / 1e6
    lines = [f"{channel_px:.0f} M channel-pixels, decoding {floor:.2f} s ({channel_px / floor:.0f} M/s)"]
    for statistics in ASKED:
        inside = nuclei if "nucleus" in statistics else None
        seconds, cells = best(lambda: measure(slide, mask, inside, statistics), options.repeats)  # noqa: B023
        extra = seconds - (floor if inside is None else of_nuclei)
        name = " ".join(statistics) or "mean"
        lines.append(f"{name:16} {seconds:6.2f} s, beyond decoding {extra:6.2f} s: {channel_px / extra:6.0f} M/s")
    kept = cells.table.memory_usage(deep=True).sum() / len(cells)
    lines += [
        f"{len(cells)} cells, {float(np.mean(np.asarray(mask[:]) > 0)):.2f} of the slide",
        f"a row of the table takes {kept:.0f} bytes, and 4 more for each marker and measure",
        f"peak of the process {measured_peak() / 2**20:.0f} MiB",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    if options.folder is None:
        shutil.rmtree(folder)


def best(work: Callable[[], Cells | None], repeats: int) -> tuple[float, Cells | None]:
    """Return the processor seconds of the fastest of several runs, and what the last returned."""
    seconds = []
    for _ in range(repeats):
        began = time.process_time()
        found = work()
        seconds.append(time.process_time() - began)
    return min(seconds), found


def measure(slide: Slide, mask: LazyImage, nuclei: LazyImage | None, statistics: tuple[str, ...]) -> Cells:
    """Measure the cells in one thread."""
    return measure_cells(slide, mask, nuclei=nuclei, statistics=statistics, workers=1)


def decode(slide: Slide, masks: list[LazyImage]) -> None:
    """Decode every tile of the slide once, and of the masks as often as they are given."""
    for y in range(0, slide.shape_px[0], 4 * TILE_PX):
        for x in range(0, slide.shape_px[1], 4 * TILE_PX):
            window = (slice(y, y + 4 * TILE_PX), slice(x, x + 4 * TILE_PX))
            for image in (slide.image[(slice(None), *window)], *(mask[window] for mask in masks)):
                assert image.size


def draw_masks(folder: Path, size_px: int, n_cells: int) -> tuple[Path, Path]:
    """Write cells and their nuclei: discs that grow until they meet."""
    paths = folder / f"cells-{size_px}-{n_cells}.tif", folder / f"nuclei-{size_px}-{n_cells}.tif"
    if not all(path.exists() for path in paths):
        rng = np.random.default_rng(0)
        per_side = round(n_cells**0.5)
        step = size_px / per_side
        grid = (np.stack(np.mgrid[:per_side, :per_side], axis=-1).reshape(-1, 2) + 0.5) * step
        centres = grid + rng.uniform(-0.25 * step, 0.25 * step, grid.shape)
        distance, nearest = cKDTree(centres).query(np.stack(np.mgrid[:size_px, :size_px], axis=-1).reshape(-1, 2))
        nuclei = np.where(distance < 0.27 * step, nearest + 1, 0).reshape(size_px, size_px).astype(np.uint32)
        for path, labels in zip(paths, (expand_labels(nuclei, 0.22 * step), nuclei), strict=True):
            tifffile.imwrite(path, labels.astype(np.uint32), tile=(TILE_PX, TILE_PX), compression="deflate")
    return paths


if __name__ == "__main__":
    main()
