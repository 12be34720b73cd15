"""Held-out predictions of markers from all features together, by ridge regression: mean, texture and localisation."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from anndata import AnnData

from mxsplicer.embedding.h5ad import named_layers
from mxsplicer.patches import PATCH_SIZE_UM
from mxsplicer.tl.folds import LEFT_OUT, Folds, fold_by_group, fold_by_quadrant
from mxsplicer.tl.standardized_columns import StandardizedColumns

MIN_CELLS = 40  # in every fold
_MIN_SLIDES = 3  # to make folds of whole slides

_PENALTIES = 10.0 ** np.arange(-4, 3)  # relative to the number of cells, for standardised features


def fold_sample(adata: AnnData, max_cells: int, seed: int, left_out: list[str]) -> tuple[np.ndarray, Folds | None]:
    """Return a random sample of cells and their folds for held-out predictions, or None and why in ``left_out``.

    Folds are slides where there are three or more, otherwise quadrants.
    """
    none = np.empty(0, dtype=np.int64)
    if "spatial" not in adata.obsm:
        left_out.append('R²: folds need obsm["spatial"]')
        return none, None
    rng = np.random.default_rng(seed)
    if "slide" in adata.obs and adata.obs["slide"].nunique() >= _MIN_SLIDES:
        rows = np.sort(rng.choice(adata.n_obs, min(max_cells, adata.n_obs), replace=False))
        folds = fold_by_group(adata.obs["slide"].iloc[rows], np.full(len(rows), "cell", dtype=object), seed=seed)
    else:
        guard_um = float(adata.uns.get("mxsplicer", {}).get("patch_size_um", PATCH_SIZE_UM))
        quadrants = fold_by_quadrant(adata, guard_um=guard_um)
        rows = np.flatnonzero(quadrants.of_cell != LEFT_OUT)
        rows = np.sort(rng.choice(rows, min(max_cells, len(rows)), replace=False))
        folds = Folds(quadrants.of_cell[rows], quadrants.by)
    if len(rows) == 0 or np.bincount(folds.of_cell, minlength=folds.n).min() < MIN_CELLS or folds.n < _MIN_SLIDES:
        left_out.append(f"R²: every fold ({folds.by}) needs {MIN_CELLS} cells")
        return none, None
    return rows, folds


def add_r2(
    adata: AnnData,
    prefix: str,
    z: np.ndarray,
    sample: np.ndarray,
    folds: Folds,
    about: dict[str, Any],
    left_out: list[str],
) -> None:
    """Set R² in held-out cells by ridge regression from z, ``var["<prefix>_r2_..."]``, and ``about["diagonal"]``.

    Parameters
    ----------
    z
        Features (n, d) of the cells in the rows ``sample``, which ``folds`` describes.
    about
        Receives what the targets were, and how many cells were used.
    left_out
        Receives what was not computed, and why.
    """
    mean = _log_rows(adata.X, sample)
    targets, descriptions = _targets(adata, sample, mean, left_out)
    complete = np.all([np.isfinite(values).all(axis=1) for values in targets.values()], axis=0)
    if np.bincount(folds.of_cell[complete], minlength=folds.n).min() < MIN_CELLS:
        left_out.append("R²: too few cells have a value in every layer")
        return
    held_out = predict_held_out(
        z[complete],
        {name: values[complete] for name, values in targets.items()},
        mean[complete],
        Folds(folds.of_cell[complete], folds.by),
    )
    for name, r2 in held_out.r2.items():
        adata.var[f"{prefix}_r2_{name}"] = r2
    about |= {"targets": descriptions, "folds_by": folds.by, "n_cells_r2": int(complete.sum())}
    predicted = StandardizedColumns.of(held_out.predictions.astype(np.float32), "the prediction")
    measured = StandardizedColumns.of(mean[complete].astype(np.float32), "X")
    about["diagonal"] = np.abs(predicted.correlate(measured)).astype(np.float32)
    about["among_markers"] = np.abs(measured.correlate(measured)).astype(np.float32)


def _targets(
    adata: AnnData, sample: np.ndarray, mean: np.ndarray, left_out: list[str]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return each target of held-out predictions (n, m) by name, and a description of it."""
    targets, descriptions = {"mean": mean}, {"mean": "log(1 + mean)"}
    if (layer := _texture_layer(adata)) is not None:
        targets["texture"] = _log_rows(adata.layers[layer], sample)
        descriptions["texture"] = f"log(1 + {layer}) given log(1 + mean)"
    else:
        left_out.append("R² to texture: no layer std or p75 and above; measure it when embedding")
    if (layer := _localisation_layer(adata)) is not None:
        targets["localisation"] = _log_rows(adata.layers[layer], sample) - mean
        descriptions["localisation"] = f"log(1 + {layer}) - log(1 + mean), given it"
    else:
        left_out.append("R² to localisation: no layer ring or nucleus; measure it when embedding")
    return targets, descriptions


def _log_rows(matrix: Any, rows: np.ndarray) -> np.ndarray:
    values = matrix[rows]
    dense = np.asarray(values.toarray() if hasattr(values, "toarray") else values, dtype=np.float64)
    return np.log1p(np.maximum(dense, 0))


def _texture_layer(adata: AnnData) -> str | None:
    if "std" in adata.layers:
        return "std"
    percents = {name: float(name[1:]) for name in named_layers(adata) if re.fullmatch(r"p\d+(\.\d+)?", name)}
    upper = [name for name, percent in percents.items() if percent >= 75]
    return max(upper, key=lambda name: percents[name], default=None)


def _localisation_layer(adata: AnnData) -> str | None:
    return next((name for name in ("ring", "nucleus") if name in adata.layers), None)


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
    """Ridge regression with the training, validation and held-out cells of one fold; features are decomposed once."""

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
    """Return ``y`` minus a cubic polynomial of ``given``, fitted to the cells that are not held out."""
    out = np.empty_like(y)
    for column in range(y.shape[1]):
        known = given[:, column].astype(np.float64)
        centre, spread = known[train].mean(), known[train].std()
        powers = np.vander((known - centre) / (spread or 1.0), 4)
        fit = np.linalg.lstsq(powers[train], y[train, column], rcond=1e-8)[0]
        out[:, column] = y[:, column] - powers @ fit
    return out
