"""Gates: the histogram of a marker, a threshold in it, and the cells on one side of the threshold."""

from dataclasses import dataclass

import numpy as np
from skimage.filters import threshold_otsu

_N_BINS = 80
_ENOUGH = 100_000  # cells from which a threshold or a mean is estimated


@dataclass(frozen=True, eq=False)
class Histogram:
    """How many cells have which intensity of a marker to gate.

    Bins are equally wide in the logarithm of 1 + intensity, unless intensities are negative.
    """

    counts: np.ndarray  # (bins,)
    edges: np.ndarray  # (bins + 1,) as drawn
    is_log: bool

    def place(self, value: float) -> float:
        """Return where an intensity is drawn."""
        return float(np.log1p(max(value, 0))) if self.is_log else float(value)

    def value(self, place: float) -> float:
        """Return the intensity drawn at a place."""
        return float(np.expm1(place)) if self.is_log else float(place)


def histogram(values: np.ndarray) -> Histogram:
    """Count intensities (n,) of cells to gate; NaN is left out."""
    values = values[np.isfinite(values)]
    is_log = bool(values.size) and bool(values.min() >= 0)
    places = np.log1p(values) if is_log else values
    counts, edges = np.histogram(places, bins=_N_BINS, range=None if values.size else (0, 1))
    return Histogram(counts, edges, is_log)


def proposed_threshold(values: np.ndarray) -> float:
    """Return the threshold that best separates two groups of cells to gate: that of Otsu 1979, of log intensities."""
    values = values[np.isfinite(values)][:: max(1, len(values) // _ENOUGH)]
    if not values.size or values.min() == values.max():
        return float(values[0]) if values.size else 0.0
    return float(np.expm1(threshold_otsu(np.log1p(values)))) if values.min() >= 0 else float(threshold_otsu(values))


def gated_rows(values: np.ndarray, threshold: float, *, above: bool, among: np.ndarray | None = None) -> np.ndarray:
    """Return the rows of the cells on one side of a gate, ascending: at least the threshold, or below it.

    Parameters
    ----------
    values
        Intensity (N,) of each cell; cells without one are on neither side.
    threshold
        In the same unit.
    above
        Which side.
    among
        Rows to choose from; all cells by default.
    """
    some = values if among is None else values[among]
    found = np.flatnonzero(some >= threshold if above else some < threshold)
    return found if among is None else np.asarray(among[found])


def raised_markers(intensities: np.ndarray, rows: np.ndarray, *, n: int = 3) -> np.ndarray:
    """Return the ``n`` markers of intensities (markers, N) that are raised most in some cells, in all others as a gate.

    The difference of the means of log intensities is divided by the standard deviation over all cells; markers that
    are not raised are left out.
    """
    is_inside = np.zeros(intensities.shape[1], dtype=bool)
    is_inside[rows] = True
    share = is_inside.mean()
    if not 0 < share < 1:
        return np.zeros(0, dtype=np.int64)
    groups = [np.flatnonzero(is_inside), np.flatnonzero(~is_inside)]
    some = [group[:: max(1, len(group) // _ENOUGH)] for group in groups]
    inside, outside = (np.log1p(np.maximum(intensities[:, group], 0)) for group in some)
    difference = inside.mean(axis=1) - outside.mean(axis=1)
    within = share * inside.var(axis=1) + (1 - share) * outside.var(axis=1)
    sd = np.sqrt(within + share * (1 - share) * difference**2)  # over all cells
    effect = np.divide(difference, sd, out=np.zeros_like(difference), where=sd > 0)
    best = np.argsort(-effect, kind="stable")[:n]
    return np.asarray(best[effect[best] > 0])
