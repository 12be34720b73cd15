"""A classifier that extends the user's annotations to all cells by their learned features."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mxsplicer import InputError
from napari_mxsplicer.study import Study

_FEWEST = 5  # cells per name
_AT_ONCE = 16  # features


@dataclass(frozen=True, eq=False)
class Predictions:
    """The class of every cell, and the cross-validated accuracy."""

    classes: tuple[str, ...]
    codes: np.ndarray  # (N,) index into `classes`
    confidence: np.ndarray  # (N,) probability of that class, float32
    accuracy: float  # balanced, by cross-validation over the named cells
    n_named: int

    def columns(self, of: str) -> dict[str, Any]:
        """Return the predictions and their confidence as columns of ``obs``, named after the column of annotations."""
        predicted = pd.Categorical.from_codes(self.codes, pd.Index(self.classes))
        return {f"{of}_called": predicted, f"{of}_confidence": self.confidence}


def classify(study: Study, names: pd.Categorical, *, seed: int = 0) -> Generator[tuple[int, int], None, Predictions]:
    """Train a logistic regression on the features of the named cells and predict all cells; yield the progress.

    Raises
    ------
    InputError
        If fewer than two names have five cells each.
    """
    enough = _names_with_enough_cells(names)
    rows = np.flatnonzero(np.isin(names.codes, enough))
    y = np.searchsorted(enough, names.codes[rows])
    d = study.n_features
    x = np.empty((len(rows), d), dtype=np.float32)
    for first in range(0, d, _AT_ONCE):
        last = min(first + _AT_ONCE, d)
        x[:, first:last] = study.feature_block(first, last)[:, rows].T
        yield last, 2 * d
    weights, bias, accuracy = _fit(x, y, seed)
    scores = np.tile(bias[:, None], study.n_cells).astype(np.float32)
    for first in range(0, d, _AT_ONCE):
        last = min(first + _AT_ONCE, d)
        scores += (weights[:, first:last] @ study.feature_block(first, last)).astype(np.float32)
        yield d + last, 2 * d
    if len(scores) == 1:  # the regression has one score for two classes
        scores = np.concatenate([np.zeros_like(scores), scores])
    probability = np.exp(scores - scores.max(axis=0))
    probability /= probability.sum(axis=0)
    classes = tuple(str(names.categories[int(code)]) for code in enough)
    return Predictions(classes, probability.argmax(axis=0), probability.max(axis=0), accuracy, len(rows))


def _names_with_enough_cells(names: pd.Categorical) -> np.ndarray:
    counts = np.bincount(names.codes[names.codes >= 0], minlength=len(names.categories))
    enough = np.flatnonzero(counts >= _FEWEST)
    if len(enough) < 2:
        found = ", ".join(f"{name} ({n})" for name, n in zip(names.categories, counts, strict=True)) or "none"
        msg = f"a classifier needs two names with {_FEWEST} cells each; found: {found}."
        raise InputError(msg, "Name more cells.")
    return enough


def _fit(x: np.ndarray, y: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Train the classifier: return the weights and the bias for features as they are, and the balanced accuracy."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    mean, sd = x.mean(axis=0), x.std(axis=0)
    sd = np.where(sd > 0, sd, 1)
    x = (x - mean) / sd
    model = LogisticRegression(C=0.1, class_weight="balanced", max_iter=2000)
    folds = StratifiedKFold(min(5, int(np.bincount(y).min())), shuffle=True, random_state=seed)
    accuracy = float(balanced_accuracy_score(y, cross_val_predict(model, x, y, cv=folds)))
    model.fit(x, y)
    weights = model.coef_ / sd
    return weights, model.intercept_ - weights @ mean, accuracy
