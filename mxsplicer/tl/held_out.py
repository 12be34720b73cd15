"""How much all features together predict of each marker in held-out cells: mean, texture and localisation."""

import re
from typing import Any

import numpy as np
from anndata import AnnData

from mxsplicer.embedding.h5ad import named_layers
from mxsplicer.patches import PATCH_SIZE_UM
from mxsplicer.tl.folds import LEFT_OUT, Folds, fold_by_group, fold_by_quadrant
from mxsplicer.tl.ridge import predict_held_out
from mxsplicer.tl.standardization import StandardizedColumns, correlate_columns

MIN_CELLS = 40  # in every fold
_MIN_SLIDES = 3  # to make folds of whole slides


def fold_sample(adata: AnnData, max_cells: int, seed: int, left_out: list[str]) -> tuple[np.ndarray, Folds | None]:
    """Return the rows of a random sample of cells and their folds, or None with the reason in ``left_out``.

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
    """Set ``var["<prefix>_r2_..."]`` by ridge regression from z, and the matrix ``about["diagonal"]``.

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
    about["diagonal"] = np.abs(correlate_columns(predicted, measured)).astype(np.float32)
    about["among_markers"] = np.abs(correlate_columns(measured, measured)).astype(np.float32)


def _targets(
    adata: AnnData, sample: np.ndarray, mean: np.ndarray, left_out: list[str]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return each target (n, m) by name, and a description of it: the mean, and the layers that were measured."""
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
