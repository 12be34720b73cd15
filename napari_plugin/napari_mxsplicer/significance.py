"""Which correlations are no larger than chance brings, where so many are looked at."""

import numpy as np

_RATE = 0.05


def by_chance(p: np.ndarray, *, rate: float = _RATE) -> np.ndarray:
    """Return which of many tests are not significant at a false discovery rate.

    Benjamini & Hochberg 1995 (Journal of the Royal Statistical Society B 57:289); p-values may have any shape, and
    those that are NaN are not significant.
    """
    flat = np.nan_to_num(np.asarray(p, dtype=np.float64).ravel(), nan=1.0)
    ordered = np.sort(flat)
    passed = np.flatnonzero(ordered <= rate * np.arange(1, len(flat) + 1) / max(len(flat), 1))
    limit = ordered[passed[-1]] if len(passed) else -1.0
    return np.asarray((flat > limit).reshape(np.shape(p)))
