"""Pieces of tiles: what the patches of a block are cut from, and a reader that decodes each tile about once."""

import threading
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future

import numpy as np

from mxsplicer.images.lazy_images import LazyImage
from mxsplicer.patches.geometry import PatchGeometry, Piece, Tile


def find_pieces(tops: np.ndarray, lefts: np.ndarray, geometry: PatchGeometry) -> dict[Piece, np.ndarray]:
    """Return the pieces of tiles that patches are cut from, from the top, each with the indices of its patches.

    Parameters
    ----------
    tops, lefts
        First row and column (pixels) of each patch (n,); they may lie beyond the slide.
    """
    (first_y, last_y), (first_x, last_x) = geometry.touched(tops, 0), geometry.touched(lefts, 1)
    patches = np.arange(len(tops))
    found: dict[Tile, list[np.ndarray]] = {}
    for down in range(int((last_y - first_y).max(initial=0)) + 1):
        for right in range(int((last_x - first_x).max(initial=0)) + 1):
            rows, columns = first_y + down, first_x + right
            touched = (rows <= last_y) & (columns <= last_x)
            tiles, of_patch = np.unique(
                np.stack([rows[touched], columns[touched]], axis=1), axis=0, return_inverse=True
            )
            for number, (row, column) in enumerate(tiles.tolist()):
                found.setdefault((row, column), []).append(patches[touched][of_patch.ravel() == number])
    pieces = {}
    for tile in sorted(found):
        touching = np.concatenate(found[tile])
        for side, cut in geometry.sides_of(tile, tops[touching], lefts[touching]).items():
            pieces[Piece(tile, side)] = touching[cut]
    return pieces


class TileReader:
    """Read the pieces of images that the patches of many blocks are cut from, and decode each tile about once.

    A decoded tile, or only strips of it, is kept as long as a later block needs it. If more than ``max_bytes`` are
    kept, the piece that is needed last is dropped, and decoded again when it is needed. Any number of threads may read
    at a time; each passes the number of its block.

    Parameters
    ----------
    images
        Images of the same height and width whose last two axes are (Y, X), read together: a slide's image (C, Y, X)
        and its mask (Y, X).
    geometry
        Sizes of the slide, its tiles and its patches.
    plan
        The pieces that each block reads, once each. Blocks are read roughly in the order of their numbers.
    max_bytes
        Most bytes to keep between reads.
    """

    def __init__(
        self,
        images: Sequence[LazyImage],
        *,
        geometry: PatchGeometry,
        plan: Mapping[int, Collection[Piece]],
        max_bytes: int,
    ) -> None:
        self.n_decoded = 0
        self._images = images
        self._geometry = geometry
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._kept: dict[Piece, list[np.ndarray]] = {}
        self._kept_bytes = 0
        self._decoding: dict[Tile, Future[dict[Piece, list[np.ndarray]]]] = {}
        self._needed: dict[Piece, set[int]] = {}  # blocks that have yet to read a piece
        self._pieces: dict[Tile, list[Piece]] = {}  # of each tile those that any block needs
        for block, pieces in plan.items():
            for piece in pieces:
                if piece not in self._needed:
                    self._pieces.setdefault(piece.tile, []).append(piece)
                self._needed.setdefault(piece, set()).add(block)

    @property
    def tiles(self) -> Collection[Tile]:
        """All tiles of the plan."""
        return self._pieces.keys()

    def read(self, piece: Piece, *, block: int) -> list[np.ndarray]:
        """Return a piece of each image; the caller must not write into it."""
        with self._lock:
            pixels = self._kept.get(piece)
            decoding = self._decoding.get(piece.tile)
            mine = pixels is None and decoding is None
            if mine:
                decoding = self._decoding[piece.tile] = Future()
                self.n_decoded += 1
        if pixels is None:
            assert decoding is not None
            if mine:
                self._decode(piece.tile, decoding)
            pixels = decoding.result()[piece]
        with self._lock:
            self._needed[piece].discard(block)
            self._evict()
        return pixels

    def _decode(self, tile: Tile, decoding: Future[dict[Piece, list[np.ndarray]]]) -> None:
        try:
            found = self._read_tile(tile)
        except BaseException as error:
            decoding.set_exception(error)  # for whoever waits for the same tile
            raise
        with self._lock:
            for piece, pixels in found.items():
                if self._needed[piece] and piece not in self._kept:
                    self._kept[piece] = pixels
                    self._kept_bytes += _bytes_of(pixels)
            del self._decoding[tile]
        decoding.set_result(found)

    def _read_tile(self, tile: Tile) -> dict[Piece, list[np.ndarray]]:
        rows, columns = self._geometry.window(Piece(tile, "whole"))
        whole = [np.asarray(image[..., rows, columns]) for image in self._images]
        found = {}
        for piece in self._pieces[tile]:
            if piece.side == "whole":
                found[piece] = whole
            elif self._needed[piece]:
                y, x = self._geometry.window(piece)
                within = (
                    slice(y.start - rows.start, y.stop - rows.start),
                    slice(x.start - columns.start, x.stop - columns.start),
                )
                found[piece] = [of_image[..., *within].copy() for of_image in whole]  # a view would keep the whole tile
        return found

    def _evict(self) -> None:
        for piece in [piece for piece in self._kept if not self._needed[piece]]:
            self._drop(piece)
        while self._kept_bytes > self._max_bytes:
            self._drop(max(self._kept, key=lambda piece: min(self._needed[piece])))

    def _drop(self, piece: Piece) -> None:
        self._kept_bytes -= _bytes_of(self._kept.pop(piece))


def _bytes_of(pixels: list[np.ndarray]) -> int:
    return sum(of_image.nbytes for of_image in pixels)
