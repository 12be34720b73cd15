"""Blocks: cells in an order in which neighbours in the table are neighbours on the slide, and the tiles a block reads.

Cells are sorted along a Hilbert curve over the tiles of the file, so any run of rows is a compact piece of tissue. A
run of about a thousand is a block. A patch that lies across tiles belongs to the one that the curve meets last: a tile
is then needed whole for one stretch of the curve only, and after it no more of it than strips along its sides, as wide
as a patch. :class:`TileReader` holds those, and decodes each tile about once.
"""

import math
import threading
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from typing import Literal, NamedTuple

import numpy as np

from mxsplicer.errors import InputError
from mxsplicer.images.slide import LazyImage, Slide

Tile = tuple[int, int]  # row and column in the grid of tiles
Part = Literal["whole", "top", "bottom", "left", "right"]

_BLOCK_CELLS = 1024
_BLOCK_BYTES = 256 << 20  # of patches before compression; each worker holds about one block
_MIN_TILE_PX, _MAX_TILE_PX = 256, 2048  # thin strips are read together, whole-page "tiles" in parts
_MIN_STRIP_PX = 128  # rows read at once of strips as wide as a large slide: a few patches


class Place(NamedTuple):
    """A tile, or the strip along one of its sides that patches of a neighbour reach into."""

    tile: Tile
    part: Part


