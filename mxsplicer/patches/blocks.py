"""Blocks: the order of cells in which neighbours in the table are neighbours on the slide, and the tiles of a block.

Cells are sorted along a Hilbert curve over the tiles of the file, so that consecutive rows are compact in the tissue.
About a thousand of them are a block. A patch that overlaps several tiles belongs to the tile that the curve visits
last. A whole tile is then needed for one stretch of the curve only; later blocks need only strips along its sides, as
wide as a patch. :class:`TileReader` keeps those strips, and decodes each tile about once.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mxsplicer.patches.geometry import PatchGeometry

_BLOCK_CELLS = 1024
_BLOCK_BYTES = 256 << 20  # of patches before compression; each worker holds about one block


def order_cells(x_px: np.ndarray, y_px: np.ndarray) -> np.ndarray:
    """Return the order of the cells in blocks, along a Hilbert curve over the pixels of the slide.

    The curve starts at pixel (0, 0) and visits all pixels of a square of 2, 4, 8, ... pixels before it leaves it.
    """
    return np.argsort(_on_curve(*(np.floor(along + 0.5) for along in (x_px, y_px))), kind="stable")


def order_patches(tops: np.ndarray, lefts: np.ndarray, geometry: PatchGeometry) -> np.ndarray:
    """Return the order of patches in blocks: along a Hilbert curve over the tiles, in a tile along one over its pixels.

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


def choose_block_size(patch_bytes: int) -> int:
    """Return the number of cells of a block: 1,024, or the largest power of two that keeps it below 256 MiB."""
    return min(_BLOCK_CELLS, 1 << (max(1, _BLOCK_BYTES // patch_bytes).bit_length() - 1))


@dataclass(frozen=True, eq=False)
class Block:
    """A run of cells that lie close together on the slide, with their patches."""

    number: int
    rows: np.ndarray  # (n,) positions in the table of all cells in block order
    cells: pd.DataFrame
    intensities: np.ndarray  # (n, C) float32, mean of each marker inside the cell
    patches: np.ndarray  # (n, C, P, P) in the slide's dtype
    regions: np.ndarray  # (n, P, P) uint8: BACKGROUND, THIS_CELL, OTHER_CELL, NUCLEUS
