"""Time the opening of a slide of very many tiles, and measure its memory: headers are read, pixels are not.

Run by hand: ``python tests/benchmarks/bench_opening.py [--tiles 108900] [--channels 30] [--folder FOLDER]``. The slide
is a BigTIFF pyramid of 256-pixel tiles that all point to the same few bytes, so that hundreds of GB of pixels fit into
a small file. Processor time counts, so that a busy machine does not matter; every number is from a fresh process.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import imagecodecs
import numpy as np
import tifffile

TILE_PX = 256
OPEN = """
import sys, time
from mxsplicer.system.memory import measured_peak
from mxsplicer.images.opening import open_slide
before, start = measured_peak(), time.process_time()
slide = open_slide(sys.argv[1])
opened, peak = time.process_time() - start, measured_peak() - before
start = time.process_time()
slide.image[:, 1000:1512, 2000:2512]
window = time.process_time() - start
print(f"opened in {opened:.2f} s with {peak / 2**20:.0f} MiB; a window of all channels in {window:.2f} s")
"""


def main() -> None:
    """Write the slide and open it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiles", type=int, default=108_900, help="Tiles of each channel at the finest level.")
    parser.add_argument("--channels", type=int, default=30)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    path = (options.folder or Path(mkdtemp())) / f"slide-{options.tiles}-{options.channels}.ome.tif"
    side = round(options.tiles**0.5)
    if not path.exists():
        write_slide(path, side, options.channels)
    sys.stdout.write(f"{options.channels} x {side * TILE_PX} x {side * TILE_PX}, {path.stat().st_size / 1e6:.0f} MB\n")
    sys.stdout.flush()
    for _ in range(3):
        subprocess.run([sys.executable, "-c", OPEN, str(path)], check=True)


def write_slide(path: Path, side: int, n_channels: int) -> None:
    """Write ``side`` x ``side`` tiles per channel and three coarser levels."""
    tile = imagecodecs.zlib_encode(np.zeros((TILE_PX, TILE_PX), np.uint16).tobytes())

    def tiles(n: int) -> Iterator[bytes]:
        for _ in range(n_channels * n * n):
            yield tile

    options = {"dtype": "uint16", "tile": (TILE_PX, TILE_PX), "compression": "zlib", "photometric": "minisblack"}
    names = {"Name": [f"M{channel}" for channel in range(n_channels)]}
    with tifffile.TiffWriter(path, bigtiff=True, ome=True) as writer:
        for level in range(4):
            n = -(-side // 2**level)
            writer.write(
                tiles(n),
                shape=(n_channels, n * TILE_PX, n * TILE_PX),
                subifds=0 if level else 3,
                subfiletype=int(level > 0),
                metadata=None if level else {"axes": "CYX", "PhysicalSizeX": 0.5, "Channel": names},
                **options,
            )


if __name__ == "__main__":
    main()
