"""Find the pixels of each cell in a tile: of the whole cell, its rim or its surroundings.

Labels are cut into runs, stretches of one row with one label; there are some twenty times fewer runs than pixels. A
:class:`CellPixels` lists pixels cell by cell, so that any channel is measured by one look-up and one sum.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PixelRuns:
    """Pixels as runs, stretches of one row that carry one label, sorted by label, then by row; no background."""

    labels: np.ndarray
    y: np.ndarray
    x: np.ndarray  # of the first pixel
    n: np.ndarray  # pixels

    def __len__(self) -> int:
        return len(self.labels)

    def numbered(self, known: np.ndarray) -> "PixelRuns":
        """Return the runs of the labels in ``known`` (ascending), each label replaced by its place there."""
        places = np.searchsorted(known, self.labels)
        found = known[np.minimum(places, len(known) - 1)] == self.labels
        return PixelRuns(places[found], self.y[found], self.x[found], self.n[found])


@dataclass(frozen=True)
class CellPixels:
    """Pixels of a tile, listed cell by cell; a pixel may be listed for several cells, as in their surroundings."""

    cells: np.ndarray  # (n,) ascending
    starts: np.ndarray  # (n,) index of the first pixel of each
    counts: np.ndarray  # (n,) at least 1
    indices: np.ndarray  # of pixels in the flattened tile

    def where(self, inside: np.ndarray) -> "CellPixels":
        """Return the pixels that are ``inside``, one boolean per entry of ``indices``."""
        if not len(self.cells):
            return self
        counts = np.add.reduceat(inside, self.starts, dtype=np.int64)
        cells, counts = self.cells[counts > 0], counts[counts > 0]
        return CellPixels(cells, np.cumsum(counts) - counts, counts, self.indices[inside])


def cut_into_runs(labels: np.ndarray) -> PixelRuns:
    """Return the pixels of each cell of a label image (Y, X) as runs, its stretches in each row."""
    first = np.ones(labels.shape, dtype=bool)  # of its run; a run ends with its row
    np.not_equal(labels[:, 1:], labels[:, :-1], out=first[:, 1:])
    starts = np.flatnonzero(first)
    of_run = labels.ravel()[starts]
    chosen = np.flatnonzero(of_run)
    chosen = chosen[np.argsort(of_run[chosen], kind="stable")]
    y, x = np.divmod(starts[chosen], labels.shape[1])
    return PixelRuns(of_run[chosen], y, x, np.diff(starts, append=labels.size)[chosen])


def whole_cells(runs: PixelRuns, width: int) -> CellPixels:
    """Return all pixels of the cells in a tile of that width, given their runs."""
    return _expanded(runs.labels, runs.y * width + runs.x, runs.n)


def find_rim(labels: np.ndarray, radius_px: float) -> np.ndarray:
    """Return which pixels lie at most ``radius_px`` from a pixel with another label, centre to centre.

    Pixels beyond the image do not count as another label.

    Examples
    --------
    >>> labels = np.zeros((5, 7), int)
    >>> labels[:, 1:6] = 1
    >>> (find_rim(labels, 1) & (labels > 0)).astype(int)[0].tolist()
    [0, 1, 0, 0, 0, 1, 0]
    """
    height, width = labels.shape
    same = labels[:, 1:] == labels[:, :-1]
    rows = _rows_of_disc(radius_px)
    inner = np.ones(labels.shape, dtype=bool)
    level = np.ones(labels.shape, dtype=bool)  # of one label from `half` pixels before to `half` pixels after
    for half in range(max(reach for _, reach in rows) + 1):
        if 0 < half < width:
            level[:, :-half] &= same[:, half - 1 :]
            level[:, half:] &= same[:, : width - half]
        for dy in (dy for dy, reach in rows if reach == half and abs(dy) < height):
            here, there = slice(max(0, -dy), height - max(0, dy)), slice(max(0, dy), height + min(0, dy))
            inner[here] &= (labels[there] == labels[here]) & level[there]
    return ~inner


def find_surroundings(
    runs: PixelRuns, own: PixelRuns, radius_px: float, top: int, left: int, shape: tuple[int, int]
) -> CellPixels:
    """Return the pixels of a tile within ``radius_px`` of each cell that are not pixels of the cell.

    Parameters
    ----------
    runs
        Runs of a window that reaches ``radius_px`` beyond the tile.
    own
        Runs of the tile.
    radius_px
        From centre to centre of pixels.
    top, left
        First row and column of the tile in the window.
    shape
        Height and width of the tile.
    """
    height, width = shape
    stride = width + 1  # so that a stretch that ends with its row does not touch one that begins the next row

    def place(cells: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        at: np.ndarray = (cells * height + y) * stride + x
        return at

    starts, ends = [], []
    for dy, half in _rows_of_disc(radius_px):
        y = runs.y + (dy - top)
        begin = np.maximum(runs.x - (half + left), 0)
        end = np.minimum(runs.x + runs.n + (half - left), width)
        inside = (y >= 0) & (y < height) & (begin < end)
        starts.append(place(runs.labels[inside], y[inside], begin[inside]))
        ends.append(place(runs.labels[inside], y[inside], end[inside]))
    first, last = np.sort(np.concatenate(starts)), np.sort(np.concatenate(ends))
    if not len(first):
        return CellPixels(*(np.empty(0, dtype=np.int64) for _ in range(4)))
    apart = np.flatnonzero(first[1:] > last[:-1])  # stretches overlap; these are the gaps of their union
    first, last = np.append(first[0], first[apart + 1]), np.append(last[apart], last[-1])
    # Remove the cell itself: where it begins a stretch ends, and where it ends a stretch begins.
    own_first = place(own.labels, own.y, own.x)
    first = np.sort(np.concatenate([first, own_first + own.n]))
    last = np.sort(np.concatenate([last, own_first]))
    first, last = first[first < last], last[first < last]
    row, x = np.divmod(first, stride)
    cells, y = np.divmod(row, height)
    return _expanded(cells, y * width + x, last - first)


def _rows_of_disc(radius_px: float) -> list[tuple[int, int]]:
    # The offset of each row, and half its width.
    reach = int(radius_px + 1e-9)
    return [(dy, int(np.sqrt(max(0.0, radius_px**2 - dy**2)) + 1e-9)) for dy in range(-reach, reach + 1)]


def _expanded(cells: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> CellPixels:
    """Return all pixels of runs that are sorted by cell."""
    if not len(cells):
        return CellPixels(*(np.empty(0, dtype=np.int64) for _ in range(4)))
    before = np.cumsum(lengths) - lengths
    pixels = np.arange(lengths.sum())
    pixels += np.repeat(starts - before, lengths)
    bounds = np.flatnonzero(np.diff(cells, prepend=-1))
    return CellPixels(cells[bounds], before[bounds], np.add.reduceat(lengths, bounds), pixels)
