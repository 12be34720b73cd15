"""In which order the rows and columns of a map of correlations stand, and which of them are shown."""

import re
from collections.abc import Sequence

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage

_BEST = 5  # features of a marker that a filter by its name leaves, where all follow another more
_CHOSEN = re.compile(r"\s*(\|?r\|?)?\s*([<>])\s*(-?[0-9.]+)\s*")


def clustered(r: np.ndarray, shown: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the order of the markers and of the features of a map (markers, features).

    Markers with alike rows lie side by side; each feature stands under the marker it follows most, the strongest first.
    Where ``shown`` (features,) is the number of the marker that its chunk shows, or one beyond the markers, those under
    a marker lie together by it: those of its own chunk before others, and the strongest of each first.
    """
    rows = np.arange(len(r))
    r = np.nan_to_num(r)
    if len(r) > 2 and r.shape[1]:
        rows = np.asarray(leaves_list(linkage(r, method="average", optimal_ordering=len(r) < 200)))
    if not r.size:
        return rows, np.arange(r.shape[1])
    strongest = np.abs(r[rows]).argmax(axis=0)
    signed = r[rows][strongest, np.arange(r.shape[1])]
    if shown is None:
        return rows, np.lexsort((-signed, strongest))
    places = np.append(np.argsort(rows), np.arange(len(r), max(len(r), shown.max() + 1)))[shown]
    return rows, np.lexsort((-signed, places, places != strongest, strongest))


def chosen(r: np.ndarray, markers: Sequence[str], text: str) -> np.ndarray:
    """Return the features that a filter leaves, ascending.

    A filter has words with spaces between, each of which narrows: ``12`` or ``10-20`` are numbers of features, ``CD8a``
    leaves those that follow no marker more than this one, or its five best where there are none, ``>0.4`` those whose
    strongest correlation is above 0.4 in absolute value. A word that is none of these leaves the features of all
    markers whose names contain it.
    """
    n = r.shape[1]
    keep = np.ones(n, dtype=bool)
    if not r.size:
        return np.arange(n)
    absolute = np.abs(np.nan_to_num(r))
    follows = absolute.argmax(axis=0)
    numbers = np.zeros(n, dtype=bool)
    any_numbers = False
    for word in text.split():
        span = re.fullmatch(r"(\d+)(?:-(\d+))?", word)
        bound = _CHOSEN.fullmatch(word)
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
            under = np.isin(follows, named)
            if named and not under.any():
                under[np.argsort(-absolute[named].max(axis=0), kind="stable")[:_BEST]] = True
            keep &= under
    return np.flatnonzero(keep & numbers if any_numbers else keep)
