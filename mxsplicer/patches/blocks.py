"""Blocks: the order of cells in which neighbours in the table are neighbours on the slide, and the tiles of a block.

Cells are sorted along a Hilbert curve over the tiles of the file, so that consecutive rows are compact in the tissue.
About a thousand of them are a block. A patch that overlaps several tiles belongs to the tile that the curve visits
last. A whole tile is then needed for one stretch of the curve only; later blocks need only strips along its sides, as
wide as a patch. :class:`TileReader` keeps those strips, and decodes each tile about once.
"""

import math
import threading
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from mxsplicer.errors import InputError
from mxsplicer.images.lazy_images import LazyImage
from mxsplicer.images.slide import Slide

Tile = tuple[int, int]  # its row and column among the tiles of the slide
Side = Literal["whole", "top", "bottom", "left", "right"]

_BLOCK_CELLS = 1024
_SAME_SCALE = 0.05  # largest difference of pixel sizes, relative: calibrations differ by about a per cent
_BLOCK_BYTES = 256 << 20  # of patches before compression; each worker holds about one block
_MIN_TILE_PX, _MAX_TILE_PX = 256, 2048  # thin strips are read together, whole-page "tiles" in parts
_MIN_STRIP_PX = 128  # rows read at once of strips as wide as a large slide: a few patches


class Piece(NamedTuple):
    """A whole tile, or the strip along one of its sides that patches of a neighbouring tile reach into."""

    tile: Tile
    side: Side


