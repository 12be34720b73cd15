"""Tasks: the cells of a label that are scored, their classes and their folds."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from mxsplicer.errors import InputError
from mxsplicer.patches import PATCH_SIZE_UM
from mxsplicer.system.tables import find_columns
from mxsplicer.tl.defaults import MAX_SCORED_CELLS
from mxsplicer.tl.folds import MIN_GROUPS, Folds, fold_by_group, fold_by_quadrant, fold_by_transfer

logger = logging.getLogger(__name__)

_MAX_LISTED = 3
QUADRANTS = "quadrants"  # as a value of ``groups``


@dataclass(frozen=True, eq=False)
class Task:
    """The cells of a label that are scored, their classes and their folds.

    Attributes
    ----------
    rows
        Rows of the cells, ascending (n).
    codes
        Index of the class of each cell in ``classes`` (n).
    folds
        Folds of these cells.
    left_out
        Classes that have too few cells in one of the folds.
    n_labelled
        Cells that have a label. ``rows`` lacks those in the guard band, of rare classes, and above the largest number.
    """

    label: str
    rows: np.ndarray
    codes: np.ndarray
    folds: Folds
    classes: tuple[str, ...]
    left_out: tuple[str, ...]
    n_labelled: int

    @property
    def about(self) -> dict[str, Any]:
        """The columns of a table of scores that describe the task."""
        return {
            "label": self.label,
            "chance": 1 / len(self.classes),
            "n_cells": len(self.rows),
            "n_labelled": self.n_labelled,
            "n_classes": len(self.classes),
            "folds": self.folds.n,
            "folds_by": self.folds.by,
            "classes": ", ".join(self.classes),
            "left_out": ", ".join(self.left_out),
        }


def set_task(
    adata: AnnData,
    *,
    label: str,
    groups: str | None = None,
    guard_um: float | None = None,
    train_on: Sequence[str] = (),
    test_on: Sequence[str] = (),
    min_cells: int = 5,
    max_cells: int = MAX_SCORED_CELLS,
    seed: int = 0,
) -> Task:
    """Choose the cells that are scored and assign them to folds; the arguments are those of :func:`probe`."""
    labels = _labels(adata, label)
    folds = (
        _transfer(adata, groups, guard_um, train_on, test_on)
        if train_on or test_on
        else _folds(adata, labels, groups, guard_um, seed)
    )
    candidates = np.flatnonzero((labels != "") & folds.is_used)
    if len(candidates) > max_cells:
        candidates = np.sort(np.random.default_rng(seed).choice(candidates, max_cells, replace=False))
        logger.info("Label %s: %d of %d labelled cells are scored", label, max_cells, (labels != "").sum())
    classes, left_out = _classes(labels, candidates, folds, min_cells, label)
    rows = candidates[np.isin(labels[candidates], classes)]
    return Task(
        label=label,
        rows=rows,
        codes=np.searchsorted(classes, labels[rows]),
        folds=folds.take(rows),
        classes=tuple(classes),
        left_out=tuple(left_out),
        n_labelled=int((labels != "").sum()),
    )


def _labels(adata: AnnData, label: str) -> np.ndarray:
    """Return the label of each cell of a task as text, "" where it is missing."""
    if label not in adata.obs:
        msg = f"label {label!r} was not found; obs has the columns {', '.join(adata.obs.columns)}."
        raise InputError(msg)
    values = adata.obs[label].astype(object)
    return np.asarray(values.where(values.notna(), "").astype(str), dtype=object)


def _folds(adata: AnnData, labels: np.ndarray, groups: str | None, guard_um: float | None, seed: int) -> Folds:
    if groups is None:
        known = (column for column in ("patient", "slide") if column in adata.obs)
        groups = next((column for column in known if adata.obs[column].nunique() >= MIN_GROUPS), QUADRANTS)
    columns = find_columns(list(adata.obs.columns), [groups])
    if groups != QUADRANTS or columns:
        if not columns:
            msg = f"column {groups!r} was not found to make folds; obs has the columns {', '.join(adata.obs.columns)}."
            raise InputError(msg)
        return fold_by_group(adata.obs[columns[0]], labels, seed=seed)
    return fold_by_quadrant(adata, guard_um=_guard_um(adata, guard_um))


def _transfer(
    adata: AnnData, groups: str | None, guard_um: float | None, train_on: Sequence[str], test_on: Sequence[str]
) -> Folds:
    column = "slide" if groups is None or groups == QUADRANTS else groups
    return fold_by_transfer(
        adata, train_on=train_on, test_on=test_on, column=column, guard_um=_guard_um(adata, guard_um)
    )


def _guard_um(adata: AnnData, guard_um: float | None) -> float:
    return float(adata.uns.get("mxsplicer", {}).get("patch_size_um", PATCH_SIZE_UM) if guard_um is None else guard_um)


def _classes(
    labels: np.ndarray, candidates: np.ndarray, folds: Folds, min_cells: int, label: str
) -> tuple[np.ndarray, list[str]]:
    """Return the classes of a task that have enough cells in every fold, and those that have not."""
    counts = _count(labels[candidates], folds.of_cell[candidates])
    if folds.training_part is not None:
        training = _count(labels[candidates], folds.training_part[candidates])
        counts = pd.concat([counts, training], axis=1).fillna(0)
    in_parts = (counts >= min_cells).sum(axis=1)
    enough = counts.index[in_parts == counts.shape[1]]
    left_out = sorted(set(labels[labels != ""]) - set(enough))
    if len(enough) < 2:
        raise _too_few_classes(in_parts, counts, folds, min_cells, label)
    if left_out:
        logger.info("Label %s: left out, fewer than %d cells in a fold: %s", label, min_cells, ", ".join(left_out))
    return np.array(sorted(enough), dtype=object), left_out


def _count(labels: np.ndarray, parts: np.ndarray) -> pd.DataFrame:
    """Return the number of cells of each class of a task in each part; cells in the part LEFT_OUT do not count."""
    return pd.crosstab(labels, parts).reindex(columns=range(int(parts.max(initial=0)) + 1), fill_value=0)


def _too_few_classes(
    in_parts: "pd.Series[int]", counts: pd.DataFrame, folds: Folds, min_cells: int, label: str
) -> InputError:
    """Return the error on a task with too few classes: one class, classes missing in whole folds, or rare classes."""
    n_parts = counts.shape[1]
    problem = f"label {label!r} cannot be scored by {folds.by}: "
    n_enough = int((in_parts == n_parts).sum())
    if len(counts) < 2:
        problem += f"it has {len(counts)} classes in the cells that can be scored, and two are needed."
        return InputError(problem, "Name a label with two or more classes.")
    apart = counts.index[(counts.sum(axis=1) >= min_cells * n_parts) & (counts < min_cells).any(axis=1)]
    if len(apart) and n_enough + len(apart) >= 2:
        where = ", ".join(f"{name!r} in {in_parts[name]} of {n_parts} folds" for name in apart[:_MAX_LISTED])
        problem += (
            f"classes have {min_cells} or more cells in some folds only ({where}), and two are needed in every fold. "
            "Where each class has its own slide or part of it, nothing can be learned on one and tested on another."
        )
        return InputError(problem, "Pass other `groups`, or label cells of these classes in every fold.")
    problem += f"{n_enough} classes have {min_cells} or more cells in every fold, and two are needed."
    return InputError(problem, "Label more cells, or leave out classes that are rare.")


def at_most_per_class(rows: np.ndarray, codes: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return the rows of a task's cells with at most ``n`` of every class, drawn at random, ascending."""
    shuffled = rng.permutation(rows)
    rank = pd.Series(codes[shuffled]).groupby(codes[shuffled]).cumcount().to_numpy()
    return np.sort(shuffled[rank < n])
