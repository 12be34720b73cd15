"""Statistics of the pixels of each cell: which are computed, and how."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mxsplicer.cells.pixels import CellPixels
from mxsplicer.errors import InputError

COMPARTMENTS = ("ring", "nucleus", "surroundings")  # whose means can be computed, next to that of the whole cell
_PERCENTILE = re.compile(r"p(\d+(?:\.\d+)?)")
# Memory of a tile, next to the image; of crowded tissue.
_BYTES_PER_PX = {"mean": 30, "ring": 12, "nucleus": 15, "pixels": 40}
_BYTES_PER_PX_AROUND = 6  # for each row of the disc of surroundings


@dataclass(frozen=True)
class Statistics:
    """What is computed of each cell in each marker, in addition to the mean."""

    names: tuple[str, ...]
    rim_px: float
    around_px: float

    @classmethod
    def of(cls, statistics: Sequence[str], rim_px: float, around_px: float) -> "Statistics":
        """Check the names of statistics; both distances are at least one pixel."""
        names = tuple(dict.fromkeys(name for name in statistics if name != "mean"))
        for name in names:
            found = _PERCENTILE.fullmatch(name)
            if not (name in ("median", "sum", "std", *COMPARTMENTS) or (found and float(found[1]) <= 100)):
                msg = f"{name!r} is not a statistic of cells."
                known = f"mean, median, sum, std, {', '.join(COMPARTMENTS)} or a percentile, p0 to p100"
                raise InputError(msg, f"Choose {known}.")
        return cls(names, max(1.0, rim_px), max(1.0, around_px))

    @property
    def compartments(self) -> tuple[str, ...]:
        """Compartments whose mean is computed."""
        return tuple(name for name in COMPARTMENTS if name in self.names)

    @property
    def of_all_pixels(self) -> tuple[str, ...]:
        """Statistics that need all pixels of a cell at once, since they cannot be summed over tiles."""
        return tuple(name for name in self.names if name not in ("sum", *COMPARTMENTS))

    @property
    def bytes_per_px(self) -> float:
        """Memory per pixel of a tile, in addition to the image."""
        kinds = {"mean", *self.compartments} | ({"pixels"} if self.of_all_pixels else set())
        around = _BYTES_PER_PX_AROUND * (2 * self.around_px + 1) if "surroundings" in kinds else 0
        return around + sum(_BYTES_PER_PX[kind] for kind in kinds - {"surroundings"})

    @property
    def halo_px(self) -> int:
        """How far beyond a tile the mask is needed."""
        reaches = {"ring": self.rim_px, "surroundings": self.around_px}
        return max((int(reach) + 1 for name, reach in reaches.items() if name in self.names), default=0)


def sum_by_cell(values: np.ndarray, pixels: CellPixels) -> np.ndarray:
    """Return the statistic that others are made of: the sum over each cell of ``values``, listed cell by cell."""
    sums: np.ndarray = np.add.reduceat(values, pixels.starts, dtype=np.float64)
    return sums


def pixel_statistics(values: np.ndarray, pixels: CellPixels, names: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name and the values of each statistic; ``values`` are those of one marker, listed cell by cell."""
    if not len(pixels.cells):
        return
    quantiles = {name: 50.0 if name == "median" else float(name[1:]) for name in names if name != "std"}
    if "std" in names:
        deviations = values - np.repeat(sum_by_cell(values, pixels) / pixels.counts, pixels.counts)
        yield "std", np.sqrt(sum_by_cell(np.square(deviations, out=deviations), pixels) / pixels.counts)
    if quantiles:
        yield from _percentiles(values, pixels, quantiles)


def _percentiles(
    values: np.ndarray, pixels: CellPixels, percents: Mapping[str, float]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield percentiles, one statistic of each cell, with linear interpolation, as NumPy by default."""
    found = {name: np.empty(len(pixels.cells)) for name in percents}
    last = np.inf if values.dtype.kind == "f" else np.iinfo(values.dtype).max
    # Cells of similar size are the rows of a matrix: many short rows are sorted faster than all pixels at once.
    size = np.ceil(np.log(pixels.counts) / np.log(1.2)).astype(np.int64)
    for group in np.split(np.argsort(size, kind="stable"), np.flatnonzero(np.diff(np.sort(size))) + 1):
        counts = pixels.counts[group, None]
        pixel = np.arange(counts.max())
        rows = values.take(pixels.starts[group, None] + np.minimum(pixel, counts - 1))
        rows[pixel >= counts] = last
        rows.sort(axis=1)
        for name, percent in percents.items():
            place = (counts - 1) * (percent / 100)
            below = np.floor(place).astype(np.int64)
            low = np.take_along_axis(rows, below, axis=1).astype(np.float64)
            high = np.take_along_axis(rows, np.minimum(below + 1, counts - 1), axis=1)
            found[name][group] = (low + (high - low) * (place - below))[:, 0]
    yield from found.items()
