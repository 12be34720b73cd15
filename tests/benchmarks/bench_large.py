"""Run every stage on a slide of 40 GB, or any size: one simulated slide, repeated next to itself.

Run by hand: ``python tests/benchmarks/bench_large.py [--size-px 8192] [--copies 4] [--folder FOLDER] [--model RUN]``.
Compressed tiles of the image are copied, so that tens of gigabytes are written as fast as the disk allows; in the mask
each copy has its own ids. Each stage is a command in a process of its own, under ``--max-memory``. The stages after
``segment`` use its mask if it has run, now or earlier in the same folder. About a byte of disk is needed per byte of
pixels.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import tifffile
from bench_memory import TITLES, run

from mxsplicer.images.opening import open_slide


def main() -> None:
    """Write the slide and print a line for each stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-px", type=int, default=8192, help="of the slide that is repeated")
    parser.add_argument("--copies", type=int, default=4, help="along each side")
    parser.add_argument("--max-memory", default="2G")
    parser.add_argument("--cells", default="200000")
    parser.add_argument("--workers", default="2")
    parser.add_argument("--executor", default="threads")
    parser.add_argument("--stages", nargs="+", default=["info", "segment", "check", "plan", "extract"])
    parser.add_argument("--model", default=None, help="a run folder: embed too")
    parser.add_argument("--folder", type=Path, default=None, help="keeps the slides for the next time")
    options = parser.parse_args()
    folder = options.folder or Path(mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    base, slide = folder / f"{options.size_px}.ome.tiff", folder / f"{options.size_px}x{options.copies}.ome.tiff"
    mask = folder / slide.name.replace(".ome", "_mask.ome")
    if not base.exists():
        run("simulate", "--out", base, "--size-px", options.size_px)
    if not slide.exists():
        began = time.perf_counter()
        repeat_mask(folder / base.name.replace(".ome", "_mask.ome"), mask, options.copies)
        repeat_image(base, slide, options.copies)
        show(f"written in {time.perf_counter() - began:.0f} s, {slide.stat().st_size / 1e9:.1f} GB on disk")
    made = folder / slide.name.replace(".ome.tiff", "_made.zarr")
    mask = made if made.exists() or "segment" in options.stages else mask
    limit = ["--max-memory", options.max_memory]
    cut = ["--mask", mask, "--workers", options.workers, "--executor", options.executor, *limit]
    commands = {
        "info": ["info", slide],
        "check": ["check", slide, mask],
        "plan": ["extract", slide, "--out", folder / "patches.zarr", *cut, "--plan"],
        "segment": ["segment", slide, "--out", made, *limit, "--overwrite"],
        "extract": ["extract", slide, "--out", folder / "patches.zarr", "--cells", options.cells, *cut, "--overwrite"],
        "embed": ["embed", slide, "--model", options.model, "--out", folder / "out", *cut, "--overwrite"],
    }
    image = open_slide(slide).image
    raw = image.dtype.itemsize * image.shape[0] * image.shape[1] * image.shape[2] / 1e9
    show(f"{slide.name}: {image.shape}, {raw:.1f} GB of pixels")
    show(TITLES)
    for stage in [*options.stages, *(["embed"] if options.model else [])]:
        show(run(*commands[stage]).describe(stage, raw))


def repeat_image(source: Path, target: Path, copies: int) -> None:
    """Write a pyramid that holds a pyramid ``copies`` times along each side, its tiles as they lie in the file."""
    with tifffile.TiffFile(source) as tiff, tifffile.TiffWriter(target, bigtiff=True, ome=True) as writer:
        series = tiff.series[0]
        pixels = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]["Pixels"]
        described = {
            "axes": "CYX",
            "PhysicalSizeX": pixels["PhysicalSizeX"],
            "PhysicalSizeY": pixels["PhysicalSizeY"],
            "Channel": {"Name": [channel["Name"] for channel in pixels["Channel"]]},
        }
        levels = [level for level in series.levels if level.shape[1] % level.keyframe.tile[0] == 0]
        for number, level in enumerate(levels):
            page = level.keyframe
            writer.write(
                repeated_tiles(level, copies),
                shape=(level.shape[0], level.shape[1] * copies, level.shape[2] * copies),
                dtype=level.dtype,
                tile=page.tile,
                compression=page.compression,
                predictor=page.predictor if page.predictor != 1 else None,
                photometric="minisblack",
                subifds=0 if number else len(levels) - 1,
                subfiletype=int(number > 0),
                metadata=None if number else described,
            )


def repeated_tiles(level: tifffile.TiffPageSeries, copies: int) -> Iterator[bytes]:
    """Yield compressed tiles in the order that a TIFF wants, row by row of the whole."""
    for page in level.pages:
        side = level.shape[1] // page.tile[0]
        handle = page.parent.filehandle
        places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
        for _ in range(copies):
            for row in range(side):
                of_row = []
                for offset, length in places[row * side : (row + 1) * side]:
                    handle.seek(offset)
                    of_row.append(handle.read(length))
                yield from of_row * copies


def repeat_mask(source: Path, target: Path, copies: int) -> None:
    """Write a mask that holds a mask ``copies`` times along each side, each copy with ids of its own."""
    labels = tifffile.imread(source, level=0)
    ids, tile = int(labels.max()), 512

    def tiles() -> Iterator[np.ndarray]:
        side = labels.shape[0] // tile
        for row, column in np.ndindex(side * copies, side * copies):
            y, x = row % side * tile, column % side * tile
            tile_labels = labels[y : y + tile, x : x + tile]
            yield np.where(
                tile_labels, tile_labels + np.uint32(ids * (row // side * copies + column // side)), np.uint32(0)
            )

    shape = (labels.shape[0] * copies, labels.shape[1] * copies)
    options = {"tile": (tile, tile), "compression": "zlib", "photometric": "minisblack"}
    tifffile.imwrite(target, tiles(), shape=shape, dtype=np.uint32, bigtiff=True, **options)


def show(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
