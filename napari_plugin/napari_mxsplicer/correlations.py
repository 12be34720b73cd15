"""Correlations of markers and features: over some cells, around each cell, the strongest, and their order.

Neighbouring cells are similar, so that intervals for independent cells would be far too narrow: blocks of the slide
are resampled instead (block bootstrap, Künsch 1989, Annals of Statistics 17:1217).
"""

import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.cluster.hierarchy import leaves_list, linkage

import mxsplicer
from mxsplicer import InputError
from napari_mxsplicer.study import Study

KINDS = ("Pearson", "Spearman", "partial")
_AT_ONCE = 16  # features
_FEWEST = 3  # cells
_FALSE_DISCOVERY_RATE = 0.05

_BLOCKS = 12  # along the longer side of a slide
_DRAWS = 300

_BEST = 5  # features that a filter by a marker keeps if all correlate more with another marker
_BOUND = re.compile(r"\s*(\|?r\|?)?\s*([<>])\s*(-?[0-9.]+)\s*")


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
        from mxsplicer.tl import partial_correlation

        n, given = len(markers), [study.markers.index(name) for name in study.confounders]
        r = partial_correlation(r[:n], markers @ markers.T, markers @ around.T, r[n:], given)
    return r.astype(np.float32)


def is_not_significant(p_values: np.ndarray) -> np.ndarray:
    """Return which of the panel's correlations are not significant at a false discovery rate of 5 %.

    Benjamini & Hochberg 1995 (Journal of the Royal Statistical Society B 57:289). ``p_values`` may have any shape; NaN
    is not significant.
    """
    from scipy.stats import false_discovery_control  # a third of a second to load, after the first picture

    p = np.nan_to_num(np.asarray(p_values, dtype=np.float64), nan=1.0)
    return np.asarray(false_discovery_control(p.ravel()).reshape(p.shape) > _FALSE_DISCOVERY_RATE)


def _standardized(values: np.ndarray, ranks: bool) -> np.ndarray:
    """Scale rows to mean 0 and length 1, whose products are correlations; constant rows become zeros."""
    from scipy.stats import rankdata

    values = np.asarray(rankdata(values, axis=1) if ranks else values, dtype=np.float64)
    values = values - values.mean(axis=1, keepdims=True)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    constant = length <= 1e-6 * np.sqrt(values.shape[1]) * np.abs(values).max(axis=1, keepdims=True, initial=0)
    return np.asarray(np.divide(values, length, out=np.zeros_like(values), where=(length > 0) & ~constant))


def correlate_around_cells(study: Study, marker: str, feature: int, radius_um: float) -> np.ndarray:
    """Return the panel's correlation r (N,) of a marker and a feature around each cell, NaN where neighbours are few.

    Raises
    ------
    InputError
        If the table lacks positions in micrometres.
    """
    if study.spatial_um is None:
        msg = f"the local correlation needs positions in obsm['spatial'], not found in {study.cells.name}."
        raise InputError(msg)
    adata = AnnData(
        study.marker(marker)[:, None],
        obs=pd.DataFrame({"slide": study.slides}, index=pd.RangeIndex(study.n_cells).astype(str)),
        var=pd.DataFrame(index=[marker]),
        obsm={"spatial": study.spatial_um, "X_one": study.feature(feature)[:, None]},
    )
    name = mxsplicer.tl.local_correlation(adata, marker, 0, radius_um=radius_um, use_rep="X_one")
    return np.asarray(adata.obs[name], dtype=np.float32)


@dataclass(frozen=True)
class Partner:
    """A marker or a feature that correlates with another, its correlation, and the 95 % interval of the bootstrap."""

    name: str
    r: float
    low: float
    high: float
    n: int
    feature: int | None = None  # its number, if it is one


def strongest(r: np.ndarray, *, n: int = 5) -> np.ndarray:
    """Return the indices of the correlations that are largest in absolute value, largest first."""
    return np.argsort(-np.abs(np.nan_to_num(r)), kind="stable")[:n]


def partners_of_marker(study: Study, which: int, r: np.ndarray, rows: np.ndarray) -> list[Partner]:
    """Return the strongest correlations ``r`` (markers, features) of a marker, and intervals over ``rows``."""
    x = study.marker(study.markers[which])[rows]
    blocks = blocks_of(study, rows)
    return [
        replace(_partner(study.feature_names[place], x, study.feature(place)[rows], blocks), feature=place)
        for place in strongest(r[which]).tolist()
    ]


def partners_of_feature(study: Study, which: int, r: np.ndarray, rows: np.ndarray) -> list[Partner]:
    """Return the strongest correlations ``r`` (markers, features) of a feature, and intervals over ``rows``."""
    x, blocks = study.feature(which)[rows], blocks_of(study, rows)
    names = [study.markers[place] for place in strongest(r[:, which])]
    return [_partner(name, x, study.marker(name)[rows], blocks) for name in names]


