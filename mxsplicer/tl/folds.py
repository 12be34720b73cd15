"""Folds of cells for training and testing probes, so that neighbours or one patient are never in both."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from mxsplicer.errors import InputError
from mxsplicer.tl.rows import rows_by_slide

LEFT_OUT = -1  # fold of a cell that is in none
MIN_GROUPS = 3  # to test, to choose the regularisation, and to train
_MAX_FOLDS = 5


@dataclass(frozen=True, eq=False)
class Folds:
    """The fold of every cell, ``LEFT_OUT`` for those in none, and a description of how the folds were made."""

    of_cell: np.ndarray  # (N,) int8
    by: str

    @property
    def n(self) -> int:
        """Number of folds."""
        return int(self.of_cell.max()) + 1

    def train_validate_test(self, fold: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the rows of the training, validation (the next fold) and test cells of a fold."""
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
        raise InputError(msg, "Leave out `groups` to score by quadrants of the slide.")
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
