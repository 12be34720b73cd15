"""Correlations of markers and features over some of the cells, and which of them are significant."""

from collections.abc import Generator

import numpy as np
from scipy.stats import false_discovery_control, rankdata

from mxsplicer import InputError
from mxsplicer.tl import partial_correlation
from napari_mxsplicer.study import Study

KINDS = ("Pearson", "Spearman", "partial")
_AT_ONCE = 16  # features
_FEWEST = 3  # cells
_FALSE_DISCOVERY_RATE = 0.05


def correlate_rows(
    study: Study, rows: np.ndarray, *, kind: str = "Pearson"
) -> Generator[tuple[int, int], None, np.ndarray]:
    """Correlate every marker with every feature over some cells; yield the progress, return r (markers, features).

    The partial correlation is that of :func:`mxsplicer.tl.correlate`; the neighbourhood intensity includes cells
    outside ``rows``. A marker or feature that is constant over these cells has r = 0.

    Raises
    ------
    InputError
        If there are fewer than three cells, or the partial correlation lacks the positions of the cells.
    """
    if len(rows) < _FEWEST:
        msg = f"{len(rows)} cells are too few for a correlation; select at least {_FEWEST}."
        raise InputError(msg)
    ranks = kind == "Spearman"
    markers = _standardized(np.stack([study.marker(name)[rows] for name in study.markers]), ranks)
    around = _standardized(study.neighbourhood_intensity[rows].T, ranks=False) if kind == "partial" else markers[:0]
    known = np.concatenate([markers, around])  # (m or 2 m, n)
    r = np.zeros((len(known), study.n_features))
    for first in range(0, study.n_features, _AT_ONCE):
        last = min(first + _AT_ONCE, study.n_features)
        r[:, first:last] = known @ _standardized(study.feature_block(first, last)[:, rows], ranks).T
        yield last, study.n_features
    if kind == "partial":
        n, given = len(markers), [study.markers.index(name) for name in study.confounders]
        r = partial_correlation(r[:n], markers @ markers.T, markers @ around.T, r[n:], given)
    return r.astype(np.float32)


def is_not_significant(p_values: np.ndarray) -> np.ndarray:
    """Return which of many tests are not significant at a false discovery rate of 5 %.

    Benjamini & Hochberg 1995 (Journal of the Royal Statistical Society B 57:289). ``p_values`` may have any shape; NaN
    is not significant.
    """
    p = np.nan_to_num(np.asarray(p_values, dtype=np.float64), nan=1.0)
    return np.asarray(false_discovery_control(p.ravel()).reshape(p.shape) > _FALSE_DISCOVERY_RATE)


def _standardized(values: np.ndarray, ranks: bool) -> np.ndarray:
    """Scale rows to mean 0 and length 1; constant rows become zeros."""
    values = np.asarray(rankdata(values, axis=1) if ranks else values, dtype=np.float64)
    values = values - values.mean(axis=1, keepdims=True)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    constant = length <= 1e-6 * np.sqrt(values.shape[1]) * np.abs(values).max(axis=1, keepdims=True, initial=0)
    return np.asarray(np.divide(values, length, out=np.zeros_like(values), where=(length > 0) & ~constant))