class Grid(NamedTuple):
    """Windows, all of one size, on a slide that is read in tiles."""

    shape_px: tuple[int, int]
    tile_px: tuple[int, int]
    patch_px: int  # side of a window

    def touched(self, firsts: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
        """Return first and last row (axis 0) or column (1) of tiles that windows touch, of their first pixels."""
        last = np.minimum(firsts + self.patch_px, self.shape_px[axis]) - 1
        return np.maximum(firsts, 0) // self.tile_px[axis], last // self.tile_px[axis]

    def window(self, place: Place) -> tuple[slice, slice]:
        """Return rows and columns of the slide that a place covers."""
        (top, bottom), (left, right) = (self._bounds(place.tile[axis], axis) for axis in (0, 1))
        rows = {"top": (top, top + self.patch_px), "bottom": (bottom - self.patch_px, bottom)}
        columns = {"left": (left, left + self.patch_px), "right": (right - self.patch_px, right)}
        y0, y1 = rows.get(place.part, (top, bottom))
        x0, x1 = columns.get(place.part, (left, right))
        return slice(max(y0, top), min(y1, bottom)), slice(max(x0, left), min(x1, right))

    def _bounds(self, at: int, axis: int) -> tuple[int, int]:
        return at * self.tile_px[axis], min((at + 1) * self.tile_px[axis], self.shape_px[axis])

    def parts_of(self, tile: Tile, tops: np.ndarray, lefts: np.ndarray) -> dict[Part, np.ndarray]:
        """Return the parts of a tile that windows need, each with the numbers of its windows.

        Where one window lies inside the tile, all of them are cut from the whole.
        """
        (top, bottom), (left, right) = (self._bounds(tile[axis], axis) for axis in (0, 1))
        reaches: dict[Part, np.ndarray] = {
            "top": tops < top,
            "bottom": tops + self.patch_px > bottom,
            "left": lefts < left,
            "right": lefts + self.patch_px > right,
        }
        left_over = np.ones(len(tops), dtype=bool)
        parts: dict[Part, np.ndarray] = {}
        for part, reaching in reaches.items():
            if (reaching & left_over).any():
                parts[part] = np.flatnonzero(reaching & left_over)
                left_over &= ~reaching
        return {"whole": np.arange(len(tops))} if left_over.any() else parts


def order_cells(x_px: np.ndarray, y_px: np.ndarray) -> np.ndarray:
    """Return the order of the cells along a Hilbert curve over the pixels of the slide.

    The curve starts at pixel (0, 0) and visits every square of 2, 4, 8, ... pixels without leaving it in between.
    """
    return np.argsort(_on_curve(*(np.floor(along + 0.5) for along in (x_px, y_px))), kind="stable")


def order_windows(tops: np.ndarray, lefts: np.ndarray, grid: Grid) -> np.ndarray:
    """Return the order of windows along a Hilbert curve over the tiles, and inside a tile over its pixels.

    A window that touches several tiles belongs to the one that the curve meets last.

    Parameters
    ----------
    tops, lefts
        First row and column (pixels) of each window; they may lie beyond the slide.
    """
    (first_row, last_row), (first_column, last_column) = grid.touched(tops, 0), grid.touched(lefts, 1)
    n_rows, n_columns = (-(-whole // side) for whole, side in zip(grid.shape_px, grid.tile_px, strict=True))
    rows, columns = np.divmod(np.arange(n_rows * n_columns), n_columns)
    curve = _on_curve(columns, rows).reshape(n_rows, n_columns)
    met_last = np.zeros(len(tops), dtype=np.int64)
    for down in range(int((last_row - first_row).max(initial=0)) + 1):
        for right in range(int((last_column - first_column).max(initial=0)) + 1):
            met = curve[np.minimum(first_row + down, last_row), np.minimum(first_column + right, last_column)]
            np.maximum(met_last, met, out=met_last)
    return np.lexsort((_on_curve(lefts + grid.patch_px // 2, tops + grid.patch_px // 2), met_last))


def _on_curve(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = (np.maximum(along, 0).astype(np.int64) for along in (x, y))
    n_bits = int(max(x.max(initial=0), y.max(initial=0))).bit_length()
    side = 1 << n_bits
    place = np.zeros(len(x), dtype=np.int64)
    for bit in reversed(range(n_bits)):
        right, low = (x >> bit) & 1, (y >> bit) & 1
        place = place << 2 | (3 * right) ^ low
        # The upper two quarters are crossed transposed, the right one of them backwards as well.
        backwards = (low == 0) & (right == 1)
        x, y = np.where(backwards, side - 1 - x, x), np.where(backwards, side - 1 - y, y)
        x, y = np.where(low == 0, y, x), np.where(low == 0, x, y)
    return place


def spread_sample(n: int, size: int, *, seed: int) -> np.ndarray:
    """Return ``size`` of ``n`` places along the curve: one at random from each of ``size`` equal stretches."""
    edges = np.arange(size + 1) * n // size
    return np.random.default_rng(seed).integers(edges[:-1], edges[1:])


def choose_patch_px(slide: Slide, patch_size_um: float) -> int:
    """Return the side of a patch in pixels, an even number, or raise where it does not fit on the slide."""
    if not 0 < patch_size_um < math.inf:
        msg = f"a patch of {patch_size_um} µm cannot be cut; --patch-size-um is the side of a patch, more than 0."
        raise InputError(msg)
    patch_px = 2 * max(1, math.floor(patch_size_um / slide.pixel_size_um / 2 + 0.5))
    height, width = slide.shape_px
    if patch_px > min(height, width):
        pixel = slide.pixel_size_um
        msg = (
            f"a patch of {patch_size_um:g} µm ({patch_px} pixels) does not fit on slide {slide.name!r}, "
            f"{height * pixel:g} x {width * pixel:g} µm ({height} x {width} pixels of {pixel:g} µm, "
            f"{slide.pixel_size_from}). Lower --patch-size-um, or correct --pixel-size-um."
        )
        raise InputError(msg)
    return patch_px


def choose_block_size(patch_bytes: int) -> int:
    """Return how many cells make a block: 1,024, or the largest power of two that keeps it below 256 MiB."""
    return min(_BLOCK_CELLS, 1 << (max(1, _BLOCK_BYTES // patch_bytes).bit_length() - 1))


def choose_tile(tile_px: tuple[int, int], shape_px: tuple[int, int]) -> tuple[int, int]:
    """Return the height and width that are read at once: the file's tile, or a multiple of it that is not too thin.

    Strips as wide as a large slide are read whole, as many as a large tile has pixels, so that each is decoded once.
    """
    strip, whole_width = min(tile_px[0], shape_px[0]), min(tile_px[1], shape_px[1])
    if whole_width > _MAX_TILE_PX and strip <= _MIN_TILE_PX:
        n_rows = max(_MIN_STRIP_PX, _MAX_TILE_PX**2 // whole_width)
        return min(max(1, n_rows // strip) * strip, shape_px[0]), whole_width
    height, width = (
        min(-(-_MIN_TILE_PX // side) * side, _MAX_TILE_PX, whole) for side, whole in zip(tile_px, shape_px, strict=True)
    )
    return height, width


def find_places(tops: np.ndarray, lefts: np.ndarray, grid: Grid) -> dict[Place, np.ndarray]:
    """Return the places that windows are cut from, by tile in rows from the top, each with the numbers of its windows.

    Parameters
    ----------
    tops, lefts
        First row and column (pixels) of each window; they may lie beyond the slide.
    """
    (first_y, last_y), (first_x, last_x) = grid.touched(tops, 0), grid.touched(lefts, 1)
    windows = np.arange(len(tops))
    found: dict[Tile, list[np.ndarray]] = {}
    for down in range(int((last_y - first_y).max(initial=0)) + 1):
        for right in range(int((last_x - first_x).max(initial=0)) + 1):
            rows, columns = first_y + down, first_x + right
            touched = (rows <= last_y) & (columns <= last_x)
            tiles, of_window = np.unique(
                np.stack([rows[touched], columns[touched]], axis=1), axis=0, return_inverse=True
            )
            for number, (row, column) in enumerate(tiles.tolist()):
                found.setdefault((row, column), []).append(windows[touched][of_window.ravel() == number])
    places = {}
    for tile in sorted(found):
        touching = np.concatenate(found[tile])
        for part, cut in grid.parts_of(tile, tops[touching], lefts[touching]).items():
            places[Place(tile, part)] = touching[cut]
    return places


class TileReader:
    """Reads places of images of one height and width for many blocks, each tile about once.

    What is decoded is kept while a later block needs it: a tile, or only strips of it. When more than ``max_bytes`` are
    held, what is needed last goes, and is decoded again when its turn comes. Any number of threads may read; each says
    for which block.

    Parameters
    ----------
    images
        Images whose last two axes are (Y, X), read together: a slide's image (C, Y, X) and its mask (Y, X).
    grid
        The tiles.
    plan
        The places that each block reads, once each; blocks are read about in the order of their numbers.
    max_bytes
        What is held between reads, at most.
    """

    def __init__(
        self, images: Sequence[LazyImage], *, grid: Grid, plan: Mapping[int, Collection[Place]], max_bytes: int
    ) -> None:
        self.n_decoded = 0
        self._images = images
        self._grid = grid
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._held: dict[Place, list[np.ndarray]] = {}
        self._held_bytes = 0
        self._decoding: dict[Tile, Future[dict[Place, list[np.ndarray]]]] = {}
        self._needed: dict[Place, set[int]] = {}  # blocks that are still to read a place
        self._parts: dict[Tile, list[Place]] = {}  # of each tile those that any block needs
        for block, places in plan.items():
            for place in places:
                if place not in self._needed:
                    self._parts.setdefault(place.tile, []).append(place)
                self._needed.setdefault(place, set()).add(block)

    @property
    def tiles(self) -> Collection[Tile]:
        """All tiles of the plan."""
        return self._parts.keys()

    def read(self, place: Place, *, block: int) -> list[np.ndarray]:
        """Return a place of each image; the caller must not write into it."""
        with self._lock:
            pieces = self._held.get(place)
            decoding = self._decoding.get(place.tile)
            mine = pieces is None and decoding is None
            if mine:
                decoding = self._decoding[place.tile] = Future()
                self.n_decoded += 1
        if pieces is None:
            assert decoding is not None
            if mine:
                self._decode(place.tile, decoding)
            pieces = decoding.result()[place]
        with self._lock:
            self._needed[place].discard(block)
            self._let_go()
        return pieces

    def _decode(self, tile: Tile, decoding: Future[dict[Place, list[np.ndarray]]]) -> None:
        try:
            found = self._pieces_of(tile)
        except BaseException as error:
            decoding.set_exception(error)  # for whoever waits for the same tile
            raise
        with self._lock:
            for place, pieces in found.items():
                if self._needed[place] and place not in self._held:
                    self._held[place] = pieces
                    self._held_bytes += _bytes_of(pieces)
            del self._decoding[tile]
        decoding.set_result(found)

    def _pieces_of(self, tile: Tile) -> dict[Place, list[np.ndarray]]:
        rows, columns = self._grid.window(Place(tile, "whole"))
        whole = [np.asarray(image[..., rows, columns]) for image in self._images]
        found = {}
        for place in self._parts[tile]:
            if place.part == "whole":
                found[place] = whole
            elif self._needed[place]:
                y, x = self._grid.window(place)
                within = (
                    slice(y.start - rows.start, y.stop - rows.start),
                    slice(x.start - columns.start, x.stop - columns.start),
                )
                found[place] = [pixels[..., *within].copy() for pixels in whole]  # a view would keep all of the tile
        return found

    def _let_go(self) -> None:
        for place in [place for place in self._held if not self._needed[place]]:
            self._drop(place)
        while self._held_bytes > self._max_bytes:
            self._drop(max(self._held, key=lambda place: min(self._needed[place])))

    def _drop(self, place: Place) -> None:
        self._held_bytes -= _bytes_of(self._held.pop(place))


def _bytes_of(pieces: list[np.ndarray]) -> int:
    return sum(piece.nbytes for piece in pieces)
