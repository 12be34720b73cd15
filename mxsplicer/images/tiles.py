"""A slide is worked through in tiles: how large they are, what they see around them, and how many threads do it."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import isqrt
from typing import TypeVar

import numpy as np

from mxsplicer.system.distributing import in_order_there, is_cluster
from mxsplicer.system.memory import Budget

T = TypeVar("T")
R = TypeVar("R")
Window = tuple[slice, slice]  # rows and columns of a slide

_MAX_WORKERS = 4


@dataclass(frozen=True)
class Grid:
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
        """Return which tiles hold these pixels."""
        numbers: np.ndarray = y // self.tile_px[0] * self.across + x // self.tile_px[1]
        return numbers


def fit(
    shape_px: tuple[int, int],
    step_px: tuple[int, int],
    *,
    max_px: int,
    bytes_per_px: float,
    budget: Budget,
    reserved: int = 0,
    workers: int | None = None,
    halo_px: int = 0,
) -> tuple[Grid, int]:
    """Return the largest tiles, and the number of threads, whose pixels fit into the budget together.

    Parameters
    ----------
    shape_px
        Of the slide.
    step_px
        Tiles are whole multiples of this and at least as large, so that each tile of the file is decoded once.
    max_px
        No side is longer, unless a step is.
    bytes_per_px
        What one pixel of a tile costs a thread.
    budget
        Of the memory of the process.
    reserved
        Bytes of it that something else will take.
    workers
        Threads; as many as there are processors, at most 4, by default. Fewer where not even the smallest tiles fit.
    halo_px
        What a tile sees beyond each of its sides.

    Raises
    ------
    InputError
        If not even one of the smallest tiles fits.
    """
    down, across = (min(step, side) for step, side in zip(step_px, shape_px, strict=True))
    pixels = (budget.free - reserved) / bytes_per_px
    smallest = (min(shape_px[0], down + 2 * halo_px)) * (min(shape_px[1], across + 2 * halo_px))
    budget.require(reserved + int(smallest * bytes_per_px), f"a tile of {down} x {across} pixels")
    n_workers = max(1, min(workers or min(_MAX_WORKERS, os.cpu_count() or 1), int(pixels // smallest)))
    of_one = pixels / n_workers
    square = min(max_px, isqrt(int(of_one)) - 2 * halo_px)
    wide = max(1, min(square, shape_px[1]) // across) * across
    high = max(1, min(max_px, int(of_one / (wide + 2 * halo_px)) - 2 * halo_px) // down) * down
    return Grid(shape_px, (high, wide)), n_workers


def grown(core: Window, halo_px: int, shape_px: tuple[int, int]) -> Window:
    """Return a window with what lies around it, as far as the slide goes."""
    rows, columns = core
    return (
        slice(max(0, rows.start - halo_px), min(shape_px[0], rows.stop + halo_px)),
        slice(max(0, columns.start - halo_px), min(shape_px[1], columns.stop + halo_px)),
    )


def in_order(
    function: Callable[[T], R], items: Iterable[T], workers: int, *, executor: str = "threads", doing: str = ""
) -> Iterator[R]:
    """Yield ``function(item)`` of each item, in order, worked out by threads that are never far ahead.

    Where ``executor`` is the address of a dask scheduler, its cluster does it, and ``doing`` says what, for people.
    """
    if is_cluster(executor):
        yield from in_order_there(function, items, executor, doing)
        return
    if workers == 1:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="tiles")
    ahead: deque[Future[R]] = deque()
    try:
        for item in items:
            if len(ahead) == workers:
                yield ahead.popleft().result()
            ahead.append(pool.submit(function, item))
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
