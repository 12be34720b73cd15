"""Folds of cells for training and testing probes, so that neighbours or one patient are never in both."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from mxsplicer.errors import InputError
from mxsplicer.tl.reading import rows_by_slide

LEFT_OUT = -1  # fold of a cell that is in none
MIN_GROUPS = 3  # to test, to choose the regularisation, and to train
_MAX_FOLDS = 5

_REMEDY_FOR_ONE = "Leave out `groups` to score by quadrants of the slide."
_REMEDY_FOR_TWO = (
    "With two, pass `train_on` and `test_on`: the probe is trained on one and tested on the other. Quadrants, without "
    "`groups`, train and test on the same slides, which overestimates how well the probe works on another."
)


@dataclass(frozen=True, eq=False)
class Folds:
    """The fold of every cell, ``LEFT_OUT`` for those in none, and a description of how the folds were made."""

    of_cell: np.ndarray  # (N,) int8
    by: str
    # If some slides only train: the part of each of their cells, LEFT_OUT for all other cells. Every fold is then
    # trained on all parts but one, which chooses the regularisation.
    training_part: np.ndarray | None = None

    @property
    def is_used(self) -> np.ndarray:
        """Whether each cell trains or tests."""
        used = self.of_cell != LEFT_OUT
        return used if self.training_part is None else np.asarray(used | (self.training_part != LEFT_OUT))

    def take(self, rows: np.ndarray) -> "Folds":
        """Return the folds of some cells."""
        part = None if self.training_part is None else self.training_part[rows]
        return Folds(self.of_cell[rows], self.by, part)

    @property
    def n(self) -> int:
        """Number of folds."""
        return int(self.of_cell.max()) + 1

    def train_validate_test(self, fold: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the rows of the training, validation (the next fold) and test cells of a fold."""
        if self.training_part is not None:
            validation = fold % (int(self.training_part.max()) + 1)
            train = (self.training_part != LEFT_OUT) & (self.training_part != validation)
            return (
                np.flatnonzero(train),
                np.flatnonzero(self.training_part == validation),
                np.flatnonzero(self.of_cell == fold),
            )
        validation = (fold + 1) % self.n
        train = (self.of_cell != LEFT_OUT) & (self.of_cell != fold) & (self.of_cell != validation)
        return np.flatnonzero(train), np.flatnonzero(self.of_cell == validation), np.flatnonzero(self.of_cell == fold)


def fold_by_group(groups: pd.Series, labels: np.ndarray, *, seed: int = 0) -> Folds:
    """Assign whole groups (patients, slides) to at most five folds with similar proportions of the labels.

    Parameters
    ----------
    groups
        The patient or slide of each cell; cells without one are left out.
    labels
        The class of each cell, "" where it has none.
    seed
        Seed of the order in which groups are assigned.
    """
    known = groups.notna().to_numpy()
    names = groups.astype(str).to_numpy()
    n_groups = len(np.unique(names[known]))
    if n_groups < MIN_GROUPS:
        msg = (
            f"column {groups.name!r} has {n_groups} groups; {MIN_GROUPS} are needed for separate training, validation "
            "and test cells."
        )
        raise InputError(msg, _REMEDY_FOR_TWO if n_groups == 2 else _REMEDY_FOR_ONE)
    n_folds = min(_MAX_FOLDS, n_groups)
    counts = pd.Series(labels[known]).value_counts()
    # Classes with fewer cells than folds cannot be stratified, so they are merged into one class.
    strata = np.where(pd.Series(labels).map(counts).fillna(0).to_numpy() < n_folds, "", labels)
    if 0 < (strata[known] == "").sum() < n_folds:
        strata[strata == ""] = counts.index[0]
    of_cell = np.full(len(groups), LEFT_OUT, dtype=np.int8)
    rows = np.flatnonzero(known)
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    for fold, (_, test) in enumerate(splitter.split(rows, strata[known], names[known])):
        of_cell[rows[test]] = fold
    return Folds(of_cell, f"{groups.name} ({n_groups} in {n_folds} folds)")


