"""Tiles that a slide is processed in: how large they are, and what surrounds them."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import isqrt

import numpy as np

from mxsplicer.system.memory import Budget
from mxsplicer.system.workers import default_workers

_MIN_TILE_PX, _MAX_TILE_PX = 256, 2048  # thin strips are read together, whole-page "tiles" in parts
_MIN_STRIP_PX = 128  # rows read at once of strips as wide as a large slide: a few patches

Window = tuple[slice, slice]  # rows and columns of a slide


@dataclass(frozen=True)
class TileGrid:
    """A slide cut into tiles, numbered row by row."""

    shape_px: tuple[int, int]
    tile_px: tuple[int, int]

    @property
    def across(self) -> int:
        """Tiles in a row."""
        return -(-self.shape_px[1] // self.tile_px[1])

    def __len__(self) -> int:
        return -(-self.shape_px[0] // self.tile_px[0]) * self.across

    def __getitem__(self, number: int) -> Window:
        if not 0 <= number < len(self):
            raise IndexError(number)
        (height, width), (down, across) = self.shape_px, self.tile_px
        row, column = divmod(number, self.across)
        return (
            slice(row * down, min(height, (row + 1) * down)),
            slice(column * across, min(width, (column + 1) * across)),
        )

    def __iter__(self) -> Iterator[Window]:
        return map(self.__getitem__, range(len(self)))

    def number_of(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return the numbers of the tiles that hold these pixels."""
        numbers: np.ndarray = y // self.tile_px[0] * self.across + x // self.tile_px[1]
        return numbers


def choose_tiles(
    shape_px: tuple[int, int],
    step_px: tuple[int, int],
    *,
    max_px: int,
    bytes_per_px: float,
    budget: Budget,
    reserved: int = 0,
    workers: int | None = None,
    halo_px: int = 0,
) -> tuple[TileGrid, int]:
    """Return the largest tiles that fit into the budget when a number of threads work on them, and that number.

    Parameters
    ----------
    shape_px
        Height and width of the slide.
    step_px
        Sides of tiles are multiples of this, so that each tile of the file is decoded once.
    max_px
        Longest side of a tile, unless a step is longer.
    bytes_per_px
        Memory that a thread needs per pixel of a tile.
    budget
        Memory of the process.
    reserved
        Bytes of it that are needed for something else.
    workers
        Threads; as many as there are processors, at most 4, by default. Fewer if the smallest tiles do not fit.
    halo_px
        Margin that is read around each tile.

    Raises
    ------
    InputError
        If not even one of the smallest tiles fits into the budget.
    """
    down, across = (min(step, side) for step, side in zip(step_px, shape_px, strict=True))
    pixels = (budget.free - reserved) / bytes_per_px
    smallest = (min(shape_px[0], down + 2 * halo_px)) * (min(shape_px[1], across + 2 * halo_px))
    budget.require(reserved + int(smallest * bytes_per_px), f"a tile of {down} x {across} pixels")
    n_workers = max(1, min(workers or default_workers(), int(pixels // smallest)))
    of_one = pixels / n_workers
    square = min(max_px, isqrt(int(of_one)) - 2 * halo_px)
    wide = max(1, min(square, shape_px[1]) // across) * across
    high = max(1, min(max_px, int(of_one / (wide + 2 * halo_px)) - 2 * halo_px) // down) * down
    return TileGrid(shape_px, (high, wide)), n_workers


def expand_window(window: Window, halo_px: int, shape_px: tuple[int, int]) -> Window:
    """Return the window of a tile expanded by a margin on each side, clipped to the slide."""
    rows, columns = window
    return (
        slice(max(0, rows.start - halo_px), min(shape_px[0], rows.stop + halo_px)),
        slice(max(0, columns.start - halo_px), min(shape_px[1], columns.stop + halo_px)),
    )


def reading_tile(tile_px: tuple[int, int], shape_px: tuple[int, int]) -> tuple[int, int]:
    """Return the height and width that are read at once: those of the file's tiles, or multiples if tiles are thin.

    Of strips as wide as a large slide, as many are read at once as have the pixels of a large tile, so that each is
    decoded once.
    """
    strip, whole_width = min(tile_px[0], shape_px[0]), min(tile_px[1], shape_px[1])
    if whole_width > _MAX_TILE_PX and strip <= _MIN_TILE_PX:
        n_rows = max(_MIN_STRIP_PX, _MAX_TILE_PX**2 // whole_width)
        return min(max(1, n_rows // strip) * strip, shape_px[0]), whole_width
    height, width = (
        min(-(-_MIN_TILE_PX // side) * side, _MAX_TILE_PX, whole) for side, whole in zip(tile_px, shape_px, strict=True)
    )
    return height, width
