"""Verdicts: one sentence per label on whether the learned representation is better than mean intensity."""

from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as t_distribution

from mxsplicer.tl.representations import is_baseline, trained

_MIN_DIFFERENCE = 0.01  # of balanced accuracy; a smaller difference does not count
_SIGNIFICANCE_LEVEL = 0.05


def verdict(scores: pd.DataFrame) -> list[str]:
    """Return one sentence per label: is the learned representation better than mean intensity, equal to it, or worse.

    A difference counts if it is at least one point of balanced accuracy and significant at 5 % in a paired t-test
    across folds. For 3, 4 and 5 folds this means more than 2.5, 1.6 and 1.2 times its standard deviation across folds.
    A representation that does not exceed chance by the same rule is never called better. If another representation has
    a higher score, the sentence names it.

    Parameters
    ----------
    scores
        As :func:`~mxsplicer.tl.probing.probe` returns them.
    """
    return [_sentence(str(label), rows) for label, rows in scores.groupby("label", sort=False)]


def _sentence(label: str, rows: pd.DataFrame) -> str:
    by_name = rows.set_index("representation")["balanced_accuracy"]
    name, best = trained(list(by_name.index)), str(by_name.idxmax())
    own: Any = rows[rows["representation"] == name].iloc[0]
    chance = float(own["chance"])
    sentence = f"{label}: {_comparison(name, own, chance)} balanced accuracy {own['balanced_accuracy']:.2f}"
    if best != name:
        sentence += f", the best is {best} with {by_name.max():.2f}"
    return f"{sentence}, chance {chance:.2f}."


def _comparison(name: str, own: "pd.Series[Any]", chance: float) -> str:
    gain, sd, n_folds = float(own["gain"]), float(own["gain_sd"]), int(own["folds"])
    above_chance = float(own["balanced_accuracy"]) - chance
    at_chance = above_chance <= 0 or not _counts(above_chance, float(own["balanced_accuracy_sd"]), n_folds)
    points = f"{gain * 100:+.1f} ± {sd * 100:.1f} points"
    if is_baseline(name):
        return f"no learned representation was scored; {name} has"
    if at_chance and gain > 0:
        return f"{name} is not distinguishable from chance, so it is not better than mean intensity ({points});"
    if not _counts(gain, sd, n_folds):
        if abs(gain) >= _MIN_DIFFERENCE:  # the difference may be real, so report how large it would have to be
            least = sd * _sd_needed(n_folds) * 100
            points += f", and with {n_folds} folds less than {least:.1f} points is not significant"
        return f"{name} is equal to mean intensity within the spread of the folds ({points});"
    word = "better" if gain > 0 else "worse"
    ratio = f" ({abs(gain) / sd:.1f} × the standard deviation across folds)" if sd > 0 else ""
    return f"{name} is {word} than mean intensity by {abs(gain) * 100:.1f} ± {sd * 100:.1f} points{ratio};"


def _counts(difference: float, sd: float, n_folds: int) -> bool:
    return abs(difference) >= _MIN_DIFFERENCE and abs(difference) > sd * _sd_needed(n_folds)


def _sd_needed(n_folds: int) -> float:
    """Return how many standard deviations across folds make a difference significant."""
    # For simulated pairs of equally good representations (tests/benchmarks/bench_evaluate.py), 3 to 5 in 100 are called
    # different with three to five folds. A threshold of one standard deviation would call 6 to 16 different.
    return float(t_distribution.ppf(1 - _SIGNIFICANCE_LEVEL / 2, n_folds - 1) / np.sqrt(n_folds))
