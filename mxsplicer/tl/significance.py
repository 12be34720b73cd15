"""The significance of a correlation: p-values for fields of the same tissue, where neighbouring cells are similar.

A thousand neighbouring cells of one gland carry little more information than one of them, so a p-value for independent
cells is far too small. Under the null, one field is shifted against the other by every vector, so each keeps its
spatial autocorrelation, but the two are unrelated. No shift has to be computed: the variance of the sum of products is
the sum, over all pairs of cells, of the product of the two autocovariances at their distance (Clifford, Richardson,
Hémon 1989, Biometrics 45:123, equation 2). With the effective number of cells that gives this variance, r follows
Student's t (Dutilleul 1993, Biometrics 49:305). Unlike shifts on a torus, this neither joins opposite edges of the
tissue nor needs a rectangle.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from scipy.special import stdtr

_MAX_BINS = 384  # along the longer side of the raster of a slide; several slides share as many bins as one has
_BATCH = 16  # fields transformed at once
_NEAR = 3  # bins; the raster gives the distance of closer pairs poorly, so a sample of these is computed exactly
_N_NEAR_PAIRS = 200_000
_RATIO = 1.3  # between the upper and lower distance of a class of pairs
# Share of the longest distance of a single slide up to which pairs count, as for variograms. The autocovariance at
# larger distances is estimated poorly, because the mean of the same cells was subtracted: with these pairs, fields that
# are similar over a fifth of the slide are called significant half as often as they should be. Several slides may
# differ as a whole, so all their pairs count.
_REACH = 0.5


@dataclass(frozen=True, eq=False)
class PairClasses:
    """Pairs of cells in classes by distance, and the autocovariance of fields in each, for the significance.

    Attributes
    ----------
    n_cells
        Number of cells.
    n_pairs
        Number of ordered pairs of different cells in each class (K,), estimated for near classes.
    counted
        Share of each class that counts for the null (K,): 0 beyond half of a single slide's longest distance.
    upper_um
        Upper distance of each class (K,), in the unit of the points.
    """

    n_cells: int
    n_pairs: np.ndarray
    counted: np.ndarray
    upper_um: np.ndarray
    near: "_NearPairs"
    rasters: tuple["_Raster", ...]

    def autocovariance(self, fields: np.ndarray) -> np.ndarray:
        """Return the mean product of the cells of a pair for every field and class (F, K).

        Parameters
        ----------
        fields
            Standardised values (N, F): mean 0 and variance 1 over all cells.
        """
        sums = self.near.sum_products(fields, len(self.n_pairs))
        for raster in self.rasters:
            sums += raster.sum_products(fields)
        out: np.ndarray = np.divide(sums, self.n_pairs, out=np.zeros_like(sums), where=self.n_pairs > 0)
        return out

    def effective_cells(self, of_a: np.ndarray, of_b: np.ndarray) -> np.ndarray:
        """Return the number of independent cells for which r has the same variance (A, B), between 3 and N.

        Parameters
        ----------
        of_a, of_b
            Autocovariances (A, K) and (B, K).
        """
        # Each cell with itself, and every pair. The variance is at least that of independent cells.
        variance = 1 + (of_a * (self.n_pairs * self.counted / self.n_cells)) @ of_b.T
        return np.asarray(np.clip(self.n_cells / np.maximum(variance, 1.0), 3.0, self.n_cells))


def p_values(r: np.ndarray, n_effective: np.ndarray) -> np.ndarray:
    """Return the significance of correlations r: two-sided p-values by Student's t, effective number of cells."""
    degrees = n_effective - 2
    t = np.abs(r) * np.sqrt(degrees / np.maximum(1 - np.square(r, dtype=np.float64), 1e-12))
    p: np.ndarray = 2 * stdtr(degrees, -t)
    return p


