"""Blocks: cells in an order in which neighbours in the table are neighbours on the slide, and the tiles a block reads.

Cells are sorted along a Hilbert curve, so any run of rows is a compact piece of tissue. A run of about a thousand is a
block. Blocks that touch share tiles; :class:`TileReader` decodes each of them about once.
"""

import threading
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future

import numpy as np

from mxsplicer.slides.slide import LazyImage

Tile = tuple[int, int]  # row and column in the grid of tiles

_BLOCK_CELLS = 1024
_BLOCK_BYTES = 256 << 20  # of patches before compression; each worker holds about two blocks
_MIN_TILE_PX, _MAX_TILE_PX = 256, 2048  # thin strips are read together, whole-page "tiles" in parts


def order_cells(x_px: np.ndarray, y_px: np.ndarray) -> np.ndarray:
    """Return the order of the cells along a Hilbert curve over the pixels of the slide.

    The curve starts at pixel (0, 0) and visits every square of 2, 4, 8, ... pixels without leaving it in between.
    """
    x, y = (np.maximum(np.floor(along + 0.5), 0).astype(np.int64) for along in (x_px, y_px))
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
    return np.argsort(place, kind="stable")


def spread_sample(n: int, size: int, *, seed: int) -> np.ndarray:
    """Return ``size`` of ``n`` places along the curve: one at random from each of ``size`` equal stretches."""
    edges = np.arange(size + 1) * n // size
    return np.random.default_rng(seed).integers(edges[:-1], edges[1:])


def choose_block_size(patch_bytes: int) -> int:
    """Return how many cells make a block: 1,024, or the largest power of two that keeps it below 256 MiB."""
    return min(_BLOCK_CELLS, 1 << (max(1, _BLOCK_BYTES // patch_bytes).bit_length() - 1))


def choose_tile(tile_px: tuple[int, int], shape_px: tuple[int, int]) -> tuple[int, int]:
    """Return the height and width that are read at once: the file's tile, or a multiple of it that is not too thin."""
    height, width = (
        min(-(-_MIN_TILE_PX // side) * side, _MAX_TILE_PX, whole) for side, whole in zip(tile_px, shape_px, strict=True)
    )
    return height, width


def find_tiles(
    tops: np.ndarray, lefts: np.ndarray, *, patch_px: int, shape_px: tuple[int, int], tile_px: tuple[int, int]
) -> dict[Tile, np.ndarray]:
    """Return the tiles that windows touch, in rows from the top, each with the numbers of its windows.

    Parameters
    ----------
    tops, lefts
        First row and column (pixels) of each window; they may lie beyond the slide.
    """
    first_y, first_x = np.maximum(tops, 0) // tile_px[0], np.maximum(lefts, 0) // tile_px[1]
    last_y = (np.minimum(tops + patch_px, shape_px[0]) - 1) // tile_px[0]
    last_x = (np.minimum(lefts + patch_px, shape_px[1]) - 1) // tile_px[1]
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
    return {tile: np.concatenate(found[tile]) for tile in sorted(found)}


class TileReader:
    """Reads tiles of images of one height and width for many blocks, each tile about once.

    A tile is kept while a later block needs it. When more than ``max_bytes`` are held, the tile that is needed last
    goes, and is decoded again when its turn comes. Any number of threads may read; each says for which block.

    Parameters
    ----------
    images
        Images whose last two axes are (Y, X), read together: a slide's image (C, Y, X) and its mask (Y, X).
    tile_px
        Height and width of a tile.
    plan
        The tiles that each block reads, once each; blocks are read about in the order of their numbers.
    max_bytes
        What is held between reads, at most; one tile always is.
    """

    def __init__(
        self,
        images: Sequence[LazyImage],
        *,
        tile_px: tuple[int, int],
        plan: Mapping[int, Collection[Tile]],
        max_bytes: int,
    ) -> None:
        self.n_decoded = 0
        self._images = images
        self._tile_px = tile_px
        pixel_bytes = sum(int(np.prod(image.shape[:-2])) * image.dtype.itemsize for image in images)
        self._max_tiles = max(1, max_bytes // (tile_px[0] * tile_px[1] * pixel_bytes))
        self._lock = threading.Lock()
        self._held: dict[Tile, Future[list[np.ndarray]]] = {}
        self._needed: dict[Tile, set[int]] = {}  # blocks that are still to read a tile
        for block, tiles in plan.items():
            for tile in tiles:
                self._needed.setdefault(tile, set()).add(block)
        self.n_tiles = len(self._needed)

    def read(self, tile: Tile, *, block: int) -> list[np.ndarray]:
        """Return the tile of each image; the caller must not write into it."""
        with self._lock:
            held = self._held.get(tile)
            mine: Future[list[np.ndarray]] | None = None
            if held is None:
                held = mine = self._held[tile] = Future()
                self.n_decoded += 1
        if mine is not None:
            try:
                mine.set_result(self._decode(tile))
            except BaseException as error:
                mine.set_exception(error)  # for whoever waits for the same tile
                raise
        parts = held.result()
        with self._lock:
            self._needed[tile].discard(block)
            self._let_go()
        return parts

    def _decode(self, tile: Tile) -> list[np.ndarray]:
        rows, columns = (slice(at * side, (at + 1) * side) for at, side in zip(tile, self._tile_px, strict=True))
        return [np.asarray(image[..., rows, columns]) for image in self._images]

    def _let_go(self) -> None:
        for tile in [tile for tile in self._held if not self._needed[tile]]:
            del self._held[tile]
        while len(self._held) > self._max_tiles:
            del self._held[max(self._held, key=lambda tile: min(self._needed[tile]))]
