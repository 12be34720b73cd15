"""The features that correlate most with a marker, the markers that correlate most with a feature, and intervals.

Neighbouring cells are similar, so that intervals for independent cells would be far too narrow: blocks of the slide
are resampled instead (block bootstrap, Künsch 1989, Annals of Statistics 17:1217).
"""

from dataclasses import dataclass

import numpy as np

from napari_mxsplicer.study import Study

_BLOCKS = 12  # along the longer side of a slide
_DRAWS = 300


@dataclass(frozen=True)
class Partner:
    """A marker or a feature, its correlation, and the 95 % interval of the bootstrap."""

    name: str
    r: float
    low: float
    high: float
    n: int


def best(r: np.ndarray, *, n: int = 5) -> np.ndarray:
    """Return the indices of the correlations that are largest in absolute value, largest first."""
    return np.argsort(-np.abs(np.nan_to_num(r)), kind="stable")[:n]


def partners_of_marker(study: Study, which: int, r: np.ndarray, rows: np.ndarray) -> list[Partner]:
    """Return the features with the strongest ``r`` (markers, features) with a marker, and intervals over ``rows``."""
    x = study.marker(study.markers[which])[rows]
    found = [(int(place), study.feature(int(place))[rows]) for place in best(r[which])]
    return [_partner(f"feature {place}", x, y, blocks_of(study, rows)) for place, y in found]


def partners_of_feature(study: Study, which: int, r: np.ndarray, rows: np.ndarray) -> list[Partner]:
    """Return the markers with the strongest ``r`` (markers, features) with a feature, and intervals over ``rows``."""
    x = study.feature(which)[rows]
    names = [study.markers[place] for place in best(r[:, which])]
    return [_partner(name, x, study.marker(name)[rows], blocks_of(study, rows)) for name in names]


def blocks_of(study: Study, rows: np.ndarray) -> np.ndarray:
    """Return the block of the slide of each cell; without positions each cell is a block."""
    if study.xy_px is None or not len(rows):
        return np.arange(len(rows))
    xy = study.xy_px[rows]
    low, high = xy.min(axis=0), xy.max(axis=0)
    side = max(float((high - low).max()) / _BLOCKS, 1e-9)
    column, row = ((xy - low) / side).astype(np.int64).T
    slide = np.asarray(study.slides.codes, dtype=np.int64)[rows]
    _, block = np.unique((slide * (_BLOCKS + 1) + row) * (_BLOCKS + 1) + column, return_inverse=True)
    return np.asarray(block)


def interval(x: np.ndarray, y: np.ndarray, blocks: np.ndarray, *, seed: int = 0) -> tuple[float, float, float]:
    """Return Pearson's r of two values per cell and its interval by resampling blocks."""
    seen = np.isfinite(x) & np.isfinite(y)
    x, y, blocks = (one[seen] for one in (x, y, blocks))
    if len(x) < 3:
        return float("nan"), float("nan"), float("nan")
    x, y = (one.astype(np.float64) - one.mean(dtype=np.float64) for one in (x, y))
    sums = np.stack(
        [np.bincount(blocks, weights=one) for one in (np.ones_like(x), x, y, x * x, y * y, x * y)], axis=1
    )  # (blocks, 6)
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=_DRAWS)
    r = _r_of_sums(np.concatenate([sums.sum(axis=0)[None], draws @ sums]))
    low, high = np.percentile(r[1:], [2.5, 97.5])
    return float(r[0]), float(low), float(high)


def _partner(name: str, x: np.ndarray, y: np.ndarray, blocks: np.ndarray) -> Partner:
    r, low, high = interval(x, y, blocks)
    return Partner(name, r, low, high, int((np.isfinite(x) & np.isfinite(y)).sum()))


def _r_of_sums(sums: np.ndarray) -> np.ndarray:
    n, x, y, xx, yy, xy = sums.T
    n = np.maximum(n, 1)
    spread = np.sqrt(np.maximum(xx - x * x / n, 0) * np.maximum(yy - y * y / n, 0))
    return np.asarray(np.divide(xy - x * y / n, spread, out=np.zeros_like(spread), where=spread > 1e-12))
