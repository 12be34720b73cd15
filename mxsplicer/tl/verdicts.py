"""Verdicts: which description of the cells predicts a label best, and whether training was needed."""

from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as t_distribution

from mxsplicer.tl.representations import BUILT_IN, CONCATENATED, METHOD_TITLES, UNTRAINED, is_baseline, trained

_MIN_DIFFERENCE = 0.01  # of balanced accuracy; a smaller difference does not count
_SIGNIFICANCE_LEVEL = 0.05
# Name of each way to predict a label, its column of scores, and that of the trained representation's gain.
_WAYS = (
    ("linear probe", "balanced_accuracy", "trained_gain"),
    ("20 nearest neighbours", "knn_balanced_accuracy", "knn_trained_gain"),
)


def verdict(scores: pd.DataFrame) -> list[str]:
    """Return two lines per label: the best description by linear probe and by neighbours, and if training was needed.

    A third line is added where ``X`` is not raw.

    The first line names whichever description has the highest score, learned or not, and how far the trained one is
    from it, or from the second if it is the best itself. The second line compares the trained encoder with the same
    encoder untrained, or with the built-in model; the built-in model with trained encoders of other files. A
    difference counts if it is at least one point of balanced accuracy and significant at 5 % in a paired t-test across
    folds. For 3, 4 and 5 folds this means more than 2.5, 1.6 and 1.2 times its standard deviation across folds.
    Concatenations ("A + B") do not take part.

    Parameters
    ----------
    scores
        As :func:`~mxsplicer.tl.probing.probe` returns them. Those of version 0.1 have no comparison by neighbours on
        the features as they are, so the verdict is by linear probe alone.

    Returns
    -------
    One string per label, its lines separated by a line break.
    """
    return [_of_label(str(label), rows) for label, rows in scores.groupby("label", sort=False)]


def _of_label(label: str, rows: pd.DataFrame) -> str:
    own = trained([str(name) for name in rows["representation"]])
    alone = rows[[CONCATENATED not in name or name == own for name in rows["representation"]]]
    by_name = alone.set_index("representation")
    if "trained_gain" in rows and rows["trained_gain"].notna().any():
        best = "; ".join(_best(by_name, own, *way) for way in _WAYS)
        needed = _training(by_name, own)
    elif "trained_gain" in rows or is_baseline(own):
        best = "; ".join(_highest(by_name, way, metric) for way, metric, _ in _WAYS)
        needed = "No learned representation was scored."
    else:
        best = f"{_highest(by_name, *_WAYS[0][:2])} ({own} has {by_name['balanced_accuracy'][own]:.2f})"
        needed = "Neighbours and training were not compared when these scores were made; evaluate again."
    note = str(rows["intensities"].iloc[0]) if "intensities" in rows else ""
    return f"{label}: {best}; chance is {by_name['chance'].iloc[0]:.2f}.\n{needed}" + (f"\n{note}" if note else "")


def _highest(by_name: pd.DataFrame, way: str, metric: str) -> str:
    name = str(by_name[metric].idxmax())
    if _is_at_chance(_row(by_name, name), metric):
        return (
            f"by {way} nothing is distinguishable from chance (the highest is {name} with {by_name[metric].max():.2f})"
        )
    return f"best by {way} is {name} with {by_name[metric].max():.2f}"


def _best(by_name: pd.DataFrame, own: str, way: str, metric: str, gain: str) -> str:
    """Return which description a verdict finds best by one way, and how far the trained representation is from it."""
    sentence, name = _highest(by_name, way, metric), str(by_name[metric].idxmax())
    if _is_at_chance(_row(by_name, name), metric):
        return sentence
    if name != own:
        difference = _difference(_row(by_name, name), gain)
        return f"{sentence} ({own} has {by_name[metric][own]:.2f}, {difference})"
    others = by_name.drop(index=own)
    if others.empty:
        return sentence
    second = str(others[metric].idxmax())
    return f"{sentence} ({_difference(_row(others, second), gain, than=f' than {second}')})"


