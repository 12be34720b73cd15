"""Write the simulated slide as pyramidal TIFF files.

Blocks are rendered in the order of a quadtree, so that a coarser tile needs only its four children.
"""

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pandas as pd
import tifffile

from mxsplicer.simulation.randomness import Array
from mxsplicer.simulation.rendering import render_block
from mxsplicer.simulation.tissue import Tissue, cells_of_block


class Pyramid:
    """All levels of the image and of the mask, rendered block by block."""

    def __init__(self, tissue: Tissue, folder: Path) -> None:
        self._tissue = tissue
        self._levels = 1
        while tissue.size_px > tissue.tile_px << (self._levels - 1):
            self._levels += 1
        self._image = _Tiles(folder / "image.tiles", tissue, self._levels, len(tissue.markers))
        self._mask = _Tiles(folder / "mask.tiles", tissue, self._levels, 1)
        self.n_blocks = tissue.blocks_across**2

    def blocks(self) -> Iterator[pd.DataFrame]:
        """Render the slide and yield the table of true cells, one block at a time."""
        root = max(1, self._levels - 1)
        counts = {place: len(cells_of_block(self._tissue, *place)) for place in self._order(root, 0, 0)}
        self._first_ids = np.ones((self._tissue.blocks_across,) * 2, dtype=np.int64)
        first = 1
        for place, count in counts.items():
            self._first_ids[place] = first
            first += count
        yield from self._branch(root, 0, 0)

    def _order(self, level: int, row: int, column: int) -> Iterator[tuple[int, int]]:
        if max(row, column) << (level - 1) >= self._tissue.blocks_across:
            return
        if level == 1:
            yield row, column
        else:
            for quarter in range(4):
                yield from self._order(level - 1, 2 * row + quarter // 2, 2 * column + quarter % 2)

    def _branch(self, level: int, row: int, column: int) -> Generator[pd.DataFrame, None, tuple[Array, Array] | None]:
        """Render one tile of ``level`` and all below it; return its image (C, Y, X) and its mask (1, Y, X)."""
        if max(row, column) << (level - 1) >= self._tissue.blocks_across:
            return None
        side = self._tissue.tile_px
        if level == 1:
            image, mask, truth = render_block(self._tissue, row, column, self._first_ids)
            yield truth
            for tiles, block in ((self._image, image), (self._mask, mask[None])):
                for quarter in range(4):
                    y, x = quarter // 2, quarter % 2
                    tile = block[:, y * side : (y + 1) * side, x * side : (x + 1) * side]
                    tiles.put(0, 2 * row + y, 2 * column + x, tile)
            coarse = _halved(image), mask[None, ::2, ::2]
        else:
            coarse = (
                np.zeros((len(self._tissue.markers), side, side), dtype=np.uint16),
                np.zeros((1, side, side), dtype=np.uint32),
            )
            half = side // 2
            for quarter in range(4):
                y, x = quarter // 2, quarter % 2
                child = yield from self._branch(level - 1, 2 * row + y, 2 * column + x)
                if child is not None:
                    place = np.s_[:, y * half : (y + 1) * half, x * half : (x + 1) * half]
                    coarse[0][place], coarse[1][place] = _halved(child[0]), child[1][:, ::2, ::2]
        self._image.put(level, row, column, coarse[0])
        self._mask.put(level, row, column, coarse[1])
        return coarse

    def write(self, image: Path, mask: Path) -> None:
        """Write the rendered tiles as the TIFF files of the image and of the mask."""
        scale = self._tissue.pixel_size_um
        size = {"PhysicalSizeX": scale, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": scale, "PhysicalSizeYUnit": "µm"}
        self._image.write(
            image,
            "uint16",
            {"axes": "CYX", "Channel": {"Name": [marker.name for marker in self._tissue.markers]}, **size},
        )
        self._mask.write(mask, "uint32", {"axes": "YX", **size})


class _Tiles:
    """Compressed tiles of all levels of the pyramid, stored in one file, then written to a TIFF in its order."""

    def __init__(self, path: Path, tissue: Tissue, levels: int, channels: int) -> None:
        self._path, self._channels, self._side = path, channels, tissue.tile_px
        self._sizes = [-(-tissue.size_px // 2**level) for level in range(levels)]
        across = [-(-size // self._side) for size in self._sizes]
        self._places = [np.zeros((channels, n, n, 2), dtype=np.int64) for n in across]  # start and length in the file
        self._end = 0

    def put(self, level: int, row: int, column: int, tile: Array) -> None:
        if level >= len(self._sizes) or max(row, column) >= self._places[level].shape[1]:
            return
        with self._path.open("ab") as file:
            for channel, plane in enumerate(tile):
                encoded = imagecodecs.deflate_encode(imagecodecs.delta_encode(plane, axis=-1), level=1)
                file.write(encoded)
                self._places[level][channel, row, column] = self._end, len(encoded)
                self._end += len(encoded)

    def write(self, path: Path, dtype: str, metadata: dict[str, Any]) -> None:
        with tifffile.TiffWriter(path, bigtiff=self._end > 2**31, ome=True) as tiff:
            for level, size in enumerate(self._sizes):
                tiff.write(
                    self._read(level),
                    shape=(self._channels, size, size)[self._channels == 1 :],
                    dtype=dtype,
                    tile=(self._side, self._side),
                    photometric="minisblack",
                    compression="zlib",
                    predictor=True,
                    subfiletype=1 if level else 0,
                    subifds=0 if level else len(self._sizes) - 1,
                    metadata=None if level else metadata,
                )

    def _read(self, level: int) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            for start, length in self._places[level].reshape(-1, 2):
                file.seek(start)
                yield file.read(length)


def _halved(image: Array) -> Array:
    """Return the next level of the pyramid, (C, Y, X) at half the size, each pixel the mean of four."""
    sums = image[:, ::2, ::2].astype(np.uint32)
    for y, x in ((0, 1), (1, 0), (1, 1)):
        sums += image[:, y::2, x::2]
    return ((sums + 2) // 4).astype(image.dtype)