class PatchGeometry(NamedTuple):
    """The sizes of a slide, of the tiles it is read in, and of its patches."""

    shape_px: tuple[int, int]
    tile_px: tuple[int, int]
    patch_px: int

    @classmethod
    def of(cls, slide: Slide, patch_size_um: float) -> "PatchGeometry":
        """Return the geometry of patches of a slide; the side of a patch is rounded to an even number of pixels.

        Raises
        ------
        InputError
            If a patch does not fit on the slide, or its size is not a positive number.

        Examples
        --------
        >>> from mxsplicer.testing import tiny_slide
        >>> PatchGeometry.of(tiny_slide()[0], patch_size_um=16).patch_px
        32
        """
        patch_px = _choose_patch_px(slide, patch_size_um)
        return cls(slide.shape_px, choose_tile(slide.tile_px, slide.shape_px), patch_px)

    def touched(self, firsts: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the first and last row (axis 0) or column (axis 1) of tiles that patches overlap.

        Parameters
        ----------
        firsts
            First pixel of each patch along the axis (n,).
        """
        last = np.minimum(firsts + self.patch_px, self.shape_px[axis]) - 1
        return np.maximum(firsts, 0) // self.tile_px[axis], last // self.tile_px[axis]

    def window(self, piece: Piece) -> tuple[slice, slice]:
        """Return the rows and columns of the slide that a piece covers."""
        (top, bottom), (left, right) = (self._bounds(piece.tile[axis], axis) for axis in (0, 1))
        rows = {"top": (top, top + self.patch_px), "bottom": (bottom - self.patch_px, bottom)}
        columns = {"left": (left, left + self.patch_px), "right": (right - self.patch_px, right)}
        y0, y1 = rows.get(piece.side, (top, bottom))
        x0, x1 = columns.get(piece.side, (left, right))
        return slice(max(y0, top), min(y1, bottom)), slice(max(x0, left), min(x1, right))

    def _bounds(self, at: int, axis: int) -> tuple[int, int]:
        return at * self.tile_px[axis], min((at + 1) * self.tile_px[axis], self.shape_px[axis])

    def sides_of(self, tile: Tile, tops: np.ndarray, lefts: np.ndarray) -> dict[Side, np.ndarray]:
        """Return the sides of a tile that patches need, each with the indices of its patches.

        If any patch lies inside the tile, all of them are cut from the whole tile.
        """
        (top, bottom), (left, right) = (self._bounds(tile[axis], axis) for axis in (0, 1))
        reaches: dict[Side, np.ndarray] = {
            "top": tops < top,
            "bottom": tops + self.patch_px > bottom,
            "left": lefts < left,
            "right": lefts + self.patch_px > right,
        }
        left_over = np.ones(len(tops), dtype=bool)
        sides: dict[Side, np.ndarray] = {}
        for side, reaching in reaches.items():
            if (reaching & left_over).any():
                sides[side] = np.flatnonzero(reaching & left_over)
                left_over &= ~reaching
        return {"whole": np.arange(len(tops))} if left_over.any() else sides


def order_cells(x_px: np.ndarray, y_px: np.ndarray) -> np.ndarray:
    """Return the order of the cells along a Hilbert curve over the pixels of the slide.

    The curve starts at pixel (0, 0) and visits all pixels of a square of 2, 4, 8, ... pixels before it leaves it.
    """
    return np.argsort(_on_curve(*(np.floor(along + 0.5) for along in (x_px, y_px))), kind="stable")


def order_patches(tops: np.ndarray, lefts: np.ndarray, geometry: PatchGeometry) -> np.ndarray:
    """Return the order of patches along a Hilbert curve over the tiles, and inside a tile along one over its pixels.

    A patch that overlaps several tiles belongs to the tile that the curve visits last.

    Parameters
    ----------
    tops, lefts
        First row and column (pixels) of each patch (n,); they may lie beyond the slide.
    """
    (first_row, last_row), (first_column, last_column) = geometry.touched(tops, 0), geometry.touched(lefts, 1)
    n_rows, n_columns = (-(-whole // side) for whole, side in zip(geometry.shape_px, geometry.tile_px, strict=True))
    rows, columns = np.divmod(np.arange(n_rows * n_columns), n_columns)
    curve = _on_curve(columns, rows).reshape(n_rows, n_columns)
    visited_last = np.zeros(len(tops), dtype=np.int64)
    for down in range(int((last_row - first_row).max(initial=0)) + 1):
        for right in range(int((last_column - first_column).max(initial=0)) + 1):
            visited = curve[np.minimum(first_row + down, last_row), np.minimum(first_column + right, last_column)]
            np.maximum(visited_last, visited, out=visited_last)
    return np.lexsort((_on_curve(lefts + geometry.patch_px // 2, tops + geometry.patch_px // 2), visited_last))


def _on_curve(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = (np.maximum(along, 0).astype(np.int64) for along in (x, y))
    n_bits = int(max(x.max(initial=0), y.max(initial=0))).bit_length()
    side = 1 << n_bits
    position = np.zeros(len(x), dtype=np.int64)
    for bit in reversed(range(n_bits)):
        right, low = (x >> bit) & 1, (y >> bit) & 1
        position = position << 2 | (3 * right) ^ low
        # The upper two quarters are crossed transposed, the right one of them backwards as well.
        backwards = (low == 0) & (right == 1)
        x, y = np.where(backwards, side - 1 - x, x), np.where(backwards, side - 1 - y, y)
        x, y = np.where(low == 0, y, x), np.where(low == 0, x, y)
    return position


def in_pixels(patch_size_um: float, pixel_size_um: float) -> int:
    """Return the side of a patch in pixels, rounded to an even number."""
    if not 0 < patch_size_um < math.inf:
        msg = f"a patch of {patch_size_um} µm cannot be cut."
        raise InputError(msg, "Set `patch_size_um`, the side of a patch, to a positive number.")
    return 2 * max(1, math.floor(patch_size_um / pixel_size_um / 2 + 0.5))


def same_scale(pixel_size_um: float, other_um: float) -> bool:
    """Return whether two pixel sizes differ by at most 5 %, as calibrations of one kind of microscope do."""
    return abs(pixel_size_um / other_um - 1) <= _SAME_SCALE


def _choose_patch_px(slide: Slide, patch_size_um: float) -> int:
    patch_px = in_pixels(patch_size_um, slide.pixel_size_um)
    height, width = slide.shape_px
    if patch_px > min(height, width):
        pixel = slide.pixel_size_um
        msg = (
            f"a patch of {patch_size_um:g} µm ({patch_px} pixels) does not fit on slide {slide.name!r}, "
            f"{height * pixel:g} x {width * pixel:g} µm ({height} x {width} pixels of {pixel:g} µm, "
            f"{slide.pixel_size_from})."
        )
        raise InputError(msg, "Lower `patch_size_um`, or correct `pixel_size_um`.")
    return patch_px


def choose_block_size(patch_bytes: int) -> int:
    """Return the number of cells of a block: 1,024, or the largest power of two that keeps it below 256 MiB."""
    return min(_BLOCK_CELLS, 1 << (max(1, _BLOCK_BYTES // patch_bytes).bit_length() - 1))


def choose_tile(tile_px: tuple[int, int], shape_px: tuple[int, int]) -> tuple[int, int]:
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


def find_pieces(tops: np.ndarray, lefts: np.ndarray, geometry: PatchGeometry) -> dict[Piece, np.ndarray]:
    """Return the pieces that patches are cut from, tile by tile from the top, each with the indices of its patches.

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
    """Read pieces of images for many blocks, and decode each tile about once.

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


@dataclass(frozen=True, eq=False)
class Block:
    """A run of cells that lie close together on the slide, with their patches."""

    number: int
    rows: np.ndarray  # (n,) positions in the table of all cells in block order
    cells: pd.DataFrame
    intensities: np.ndarray  # (n, C) float32, mean of each marker inside the cell
    patches: np.ndarray  # (n, C, P, P) in the slide's dtype
    regions: np.ndarray  # (n, P, P) uint8: BACKGROUND, THIS_CELL, OTHER_CELL, NUCLEUS
