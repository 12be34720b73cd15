"""Names of the columns of z that describe one marker, "CD4 rim", or a pair of markers, "CD4 near CD8a"."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

MOMENTS = "moments"  # the encoder that has no other columns, and nothing to train
KINDS = ("level", "rim", "side", "spread", "polarity")
SHAPES = ("area of the cell", "elongation of the cell")
_WORDS = {"together": "with", "near": "near", "along": "along"}  # between the names of two markers


def names_of_moments(markers: Sequence[str], pairs: Mapping[str, Sequence[Sequence[int]]]) -> list[str]:
    """Return the names of the moments of all markers, kind by kind, then of pairs by kind of pair, then of shapes."""
    single = [f"{marker} {kind}" for kind in KINDS for marker in markers]
    of_pairs = [f"{markers[a]} {word} {markers[b]}" for kind, word in _WORDS.items() for a, b in pairs.get(kind, ())]
    return [*single, *of_pairs, *SHAPES]


def columns_by_marker(names: Sequence[str]) -> dict[str, list[int]]:
    """Return, by the names of moments, the columns that each marker takes part in, ascending: its level comes first.

    Examples
    --------
    >>> columns_by_marker(["CD4 level", "CD8a level", "CD4 rim", "CD8a rim", "CD4 with CD8a", "learned 1"])
    {'CD4': [0, 2, 4], 'CD8a': [1, 3, 4]}
    """
    ending = f" {KINDS[0]}"
    places: dict[str, Any] = {name: place for place, name in enumerate(names)}
    markers = [name.removesuffix(ending) for name in names if name.endswith(ending)]
    found: dict[str, set[int]] = {marker: set() for marker in markers}
    for marker, kind in product(markers, KINDS):
        if f"{marker} {kind}" in places:
            found[marker].add(places[f"{marker} {kind}"])
    for a, b in product(markers, repeat=2):
        of_pair = {places[name] for word in _WORDS.values() if (name := f"{a} {word} {b}") in places}
        found[a] |= of_pair
        found[b] |= of_pair
    return {marker: sorted(columns) for marker, columns in found.items()}
