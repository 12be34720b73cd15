"""Count the fragments of a mask: connected pixels of one id, joined over tiles."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from skimage.measure import label as label_connected

from mxsplicer.images.lazy_images import LazyImage
from mxsplicer.images.slide import Slide
from mxsplicer.system.progress import track


@dataclass(frozen=True, eq=False)
class Fragments:
    """The fragments of a mask, joined over tiles, and counts of pixels along its rows and columns."""

    shape: tuple[int, int]
    ids: np.ndarray  # (F) of each fragment
    areas: np.ndarray  # (F) pixels
    y: np.ndarray  # (F) centroid
    x: np.ndarray
    borders: tuple[np.ndarray, np.ndarray]  # of each row: pixels that differ from the row above; of each column: left
    inside: tuple[np.ndarray, np.ndarray]  # of each row and column: pixels of cells
    noise: bool = False  # so many fragments of a few pixels that counting was stopped


class LabelledCells:
    """The ids of a mask, each with its fragments, area and diameter."""

    def __init__(self, fragments: Fragments) -> None:
        self.fragments = fragments
        self.ids, self.of_fragment, self.n_fragments = np.unique(fragments.ids, return_inverse=True, return_counts=True)
        self.areas = np.bincount(self.of_fragment, weights=fragments.areas)
        # Of its largest fragment: the sum over fragments would be too large for an id that is used several times.
        self.largest = np.zeros(len(self.ids))
        np.maximum.at(self.largest, self.of_fragment, fragments.areas)
        self.diameters = 2 * np.sqrt(self.largest / np.pi)


def count_fragments(mask: LazyImage, slide: Slide, tile_px: int) -> Fragments:
    """Read a mask tile by tile and return its fragments."""
    shape = (mask.shape[0], mask.shape[1])
    down, across = (max(1, tile_px // side) * side if side <= 2 * tile_px else tile_px for side in slide.tile_px)
    tiles = list(tiles_of(shape, (down, across)))
    counter = _Counter(shape)
    for rows, columns in track(tiles, "Reading the mask"):
        counter.add(np.asarray(mask[rows, columns]), rows, columns)
        if counter.n_fragments > 20_000 and counter.noisy:
            break
    return counter.fragments()


class _Counter:
    """Counts the fragments of a mask, tile by tile in rows from the top."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.n_fragments = self.n_pixels = 0
        self._shape = shape
        self._borders = np.zeros(shape[0], np.int64), np.zeros(shape[1], np.int64)
        self._inside = np.zeros(shape[0], np.int64), np.zeros(shape[1], np.int64)
        self._found: list[tuple[np.ndarray, ...]] = []
        self._joins: list[np.ndarray] = []  # (2, n): fragments that belong together
        # Labels and fragments of the last row of the tiles above, and of this row of tiles, with one more pixel at each
        # end; and of the last column of the tile to the left.
        self._above, self._below = np.zeros((2, 2, shape[1] + 2), np.int64)
        self._left_edge = np.zeros((2, 0), np.int64)

    @property
    def noisy(self) -> bool:
        """Whether fragments are too small for cells."""
        return self.n_fragments > 200 and self.n_pixels < 4 * self.n_fragments

    def add(self, labels: np.ndarray, rows: slice, columns: slice) -> None:
        """Count the fragments of a tile."""
        fragments, n = label_connected(labels, background=0, connectivity=2, return_num=True)
        inside = fragments.ravel() > 0
        number = fragments.ravel()[inside] - 1
        ids, areas = np.zeros(n, labels.dtype), np.bincount(number, minlength=n)
        ids[number] = labels.ravel()[inside]
        y, x = (
            np.bincount(number, weights=np.broadcast_to(along, labels.shape).ravel()[inside], minlength=n) / areas
            for along in np.ogrid[rows, columns]
        )
        self._found.append((ids, areas, y, x))

        def edge(row: slice | int, column: slice | int) -> np.ndarray:
            of_edge = fragments[row, column].astype(np.int64)
            of_edge = np.where(of_edge > 0, of_edge + self.n_fragments, 0)
            return np.stack([labels[row, column], of_edge]).astype(np.int64)

        if columns.start == 0:
            self._above, self._below = self._below, np.zeros_like(self._below)
        if rows.start:
            self._join(edge(0, slice(None)), self._above[:, columns.start : columns.stop + 2], 0, rows.start)
        if columns.start:
            self._join(edge(slice(None), 0), np.pad(self._left_edge, ((0, 0), (1, 1))), 1, columns.start)
        self._below[:, columns.start + 1 : columns.stop + 1] = edge(-1, slice(None))
        self._left_edge = edge(slice(None), -1)

        self._borders[0][rows.start + 1 : rows.stop] += (labels[1:] != labels[:-1]).sum(axis=1)
        self._borders[1][columns.start + 1 : columns.stop] += (labels[:, 1:] != labels[:, :-1]).sum(axis=0)
        self._inside[0][rows] += (labels > 0).sum(axis=1)
        self._inside[1][columns] += (labels > 0).sum(axis=0)
        self.n_fragments, self.n_pixels = self.n_fragments + n, self.n_pixels + len(number)

    def _join(self, edge: np.ndarray, others: np.ndarray, axis: int, line: int) -> None:
        """Record which fragments continue beyond the edge of a tile; ``others`` is one pixel longer at both ends."""
        for step in range(3):  # fragments touch at corners too
            other = others[:, step : step + edge.shape[1]]
            same = (edge[0] == other[0]) & (edge[0] > 0)
            self._joins.append(np.unique(np.stack([edge[1, same], other[1, same]]), axis=1))
        self._borders[axis][line] += (edge[0] != others[0, 1:-1]).sum()

    def fragments(self) -> Fragments:
        """Return the fragments, joined over tiles."""
        ids, areas, y, x = (np.concatenate(one) for one in zip(*self._found, strict=True))
        if self._joins and not self.noisy:
            pairs = np.concatenate(self._joins, axis=1) - 1
            size = (self.n_fragments, self.n_fragments)
            graph = coo_array((np.ones(pairs.shape[1], np.uint8), (pairs[0], pairs[1])), shape=size)
            n, whole = connected_components(graph, directed=False)
            total = np.bincount(whole, weights=areas, minlength=n)
            y, x = (np.bincount(whole, weights=areas * one, minlength=n) / total for one in (y, x))
            joined = np.zeros(n, ids.dtype)
            joined[whole] = ids
            ids, areas = joined, total
        return Fragments(self._shape, ids, areas, y, x, self._borders, self._inside, self.noisy)


def tiles_of(shape: tuple[int, ...], tile_px: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """Yield the rows and columns of each tile of a mask whose fragments are counted."""
    for top in range(0, shape[0], tile_px[0]):
        for left in range(0, shape[1], tile_px[1]):
            yield slice(top, min(shape[0], top + tile_px[0])), slice(left, min(shape[1], left + tile_px[1]))
