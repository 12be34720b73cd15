"""Cutting: the patches of a block, put together from the tiles that its cells lie on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from mxsplicer.patches.blocks import Grid, Place, TileReader, find_places
from mxsplicer.patches.store import OTHER_CELL
from mxsplicer.slides.slide import LazyImage


@dataclass(frozen=True, eq=False)
class Cutter:
    """Cuts the blocks of one slide; several threads may ask for blocks at a time, and processes get copies of it."""

    image: LazyImage  # (C, Y, X)
    mask: LazyImage  # (Y, X)
    grid: Grid
    tops: np.ndarray  # (n,) first row of each patch, in pixels; may lie beyond the slide
    lefts: np.ndarray
    cell_ids: np.ndarray  # (n,) values of the mask
    block_size: int
    first_block: int = 0  # number of the block that the first cell belongs to

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """Of the patches: the image's, in the order of bytes of this machine."""
        return np.dtype(self.image.dtype).newbyteorder("=")

    @property
    def patch_shape(self) -> tuple[int, int, int]:
        """Shape of a patch, (C, P, P)."""
        return (self.image.shape[0], self.grid.patch_px, self.grid.patch_px)

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return -(-len(self.tops) // self.block_size)

    @property
    def block_bytes(self) -> int:
        """What the patches and regions of a block take."""
        return min(self.block_size, len(self.tops)) * self.pixel_bytes * self.grid.patch_px**2

    @property
    def tile_bytes(self) -> int:
        """What a tile takes, image and mask."""
        return self.grid.tile_px[0] * self.grid.tile_px[1] * (self.pixel_bytes - 1 + self.mask.dtype.itemsize)

    @property
    def pixel_bytes(self) -> int:
        """What a pixel of a block takes, all channels and the region."""
        return int(self.image.shape[0]) * self.dtype.itemsize + 1

    def rows(self, number: int) -> slice:
        """Return which cells are those of a block."""
        first = (number - self.first_block) * self.block_size
        return slice(first, min(first + self.block_size, len(self.tops)))

    def only(self, first_block: int, last_block: int) -> "Cutter":
        """Return a cutter for a run of blocks, which is smaller to send."""
        cells = slice(self.rows(first_block).start, self.rows(last_block).stop)
        return replace(
            self,
            tops=self.tops[cells],
            lefts=self.lefts[cells],
            cell_ids=self.cell_ids[cells],
            first_block=first_block,
        )

    def places(self, number: int) -> dict[Place, np.ndarray]:
        """Return what a block reads, each place with the numbers of its cells in the block."""
        rows = self.rows(number)
        return find_places(self.tops[rows], self.lefts[rows], self.grid)

    def reader(self, numbers: Sequence[int], cache_bytes: int) -> TileReader:
        """Return a reader for blocks, cut about in this order, that holds at most so much between them."""
        plan = {number: tuple(self.places(number)) for number in numbers}
        return TileReader([self.image, self.mask], grid=self.grid, plan=plan, max_bytes=cache_bytes)

    def cut(self, number: int, reader: TileReader) -> tuple[np.ndarray, np.ndarray]:
        """Return patches (n, C, P, P) and regions (n, P, P) of a block."""
        rows, patch_px = self.rows(number), self.grid.patch_px
        n = rows.stop - rows.start
        patches = np.zeros((n, *self.patch_shape), self.dtype)
        regions = np.zeros((n, patch_px, patch_px), np.uint8)
        tops, lefts, cell_ids = self.tops[rows].tolist(), self.lefts[rows].tolist(), self.cell_ids[rows]
        for place, touching in self.places(number).items():
            image, labels = reader.read(place, block=number)  # (C, y, x), (y, x)
            ys, xs = self.grid.window(place)
            for cell in touching.tolist():
                # A strip holds all that the patches it is for have of its tile, so strips do not add to each other.
                y_here, y_there = _overlap(tops[cell], patch_px, ys.start, labels.shape[0])
                x_here, x_there = _overlap(lefts[cell], patch_px, xs.start, labels.shape[1])
                patches[cell, :, y_here, x_here] = image[:, y_there, x_there]
                ids = labels[y_there, x_there]
                # OTHER_CELL for any cell, less 1 where it is this one.
                regions[cell, y_here, x_here] = (ids != 0) * np.uint8(OTHER_CELL) - (ids == cell_ids[cell])
        return patches, regions

    def cut_all(self, numbers: Sequence[int], cache_bytes: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield the number, patches and regions of each block, one after the other."""
        reader = self.reader(numbers, cache_bytes)
        for number in numbers:
            yield (number, *self.cut(number, reader))


def _overlap(first: int, length: int, tile_first: int, tile_length: int) -> tuple[slice, slice]:
    """Return where a window and a tile meet, along one axis: in the window, and in the tile."""
    start, stop = max(first, tile_first), min(first + length, tile_first + tile_length)
    return slice(start - first, stop - first), slice(start - tile_first, stop - tile_first)
