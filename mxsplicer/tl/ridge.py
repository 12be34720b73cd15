"""How much of a marker z holds: ridge regression from z, judged on cells of other parts of the tissue."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mxsplicer.tl.folds import Folds

_PENALTIES = 10.0 ** np.arange(-4, 3)  # relative to the number of cells, for standardised features


@dataclass(frozen=True, eq=False)
class Held:
    """What ridge regression said of cells that it had not seen.

    Attributes
    ----------
    r2
        For every group of targets its R² (T,): one minus the squared error of all held-out cells, over that of the
        training cells' mean. It is negative where the mean would have been better, and NaN where nothing varies.
    predictions
        Of the first group (N, T), NaN for cells that are in no fold.
    """

    r2: dict[str, np.ndarray]
    predictions: np.ndarray


def predict_held_out(z: np.ndarray, targets: Mapping[str, np.ndarray], given: np.ndarray, folds: Folds) -> Held:
    """Predict targets from z, fold by fold; the penalty of each target is chosen on the fold after the one that tests.

    Parameters
    ----------
    z
        Features (N, d).
    targets
        Groups of targets, each (N, T). Of all but the first, what a cubic of ``given`` predicts is taken off before:
        the cubic is fitted to the training cells.
    given
        For each target column what is known already (N, T): the log of the mean intensity.
    folds
        The fold of each of the N cells.
    """
    errors = {name: np.zeros((2, y.shape[1])) for name, y in targets.items()}
    first = next(iter(targets))
    predictions = np.full(targets[first].shape, np.nan)
    for fold in range(folds.n):
        train, validate, test = folds.train_validate_test(fold)
        mean, sd = z[train].mean(axis=0, dtype=np.float64), z[train].std(axis=0, dtype=np.float64)
        scale = 1 / np.where(sd > 1e-6 * np.abs(mean) + 1e-12, sd, np.inf)
        z_train, z_validate, z_test = (
            ((z[rows] - mean) * scale).astype(np.float32) for rows in (train, validate, test)
        )
        power, axes = np.linalg.eigh(z_train.T @ z_train / np.float32(len(train)))
        rotated = {"validate": z_validate @ axes, "test": z_test @ axes}
        for name, y in targets.items():
            own = y.astype(np.float64)
            if name != first:
                own = _residuals(own, given, train)
            centre = own[train].mean(axis=0)
            slopes = axes.T @ (z_train.T @ (own[train] - centre)) / len(train)  # (d, T)
            shrunk = [slopes / (np.maximum(power, 0)[:, None] + penalty) for penalty in _PENALTIES]
            wrong = np.stack(
                [np.square(rotated["validate"] @ one - (own[validate] - centre)).sum(axis=0) for one in shrunk]
            )
            best = np.stack(shrunk)[wrong.argmin(axis=0), :, np.arange(own.shape[1])].T
            predicted = rotated["test"] @ best + centre
            if name == first:
                predictions[test] = predicted
            errors[name][0] += np.square(own[test] - predicted).sum(axis=0)
            errors[name][1] += np.square(own[test] - centre).sum(axis=0)
    r2 = {}
    for name, (left, whole) in errors.items():
        r2[name] = 1 - np.divide(left, whole, out=np.full_like(left, np.nan), where=whole > 1e-9 * len(z))
    return Held(r2, predictions)


def _residuals(y: np.ndarray, given: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Return what a cubic of ``given``, fitted to the training cells column by column, leaves of ``y``."""
    out = np.empty_like(y)
    for column in range(y.shape[1]):
        known = given[:, column].astype(np.float64)
        centre, spread = known[train].mean(), known[train].std()
        powers = np.vander((known - centre) / (spread or 1.0), 4)
        fit = np.linalg.lstsq(powers[train], y[train, column], rcond=1e-8)[0]
        out[:, column] = y[:, column] - powers @ fit
    return out