def classify_pairs(points: np.ndarray, slides: np.ndarray | None = None, *, seed: int = 0) -> PairClasses:
    """Sort the pairs of cells of each slide into classes by distance, which significance depends on.

    Parameters
    ----------
    points
        Centroids of the cells (N, 2), in µm.
    slides
        Index of the slide of each cell (N,); only cells of one slide form pairs.
    seed
        Seed of the sample of near pairs.
    """
    points = np.asarray(points, dtype=np.float64)
    slides = np.zeros(len(points), dtype=np.int64) if slides is None else slides
    rows = [np.flatnonzero(slides == slide) for slide in np.unique(slides)]
    extents = [np.ptp(points[some], axis=0) for some in rows]
    spacing = np.sqrt(sum(float(np.prod(extent)) for extent in extents) / len(points))
    width = max(max(float(extent.max()) for extent in extents) * np.sqrt(len(rows)) / _MAX_BINS, 1.5 * spacing, 1e-9)
    longest = max(float(np.hypot(*extent)) for extent in extents)
    farthest = longest + 2 * width
    upper = [max(0.7 * spacing, 0.01 * width)]  # the spacing is 0 for cells in a row, or one cell per slide
    while upper[-1] < farthest:
        upper.append(upper[-1] * _RATIO)
    upper_um = np.array(upper)

    rng = np.random.default_rng(seed)
    rasters, near = [], []
    for some in rows:
        raster, bins = _rasterise(points[some], some, width, upper_um)
        rasters.append(raster)
        near.append(_draw_near_pairs(some, bins, raster.shape, max(1, _N_NEAR_PAIRS * len(some) // len(points)), rng))
    pairs = _NearPairs.joined(near, points, upper_um)
    n_pairs = pairs.n_pairs(len(upper_um)) + sum(raster.n_pairs for raster in rasters)
    lower_um = np.concatenate([[0.0], upper_um[:-1]])
    reach = _REACH * longest if len(rows) == 1 else np.inf
    counted = np.clip((min(reach, upper_um[-1]) - lower_um) / (upper_um - lower_um), 0, 1)
    return PairClasses(len(points), n_pairs, counted, upper_um, pairs, tuple(rasters))


@dataclass(frozen=True, eq=False)
class _Raster:
    """The cells of a slide in square bins, for the significance over pairs whose bins are more than ``_NEAR`` apart."""

    rows: np.ndarray  # cells of this slide, sorted by bin
    starts: np.ndarray  # index in ``rows`` of the first cell of each occupied bin
    occupied: np.ndarray  # flat indices of these bins
    shape: tuple[int, int]
    padded: tuple[int, int]  # twice as large, so that shifts do not wrap around
    of_lags: Any  # (Q, K) float32: weight of the power at each frequency in each class
    n_pairs: np.ndarray  # (K,)

    def sum_products(self, fields: np.ndarray) -> np.ndarray:
        """Return the sum of products over the pairs of each class (F, K)."""
        of_bins = np.add.reduceat(fields[self.rows], self.starts, axis=0, dtype=np.float32)  # (bins, F)
        image = np.zeros(self.shape, dtype=np.float32)
        sums = []
        for first in range(0, fields.shape[1], _BATCH):
            powers = []
            for values in of_bins[:, first : first + _BATCH].T:
                image.ravel()[self.occupied] = values
                powers.append(_power(image, self.padded))
            sums.append(np.stack(powers) @ self.of_lags)
        return np.concatenate(sums, dtype=np.float64)


def _power(image: np.ndarray, padded: tuple[int, int]) -> np.ndarray:
    spectrum = scipy.fft.rfft2(image, padded)
    return np.asarray(spectrum.real**2 + spectrum.imag**2).ravel()


def _rasterise(points: np.ndarray, rows: np.ndarray, width: float, upper_um: np.ndarray) -> tuple[_Raster, np.ndarray]:
    """Return the raster of a slide for significance, which counts far pairs, and the bin (y, x) of its cells."""
    bins = np.floor((points - points.min(axis=0)) / width).astype(np.int64)[:, ::-1]
    shape = (int(bins[:, 0].max()) + 1, int(bins[:, 1].max()) + 1)
    flat = bins[:, 0] * shape[1] + bins[:, 1]
    order = np.argsort(flat, kind="stable")
    occupied, starts = np.unique(flat[order], return_index=True)
    padded = (scipy.fft.next_fast_len(2 * shape[0], real=True), scipy.fft.next_fast_len(2 * shape[1], real=True))
    lag_y, lag_x = (np.minimum(np.arange(n), n - np.arange(n)) for n in padded)
    distance = np.hypot(lag_y[:, None], lag_x[None, :])
    # By Parseval's theorem a sum over lags is a sum over frequencies, so no inverse transform is needed.
    of_class = np.where(distance > _NEAR, np.searchsorted(upper_um, distance * width), -1)
    columns = []
    for number in range(len(upper_um)):
        transform = scipy.fft.rfft2((of_class == number).astype(np.float32)).real
        transform[:, 1 : (padded[1] + 1) // 2] *= 2  # rfft2 omits the other half of the spectrum
        columns.append(transform.ravel() / np.prod(padded))
    of_lags = np.stack(columns, axis=1).astype(np.float32)
    raster = _Raster(rows[order], starts, occupied, shape, padded, of_lags, np.zeros(len(upper_um)))
    counts = np.zeros(shape, dtype=np.float32)
    counts.ravel()[occupied] = np.diff(starts, append=len(rows))
    power = _power(counts, padded).astype(np.float64)
    n_pairs = np.maximum(np.array([power @ column for column in columns]), 0)
    return _Raster(raster.rows, starts, occupied, shape, padded, of_lags, np.round(n_pairs)), bins


@dataclass(frozen=True, eq=False)
class _NearPairs:
    """A sample of near pairs for significance, at most ``_NEAR`` bins apart, and how many pairs each represents."""

    first: np.ndarray  # rows (P,)
    second: np.ndarray
    weight: np.ndarray
    of_class: np.ndarray

    @classmethod
    def joined(
        cls, parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]], points: np.ndarray, upper_um: np.ndarray
    ) -> "_NearPairs":
        first, second, weight = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        of_class = np.searchsorted(upper_um, np.hypot(*(points[first] - points[second]).T))
        order = np.argsort(of_class, kind="stable")
        return cls(first[order], second[order], weight[order], of_class[order])

    def n_pairs(self, n_classes: int) -> np.ndarray:
        return np.bincount(self.of_class, weights=self.weight, minlength=n_classes)

    def sum_products(self, fields: np.ndarray, n_classes: int) -> np.ndarray:
        products = fields[self.first] * fields[self.second]
        products *= self.weight[:, None].astype(np.float32)
        sums = np.zeros((fields.shape[1], n_classes))
        if len(products):
            classes, starts = np.unique(self.of_class, return_index=True)
            sums[:, classes] = np.add.reduceat(products, starts, axis=0, dtype=np.float64).T
        return sums


def _draw_near_pairs(
    rows: np.ndarray,
    bins: np.ndarray,
    shape: tuple[int, int],
    n: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw pairs for significance: ``n`` times a cell, and a cell of a bin near its own; their rows and weights."""
    steps = np.arange(-_NEAR, _NEAR + 1)
    offsets = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
    offsets = offsets[np.hypot(*offsets.T) <= _NEAR]
    flat = bins[:, 0] * shape[1] + bins[:, 1]
    order = np.argsort(flat, kind="stable")
    bounds = np.searchsorted(flat[order], np.arange(shape[0] * shape[1] + 1))
    first = rng.integers(0, len(rows), n)
    other = bins[first] + offsets[rng.integers(0, len(offsets), n)]
    inside = ((other >= 0) & (other < shape)).all(axis=1)
    first, other = first[inside], other[inside]
    other_bin = other[:, 0] * shape[1] + other[:, 1]
    count = bounds[other_bin + 1] - bounds[other_bin]
    second = order[np.minimum(bounds[other_bin] + (rng.random(len(first)) * count).astype(np.int64), len(rows) - 1)]
    kept = (count > 0) & (first != second)
    weight = count * (len(offsets) * len(rows) / n)
    return rows[first[kept]], rows[second[kept]], weight[kept]
