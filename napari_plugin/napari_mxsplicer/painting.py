"""Paint each cell by one value: pixels of the label image are looked up in a table when they are read.

To repaint, the table is replaced; the label image is not read again. Background and cells without a value are NaN,
which napari draws transparent, so that its contrast slider, colour bar and pointer show true units.
"""

from functools import lru_cache
from typing import Any

import numpy as np

from mxsplicer import InputError, LazyImage
from napari_mxsplicer.lazy import LazyArray

_TILE_PX, _TILES = 256, 32  # cached to find the cell under the pointer
_SPARSE = 8  # ids per cell above which a table of all ids would be wasteful


class RowIndex:
    """Map the ids of a label image to the rows of a table by which it is painted; joined by id, never by position."""

    def __init__(self, ids: np.ndarray) -> None:
        """Index the rows 0..n-1 by their ids.

        Raises
        ------
        InputError
            If an id occurs twice, or is not positive.
        """
        ids = np.asarray(ids)
        self._order = np.argsort(ids, kind="stable")
        self._sorted = ids[self._order].astype(np.int64)
        if (np.diff(self._sorted) == 0).any():
            twice = self._sorted[:-1][np.diff(self._sorted) == 0][0]
            msg = f"cell id {twice} occurs twice in the table of one slide; ids must be unique."
            raise InputError(msg)
        if len(ids) and self._sorted[0] <= 0:
            msg = f"the table contains the cell id {self._sorted[0]}; ids must be positive, 0 is the background."
            raise InputError(msg)
        self.n = len(ids)
        self._table: np.ndarray | None = None
        if len(ids) and self._sorted[-1] < _SPARSE * len(ids) + 65_536:
            self._table = np.zeros(int(self._sorted[-1]) + 2, dtype=np.int32)  # the last entry is for all larger ids
            self._table[self._sorted] = self._order + 1

    def row_numbers(self, labels: np.ndarray) -> np.ndarray:
        """Return, for each pixel, one more than the row of its cell; 0 for the background and for unknown ids."""
        if self._table is not None:
            return np.take(self._table, labels, mode="clip")
        if not self.n:
            return np.zeros(labels.shape, dtype=np.int32)
        place = np.minimum(np.searchsorted(self._sorted, labels), self.n - 1)
        return np.where(self._sorted[place] == labels, self._order[place] + 1, 0).astype(np.int32)


class Paint:
    """One value per cell of a slide, replaced all at once; shared by the levels of a painted layer."""

    def __init__(self, index: RowIndex, dtype: Any = np.float32, nothing: float = np.nan) -> None:
        self.index, self._nothing = index, nothing
        self._dtype = np.dtype(dtype)
        self.table = np.full(index.n + 1, nothing, dtype=self._dtype)

    def set(self, values: np.ndarray, *, background: float | None = None) -> None:
        """Set a value for each row, and one for the background if it is not transparent; levels show it when read."""
        table = np.empty(self.index.n + 1, dtype=self._dtype)
        table[0] = self._nothing if background is None else background
        table[1:] = values
        self.table = table  # one assignment: a reader in another thread sees the old table or the new one


class RowNumbers(LazyArray):
    """One level of a label image (Y, X) to paint, as row numbers: one more than the row of a cell, 0 for none."""

    def __init__(self, labels: LazyImage, index: RowIndex) -> None:
        super().__init__(labels.shape, np.int32)
        self._labels, self._index = labels, index
        self._tiles = lru_cache(maxsize=_TILES)(self._tile)

    def read(self, key: tuple[Any, ...]) -> np.ndarray:
        """Return the window."""
        return self._index.row_numbers(np.asarray(self._labels[key]))

    def row_at(self, y: float, x: float) -> int | None:
        """Return the row of the cell at a point of this level, in pixels; None for the background."""
        row, column = round(y), round(x)
        if not (0 <= row < self.shape[0] and 0 <= column < self.shape[1]):
            return None
        tile = self._tiles(row // _TILE_PX, column // _TILE_PX)
        number = int(tile[row % _TILE_PX, column % _TILE_PX])
        return number - 1 if number else None

    def _tile(self, row: int, column: int) -> np.ndarray:
        y, x = row * _TILE_PX, column * _TILE_PX
        return self.read((slice(y, y + _TILE_PX), slice(x, x + _TILE_PX)))


class PaintedLevel(LazyArray):
    """One level of a label image (Y, X), painted."""

    def __init__(self, numbers: RowNumbers, paint: Paint) -> None:
        super().__init__(numbers.shape, paint.table.dtype)
        self._numbers, self._paint = numbers, paint

    def __getitem__(self, key: Any) -> np.ndarray:
        # The cell of each pixel is cached; its value is looked up each time.
        return np.take(self._paint.table, self._numbers[key])