def _training(by_name: pd.DataFrame, own: str) -> str:
    if own == BUILT_IN:
        return _would_training_help(by_name)
    references = [name for name in by_name.index if name == UNTRAINED or name.startswith(f"{BUILT_IN} (")]
    if not references:
        return "Whether training was needed was not measured: the untrained encoder has no score."
    reference = UNTRAINED if UNTRAINED in references else str(references[0])
    row, than = _row(by_name, reference), "the same encoder untrained" if reference == UNTRAINED else f"the {reference}"
    by = [way for way, metric, gain in _WAYS if _is_better(row, gain) and not _is_at_chance(_row(by_name, own), metric)]
    if len(by) == len(_WAYS):
        return f"Training was needed: {own} is better than {than}, {_listed(row)}."
    if by:
        return f"Training was needed by {by[0]} only: {own} compared with {than}, {_listed(row)}."
    return f"Training was not needed: {own} is not better than {than}, {_listed(row)}."


def _would_training_help(by_name: pd.DataFrame) -> str:
    """Return whether one of the trained encoders of other files is better than the built-in model."""
    titles = tuple(f"{title} (" for title in METHOD_TITLES.values())
    rows = {str(name): _row(by_name, name) for name in by_name.index if name.startswith(titles)}
    if not rows:
        return "Nothing was trained, so whether learned features would help was not measured."
    for row in rows.values():
        row[[gain for _, _, gain in _WAYS]] *= -1  # how much better than the built-in model, not worse
    helps = any(_is_better(row, gain) for row in rows.values() for _, _, gain in _WAYS)
    each = "; ".join(f"{name} has {_listed(row)}" for name, row in rows.items())
    return f"Training {'helps' if helps else 'is not needed'}: compared with the {BUILT_IN}, {each}."


def _listed(row: "pd.Series[Any]") -> str:
    return " and ".join(f"{_points(row, gain)} points by {way}" for way, _, gain in _WAYS)


def _row(by_name: pd.DataFrame, name: str) -> "pd.Series[Any]":
    return by_name.loc[[name]].iloc[0].copy()


def _is_at_chance(row: "pd.Series[Any]", metric: str) -> bool:
    above = float(row[metric]) - float(row["chance"])
    return above <= 0 or not _counts(above, float(row[f"{metric}_sd"]), int(row["folds"]))


def _is_better(row: "pd.Series[Any]", gain: str) -> bool:
    return float(row[gain]) > 0 and _counts(float(row[gain]), float(row[f"{gain}_sd"]), int(row["folds"]))


def _difference(row: "pd.Series[Any]", gain: str, *, than: str = "") -> str:
    """Return how much more or less the trained representation has in a verdict than that of a row, in points."""
    value, sd, n_folds = float(row[gain]), float(row[f"{gain}_sd"]), int(row["folds"])
    points = f"{abs(value) * 100:.1f} ± {sd * 100:.1f} points {'less' if value < 0 else 'more'}{than}"
    if _counts(value, sd, n_folds):
        return points
    if abs(value) < _MIN_DIFFERENCE:
        return f"{points}, equal within the spread of the folds"
    # The difference may be real, so report how large it would have to be.
    least = sd * _sd_needed(n_folds) * 100
    return f"{points}, and with {n_folds} folds less than {least:.1f} points is not significant"


def _points(row: "pd.Series[Any]", gain: str) -> str:
    return f"{row[gain] * 100:+.1f} ± {row[f'{gain}_sd'] * 100:.1f}"


def _counts(difference: float, sd: float, n_folds: int) -> bool:
    return abs(difference) >= _MIN_DIFFERENCE and abs(difference) > sd * _sd_needed(n_folds)


def _sd_needed(n_folds: int) -> float:
    """Return how many standard deviations across folds make a difference significant in a verdict."""
    # For simulated pairs of equally good representations (tests/benchmarks/bench_evaluate.py), 3 to 5 in 100 are called
    # different with three to five folds. A threshold of one standard deviation would call 6 to 16 different.
    return float(t_distribution.ppf(1 - _SIGNIFICANCE_LEVEL / 2, n_folds - 1) / np.sqrt(n_folds))
