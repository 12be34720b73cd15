"""Names of clusters from the markers that set them apart, as "CD8a+ CD3e+"."""

from collections.abc import Mapping, Sequence

import pandas as pd

from mxsplicer.images.markers import is_control, is_nuclear

LARGE_EFFECT = 0.8  # in Cohen's terms; the one threshold of names and verdicts
NOTHING = "nothing stands out"
MOST_MARKERS = 3


def marker_words(effects: Mapping[str, float], *, also: Sequence[str] = (), without: Sequence[str] = ()) -> list[str]:
    """Return the markers for the name of a cluster with their sign, the most extreme first.

    Markers that are lower are listed only where none is raised. Nuclear stains and channels without an antibody are
    never used.

    Parameters
    ----------
    effects
        The effect of each marker, in this cluster against all other cells.
    also
        Markers that distinguish the cluster from its sibling: they are among the first three.
    without
        Markers that are artefacts.

    Examples
    --------
    >>> marker_words({"CD8a": 2.0, "CD3e": 0.9, "CD20": 0.0, "DAPI": 3.0}), marker_words({"CD8a": -1.0, "CD3e": 0.1})
    (['CD8a+', 'CD3e+'], ['CD8a-'])
    """
    usable = {name: d for name, d in effects.items() if not is_nuclear(name) and not is_control(name)}
    ordered = [name for name in sorted(usable, key=lambda name: -usable[name]) if name not in without]
    raised = [name for name in ordered if usable[name] >= LARGE_EFFECT]
    added = [name for name in also if name in ordered and name not in raised[:MOST_MARKERS]]
    raised = [name for name in raised if name not in added]
    first = raised[: max(0, MOST_MARKERS - len(added))]
    words = [f"{name}+" for name in [*first, *added, *raised[len(first) :]]]
    return words or [f"{name}-" for name in reversed(ordered) if usable[name] <= -LARGE_EFFECT]


def distinct_names(words: Mapping[str, Sequence[str]]) -> "pd.Series[str]":
    """Return the name of each cluster: its first three words, and more where clusters would share a name.

    Examples
    --------
    >>> words = {"0": ["CD3e+", "CD4+", "CD45RO+", "PD-1+"], "1": ["CD3e+", "CD4+", "CD45RO+"], "2": []}
    >>> distinct_names(words).tolist()
    ['CD3e+ CD4+ CD45RO+ PD-1+', 'CD3e+ CD4+ CD45RO+', 'nothing stands out']
    """
    names = {cluster: " ".join(of_it[:MOST_MARKERS]) or NOTHING for cluster, of_it in words.items()}
    length = MOST_MARKERS
    while shared := _shared(names, words, length):
        length += 1
        names |= {cluster: " ".join(words[cluster][:length]) for cluster in shared}
    return pd.Series(names, name="name", dtype=object)


def _shared(names: Mapping[str, str], words: Mapping[str, Sequence[str]], length: int) -> list[str]:
    """Return the clusters that share their name with another cluster and have a further word."""
    counts = pd.Series(dict(names), dtype=object).value_counts()
    return [cluster for cluster, name in names.items() if counts[name] > 1 and len(words[cluster]) > length]