def blocks_of(study: Study, rows: np.ndarray) -> np.ndarray:
    """Return the block of the slide of each cell, for intervals of correlations; each cell is one without positions."""
    if study.xy_px is None or not len(rows):
        return np.arange(len(rows))
    x, y = study.xy_px[rows].T
    side = max(float(max(np.ptp(x), np.ptp(y))) / _BLOCKS, 1e-9)
    column, row = (((one - one.min()) / side).astype(np.int64) for one in (x, y))
    slide = np.asarray(study.slides.codes, dtype=np.int64)[rows]
    block = (slide * (_BLOCKS + 1) + row) * (_BLOCKS + 1) + column
    number = np.cumsum(np.bincount(block) > 0) - 1  # without those that have no cells
    return np.asarray(number[block])


def interval(x: np.ndarray, y: np.ndarray, blocks: np.ndarray, *, seed: int = 0) -> tuple[float, float, float]:
    """Return Pearson's correlation r of two values per cell and its interval by resampling blocks."""
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


def cluster_order(r: np.ndarray, chunk_marker: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the order of the markers and of the features of correlations (markers, features).

    Markers are ordered by hierarchical clustering. Features are grouped by the marker they correlate with most, the
    strongest first. If ``chunk_marker`` (features,) gives the marker of each feature's leading chunk, or a number
    beyond the markers, features of one group are grouped by it, those of the marker's own chunk first.
    """
    rows = np.arange(len(r))
    r = np.nan_to_num(r)
    if len(r) > 2 and r.shape[1]:
        rows = np.asarray(leaves_list(linkage(r, method="average", optimal_ordering=len(r) < 200)))
    if not r.size:
        return rows, np.arange(r.shape[1])
    strongest = np.abs(r[rows]).argmax(axis=0)
    signed = r[rows][strongest, np.arange(r.shape[1])]
    if chunk_marker is None:
        return rows, np.lexsort((-signed, strongest))
    places = np.append(np.argsort(rows), np.arange(len(r), max(len(r), chunk_marker.max() + 1)))[chunk_marker]
    return rows, np.lexsort((-signed, places, places != strongest, strongest))


def filter_features(
    r: np.ndarray,
    markers: Sequence[str],
    text: str,
    *,
    names: Sequence[str] = (),
    by_marker: Mapping[str, np.ndarray] | None = None,
) -> np.ndarray:
    """Return the features whose correlations, numbers or names pass a filter, ascending.

    A filter is the name of a feature, or words separated by spaces, all of which must hold: ``12`` or ``10-20`` are
    numbers of features, and ``>0.4`` keeps those whose strongest correlation exceeds 0.4 in absolute value. ``CD8a``
    keeps the features that describe this marker (``by_marker``) or correlate most with it, or its five best if there
    are none; part of a marker's name stands for all markers that have it. Any other word is looked for in ``names``.
    """
    everything = np.arange(r.shape[1])
    if not r.size:
        return everything
    exact = [place for place, name in enumerate(names) if name.lower() == text.strip().lower()]
    if exact:
        return np.array(exact)
    absolute = np.abs(np.nan_to_num(r))
    strongest = absolute.max(axis=0)
    keep, numbers = np.ones(len(everything), dtype=bool), np.zeros(len(everything), dtype=bool)
    for word in text.split():
        span, bound = re.fullmatch(r"(\d+)(?:-(\d+))?", word), _BOUND.fullmatch(word)
        if span:
            numbers[int(span[1]) : int(span[2] or span[1]) + 1] = True
        elif bound:
            keep &= strongest > float(bound[3]) if bound[2] == ">" else strongest < float(bound[3])
        elif named := _named_by(word, markers):
            keep &= _of_markers(
                absolute, named, described_by=[(by_marker or {}).get(markers[place]) for place in named]
            )
        else:
            keep &= np.array([word.lower() in name.lower() for name in names] or [False] * len(everything))
    return np.flatnonzero(keep & numbers if re.search(r"(?<!\S)\d+(-\d+)?(?!\S)", text) else keep)


def _named_by(word: str, markers: Sequence[str]) -> list[int]:
    """Return the marker that a word of a filter of correlations names, or the markers whose names have it."""
    named = [place for place, marker in enumerate(markers) if marker.lower() == word.lower()]
    return named or [place for place, marker in enumerate(markers) if word.lower() in marker.lower()]


def _of_markers(absolute: np.ndarray, named: list[int], described_by: list[np.ndarray | None]) -> np.ndarray:
    """Return which features a filter by markers keeps, of absolute correlations (markers, features)."""
    keep = np.isin(absolute.argmax(axis=0), named)
    for columns in described_by:
        if columns is not None:
            keep[columns] = True
    if not keep.any():
        keep[np.argsort(-absolute[named].max(axis=0), kind="stable")[:_BEST]] = True
    return np.asarray(keep)
