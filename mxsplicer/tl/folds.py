"""Which cells train a probe and which test it: never neighbours, never the same patient."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from mxsplicer.errors import InputError
from mxsplicer.tl.rows import rows_by_slide

LEFT_OUT = -1
MIN_GROUPS = 3  # one to test, one to choose the regularisation, one to train
_MAX_FOLDS = 5


@dataclass(frozen=True, eq=False)
class Folds:
    """The fold of every cell, ``LEFT_OUT`` for those in none, and how the folds were made, in words."""

    of_cell: np.ndarray  # (N,) int8
    by: str

    @property
    def n(self) -> int:
        """Number of folds."""
        return int(self.of_cell.max()) + 1

    def train_validate_test(self, fold: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the rows that train, those that choose the regularisation (the next fold) and those that test."""
        validation = (fold + 1) % self.n
        train = (self.of_cell != LEFT_OUT) & (self.of_cell != fold) & (self.of_cell != validation)
        return np.flatnonzero(train), np.flatnonzero(self.of_cell == validation), np.flatnonzero(self.of_cell == fold)


def fold_by_group(groups: pd.Series, labels: np.ndarray, *, seed: int = 0) -> Folds:
    """Deal whole groups (patients, slides) into at most five folds that resemble each other in their labels.

    Parameters
    ----------
    groups
        The patient or slide of each cell; cells without one are left out.
    labels
        The class of each cell, "" where it has none.
    seed
        Order in which groups are dealt.
    """
    known = groups.notna().to_numpy()
    names = groups.astype(str).to_numpy()
    n_groups = len(np.unique(names[known]))
    if n_groups < MIN_GROUPS:
        msg = (
            f"{groups.name!r} has {n_groups} groups; {MIN_GROUPS} are needed to train, choose and test apart. "
            "Leave groups out to score by quadrants of the slide."
        )
        raise InputError(msg)
    n_folds = min(_MAX_FOLDS, n_groups)
    counts = pd.Series(labels[known]).value_counts()
    # Classes with fewer cells than folds cannot be spread; as one class they do not disturb the others.
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
    """Cut each slide along the medians of x and y into four quadrants, with a band along the cuts in none of them.

    Two cells of different quadrants are at least ``guard_um`` apart in x or in y: patches of that size share no pixel.
    """
    points = np.asarray(adata.obsm["spatial"], dtype=np.float64)  # (N, 2): x, y in µm
    of_cell = np.full(adata.n_obs, LEFT_OUT, dtype=np.int8)
    for here in rows_by_slide(adata).values():
        offset = points[here] - np.median(points[here], axis=0)
        right, below = (offset >= 0).T
        outside_band = (np.abs(offset) >= guard_um / 2).all(axis=1)
        # Around the clock, so that the quadrant that validates always touches the one that tests.
        quadrant = np.where(below, 3 - right, right)
        of_cell[here] = np.where(outside_band, quadrant, LEFT_OUT)
    return Folds(of_cell, f"quadrant of the slide, {guard_um:g} µm guard band")


def fold_at_random(codes: np.ndarray, n_folds: int, *, seed: int = 0) -> Folds:
    """Deal cells one by one: neighbours, which share pixels, stand on both sides. Only to show what that flatters.

    Parameters
    ----------
    codes
        The class of each cell; every fold gets its share of each.
    """
    of_cell = np.empty(len(codes), dtype=np.int8)
    splitter = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
    for fold, (_, test) in enumerate(splitter.split(codes, codes)):
        of_cell[test] = fold
    return Folds(of_cell, "cells at random")
