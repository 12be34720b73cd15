"""The map of correlations over some of the cells, some features at a time."""

from collections.abc import Generator

import numpy as np
from scipy.stats import rankdata

from mxsplicer import InputError
from mxsplicer.tl import partial_correlation
from napari_mxsplicer.study import Study

KINDS = ("Pearson", "Spearman", "partial")
_AT_ONCE = 16  # features
_FEWEST = 3


def correlate_rows(
    study: Study, rows: np.ndarray, *, kind: str = "Pearson"
) -> Generator[tuple[int, int], None, np.ndarray]:
    """Correlate every marker with every feature over some cells; yield how far it is, return r (markers, features).

    The partial correlation is that of :func:`mxsplicer.tl.correlate`; the light around a cell is that of all cells,
    chosen or not. What has one value in all of these cells follows nothing: 0.

    Raises
    ------
    InputError
        If there are fewer than three cells, or the partial correlation lacks the places of the cells.
    """
    if len(rows) < _FEWEST:
        msg = f"{len(rows)} cells are too few for a correlation; choose at least {_FEWEST}."
        raise InputError(msg)
    ranks = kind == "Spearman"
    markers = _standardised(np.stack([study.marker(name)[rows] for name in study.markers]), ranks)
    light = _standardised(study.light[rows].T, ranks=False) if kind == "partial" else markers[:0]
    known = np.concatenate([markers, light])  # (m or 2 m, n)
    r = np.zeros((len(known), study.n_features))
    for first in range(0, study.n_features, _AT_ONCE):
        last = min(first + _AT_ONCE, study.n_features)
        r[:, first:last] = known @ _standardised(study.feature_block(first, last)[:, rows], ranks).T
        yield last, study.n_features
    if kind == "partial":
        n, given = len(markers), [study.markers.index(name) for name in study.confounders]
        r = partial_correlation(r[:n], markers @ markers.T, markers @ light.T, r[n:], given)
    return r.astype(np.float32)


def _standardised(values: np.ndarray, ranks: bool) -> np.ndarray:
    """Return rows of mean 0 and length 1, those of one value as zeros."""
    values = np.asarray(rankdata(values, axis=1) if ranks else values, dtype=np.float64)
    values = values - values.mean(axis=1, keepdims=True)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    constant = length <= 1e-6 * np.sqrt(values.shape[1]) * np.abs(values).max(axis=1, keepdims=True, initial=0)
    return np.asarray(np.divide(values, length, out=np.zeros_like(values), where=(length > 0) & ~constant))