def fold_by_quadrant(adata: AnnData, *, guard_um: float) -> Folds:
    """Divide each slide at the medians of x and y into four quadrants, separated by a guard band that is in none.

    Two cells of different quadrants are at least ``guard_um`` apart in x or in y, so patches of that size share no
    pixel.
    """
    points = np.asarray(adata.obsm["spatial"], dtype=np.float64)  # (N, 2): x, y in µm
    of_cell = np.full(adata.n_obs, LEFT_OUT, dtype=np.int8)
    for here in rows_by_slide(adata).values():
        offset = points[here] - np.median(points[here], axis=0)
        right, below = (offset >= 0).T
        outside_band = (np.abs(offset) >= guard_um / 2).all(axis=1)
        # Clockwise, so that the validation quadrant is always adjacent to the test quadrant.
        quadrant = np.where(below, 3 - right, right)
        of_cell[here] = np.where(outside_band, quadrant, LEFT_OUT)
    return Folds(of_cell, f"quadrant of the slide, {guard_um:g} µm guard band")


def fold_by_transfer(
    adata: AnnData, *, train_on: Sequence[str], test_on: Sequence[str], column: str = "slide", guard_um: float
) -> Folds:
    """Train on the cells of some slides and test on those of others; two slides are enough.

    The folds are the test slides if there are three to five, otherwise their quadrants. Every fold is predicted by a
    probe trained on the same slides. A quadrant of the training slides, separated from the others by the guard band,
    chooses the regularisation.

    Parameters
    ----------
    train_on, test_on
        Values of ``column``; of one of the two, the default is all other values.
    column
        Column of ``obs``: the slide, or for example the patient.
    guard_um
        Width of the guard band between the quadrants of the training slides.
    """
    names = _names_of(adata, column)
    known = list(dict.fromkeys(sorted(name for name in names if name)))
    train_on, test_on = list(dict.fromkeys(train_on)), list(dict.fromkeys(test_on))
    unknown = [name for name in (*train_on, *test_on) if name not in known]
    both = [name for name in train_on if name in test_on]
    if unknown:
        msg = f"{column} {unknown[0]!r} was not found; the cells are of {', '.join(known)}."
        raise InputError(msg)
    train_on = train_on or [name for name in known if name not in test_on]
    test_on = test_on or [name for name in known if name not in train_on]
    if both or not train_on or not test_on:
        problem = f"{column} {both[0]!r} is to train and to test" if both else f"no other {column} is left to test on"
        problem = problem if train_on else f"no other {column} is left to train on"
        msg = f"{problem}."
        raise InputError(msg, "Name different ones in `train_on` and `test_on`.")
    training_part = fold_by_quadrant(adata, guard_um=guard_um).of_cell
    training_part[~np.isin(names, train_on)] = LEFT_OUT
    if MIN_GROUPS <= len(test_on) <= _MAX_FOLDS:
        of_cell = np.array([test_on.index(name) if name in test_on else LEFT_OUT for name in names], dtype=np.int8)
        parts = f"{column} {_listed(test_on)}"
    else:
        of_cell = fold_by_quadrant(adata, guard_um=0).of_cell
        of_cell[~np.isin(names, test_on)] = LEFT_OUT
        parts = f"quadrant of {column} {_listed(test_on)}"
    return Folds(of_cell, f"{parts}, trained on {_listed(train_on)}", training_part)


def _names_of(adata: AnnData, column: str) -> np.ndarray:
    """Return the slide or group of each cell, which stays in one fold, as text, "" where it is missing."""
    if column not in adata.obs:
        msg = f"column {column!r} was not found to choose training and test cells."
        raise InputError(msg, f"obs has the columns {', '.join(adata.obs.columns)}; name one with `groups`.")
    values = adata.obs[column].astype(object)
    return np.asarray(values.where(values.notna(), "").astype(str), dtype=object)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_MAX_FOLDS]) + (f" and {len(names) - _MAX_FOLDS} more" if len(names) > _MAX_FOLDS else "")


def fold_at_random(codes: np.ndarray, n_folds: int, *, seed: int = 0) -> Folds:
    """Assign cells to folds at random, so that neighbours that share pixels are in training and test.

    Use it only to measure how much such a split overestimates a score.

    Parameters
    ----------
    codes
        The class of each cell; folds are stratified by class.
    """
    of_cell = np.empty(len(codes), dtype=np.int8)
    splitter = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
    for fold, (_, test) in enumerate(splitter.split(codes, codes)):
        of_cell[test] = fold
    return Folds(of_cell, "cells at random")
