"""Ridge regression of marker values from z, evaluated on cells of other parts of the tissue."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mxsplicer.tl.folds import Folds

_PENALTIES = 10.0 ** np.arange(-4, 3)  # relative to the number of cells, for standardised features


@dataclass(frozen=True, eq=False)
class HeldOutPredictions:
    """Predictions of ridge regression for held-out cells.

    Attributes
    ----------
    r2
        R² (T,) of every group of targets: one minus the squared error over all held-out cells, divided by that of the
        mean of the training cells. It is negative where the mean is the better prediction, and NaN for constants.
    predictions
        Predictions of the first group (N, T), NaN for cells that are in no fold.
    """

    r2: dict[str, np.ndarray]
    predictions: np.ndarray


def predict_held_out(
    z: np.ndarray, targets: Mapping[str, np.ndarray], given: np.ndarray, folds: Folds
) -> HeldOutPredictions:
    """Predict targets from z in each fold; the penalty of each target is chosen on the fold after the tested one.

    Parameters
    ----------
    z
        Features (N, d).
    targets
        Groups of targets, each (N, T). For all groups but the first, a cubic polynomial of ``given``, fitted to the
        training cells, is subtracted first.
    given
        What is known of each target (N, T): the log of the mean intensity.
    folds
        The fold of each of the N cells.
    """
    errors = {name: np.zeros((2, y.shape[1])) for name, y in targets.items()}
    first = next(iter(targets))
    predictions = np.full(targets[first].shape, np.nan)
    for fold in range(folds.n):
        train, validation, test = folds.train_validate_test(fold)
        ridge = _Ridge(z, train, validation, test)
        for name, target in targets.items():
            y = target.astype(np.float64)
            if name != first:
                y = _residuals(y, given, train)
            predicted, centre = ridge.predict(y)
            if name == first:
                predictions[test] = predicted
            errors[name][0] += np.square(y[test] - predicted).sum(axis=0)
            errors[name][1] += np.square(y[test] - centre).sum(axis=0)
    r2 = {}
    for name, (of_model, of_mean) in errors.items():
        varies = of_mean > 1e-9 * len(z)
        r2[name] = 1 - np.divide(of_model, of_mean, out=np.full_like(of_model, np.nan), where=varies)
    return HeldOutPredictions(r2, predictions)


class _Ridge:
    """Ridge regression with the training, validation and test cells of one fold; features are decomposed once."""

    def __init__(self, z: np.ndarray, train: np.ndarray, validation: np.ndarray, test: np.ndarray) -> None:
        self._train, self._validation = train, validation
        mean, sd = z[train].mean(axis=0, dtype=np.float64), z[train].std(axis=0, dtype=np.float64)
        scale = 1 / np.where(sd > 1e-6 * np.abs(mean) + 1e-12, sd, np.inf)
        self._z_train, z_validation, z_test = (
            ((z[rows] - mean) * scale).astype(np.float32) for rows in (train, validation, test)
        )
        self._power, self._axes = np.linalg.eigh(self._z_train.T @ self._z_train / np.float32(len(train)))
        self._rotated_validation, self._rotated_test = z_validation @ self._axes, z_test @ self._axes

    def predict(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return predictions for the test cells, and the mean of each target (N, T) over the training cells."""
        train, n_targets = self._train, y.shape[1]
        centre = y[train].mean(axis=0)
        slopes = self._axes.T @ (self._z_train.T @ (y[train] - centre)) / len(train)  # (d, T)
        shrunk = [slopes / (np.maximum(self._power, 0)[:, None] + penalty) for penalty in _PENALTIES]
        centred = y[self._validation] - centre
        errors = np.stack([np.square(self._rotated_validation @ one - centred).sum(axis=0) for one in shrunk])
        best = np.stack(shrunk)[errors.argmin(axis=0), :, np.arange(n_targets)].T
        return self._rotated_test @ best + centre, centre


def _residuals(y: np.ndarray, given: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Return ``y`` minus a cubic polynomial of ``given``, fitted to the training cells for each column."""
    out = np.empty_like(y)
    for column in range(y.shape[1]):
        known = given[:, column].astype(np.float64)
        centre, spread = known[train].mean(), known[train].std()
        powers = np.vander((known - centre) / (spread or 1.0), 4)
        fit = np.linalg.lstsq(powers[train], y[train, column], rcond=1e-8)[0]
        out[:, column] = y[:, column] - powers @ fit
    return out
