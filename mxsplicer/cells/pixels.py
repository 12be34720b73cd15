"""Which pixels of a tile belong to which cell, and to which part of it: all of it, its rim, what lies around it.

Labels are cut into runs, stretches of one row that carry one label; there are some twenty times fewer of them than
pixels. A :class:`Region` lists pixels cell by cell, so that any channel is measured by one look-up and one sum.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Runs:
    """Stretches of one row that carry one label, sorted by label, then by row; background is left out."""

    labels: np.ndarray
    y: np.ndarray
    x: np.ndarray  # of the first pixel
    n: np.ndarray  # pixels

    def __len__(self) -> int:
        return len(self.labels)

    def numbered(self, known: np.ndarray) -> "Runs":
        """Return the runs of the labels in ``known`` (ascending), each label replaced by its place there."""
        places = np.searchsorted(known, self.labels)
        found = known[np.minimum(places, len(known) - 1)] == self.labels
        return Runs(places[found], self.y[found], self.x[found], self.n[found])


@dataclass(frozen=True)
class Region:
    """Pixels of a tile, cell by cell; a pixel may be in the region of several cells."""

    cells: np.ndarray  # (n,) ascending
    starts: np.ndarray  # (n,) where the pixels of each begin
    counts: np.ndarray  # (n,) at least 1
    pixels: np.ndarray  # places in the flattened tile

    def where(self, inside: np.ndarray) -> "Region":
        """Return the part of the region whose pixels are ``inside``, one boolean per entry of ``pixels``."""
        if not len(self.cells):
            return self
        counts = np.add.reduceat(inside, self.starts, dtype=np.int64)
        cells, counts = self.cells[counts > 0], counts[counts > 0]
        return Region(cells, np.cumsum(counts) - counts, counts, self.pixels[inside])


def cut_into_runs(labels: np.ndarray) -> Runs:
    """Return the runs of a label image (Y, X)."""
    first = np.ones(labels.shape, dtype=bool)  # of its run; a run ends with its row
    np.not_equal(labels[:, 1:], labels[:, :-1], out=first[:, 1:])
    starts = np.flatnonzero(first)
    of_run = labels.ravel()[starts]
    chosen = np.flatnonzero(of_run)
    chosen = chosen[np.argsort(of_run[chosen], kind="stable")]
    y, x = np.divmod(starts[chosen], labels.shape[1])
    return Runs(of_run[chosen], y, x, np.diff(starts, append=labels.size)[chosen])


def whole(runs: Runs, width: int) -> Region:
    """Return all pixels of the runs of a tile of that width."""
    return _expanded(runs.labels, runs.y * width + runs.x, runs.n)


def find_rim(labels: np.ndarray, radius_px: float) -> np.ndarray:
    """Return which pixels lie at most ``radius_px`` from a pixel of another label, centre to centre.

    Pixels beyond the image count as no other label.

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


def around(runs: Runs, own: Runs, radius_px: float, top: int, left: int, shape: tuple[int, int]) -> Region:
    """Return what lies within ``radius_px`` of each cell and is not the cell, in a tile and its flattened pixels.

    Parameters
    ----------
    runs
        Of a window that reaches ``radius_px`` beyond the tile.
    own
        Of the tile alone.
    radius_px
        From centre to centre of pixels.
    top, left
        Where the tile begins in the window.
    shape
        Of the tile.
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
        return Region(*(np.empty(0, dtype=np.int64) for _ in range(4)))
    apart = np.flatnonzero(first[1:] > last[:-1])  # stretches overlap; of their union these are the gaps
    first, last = np.append(first[0], first[apart + 1]), np.append(last[apart], last[-1])
    # Take the cell itself out: where it begins a stretch ends, and where it ends one begins.
    own_first = place(own.labels, own.y, own.x)
    first = np.sort(np.concatenate([first, own_first + own.n]))
    last = np.sort(np.concatenate([last, own_first]))
    first, last = first[first < last], last[first < last]
    row, x = np.divmod(first, stride)
    cells, y = np.divmod(row, height)
    return _expanded(cells, y * width + x, last - first)


def _rows_of_disc(radius_px: float) -> list[tuple[int, int]]:
    # Of each row its place and half its width.
    reach = int(radius_px + 1e-9)
    return [(dy, int(np.sqrt(max(0.0, radius_px**2 - dy**2)) + 1e-9)) for dy in range(-reach, reach + 1)]


def _expanded(cells: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> Region:
    """Return the region of stretches of pixels that are sorted by cell."""
    if not len(cells):
        return Region(*(np.empty(0, dtype=np.int64) for _ in range(4)))
    before = np.cumsum(lengths) - lengths
    pixels = np.arange(lengths.sum())
    pixels += np.repeat(starts - before, lengths)
    bounds = np.flatnonzero(np.diff(cells, prepend=-1))
    return Region(cells[bounds], before[bounds], np.add.reduceat(lengths, bounds), pixels)
