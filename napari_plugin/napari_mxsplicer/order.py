"""The order of the rows and columns of the correlation heatmap, and the filter of its features."""

import re
from collections.abc import Sequence

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage

_BEST = 5  # features that a filter by a marker keeps if all correlate more with another marker
_BOUND = re.compile(r"\s*(\|?r\|?)?\s*([<>])\s*(-?[0-9.]+)\s*")


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


def filter_features(r: np.ndarray, markers: Sequence[str], text: str) -> np.ndarray:
    """Return the features that pass a filter, ascending.

    A filter is words separated by spaces, all of which must hold: ``12`` or ``10-20`` are numbers of features, ``CD8a``
    keeps the features that correlate most with this marker, or its five best if there are none, and ``>0.4`` those
    whose strongest correlation exceeds 0.4 in absolute value. Any other word is looked for in the names of markers.
    """
    n = r.shape[1]
    keep = np.ones(n, dtype=bool)
    if not r.size:
        return np.arange(n)
    absolute = np.abs(np.nan_to_num(r))
    nearest = absolute.argmax(axis=0)
    numbers = np.zeros(n, dtype=bool)
    any_numbers = False
    for word in text.split():
        span = re.fullmatch(r"(\d+)(?:-(\d+))?", word)
        bound = _BOUND.fullmatch(word)
        if span:
            any_numbers = True
            numbers[int(span[1]) : int(span[2] or span[1]) + 1] = True
        elif bound:
            limit = float(bound[3])
            strongest = absolute.max(axis=0)
            keep &= strongest > limit if bound[2] == ">" else strongest < limit
        else:
            named = [i for i, marker in enumerate(markers) if marker.lower() == word.lower()]
            named = named or [i for i, marker in enumerate(markers) if word.lower() in marker.lower()]
            under = np.isin(nearest, named)
            if named and not under.any():
                under[np.argsort(-absolute[named].max(axis=0), kind="stable")[:_BEST]] = True
            keep &= under
    return np.flatnonzero(keep & numbers if any_numbers else keep)
