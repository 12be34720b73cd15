"""Permutation importance of markers: how much accuracy a classifier loses when one marker is permuted between cells.

Breiman 2001, "Random forests", section 10. A learned feature mixes markers, so for a learned representation the marker
is permuted in the image and the cells are embedded again.
"""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from sklearn.metrics import balanced_accuracy_score

from mxsplicer.system.progress import track
from mxsplicer.tl.probing import fit_fold
from mxsplicer.tl.representations import MEAN_INTENSITY, features_of
from mxsplicer.tl.scaling import scalers
from mxsplicer.tl.tasks import Task, at_most_per_class

_MAX_CELLS = 2_000

FeaturesWithPermutedMarker = Callable[[np.ndarray, np.ndarray, int | None], np.ndarray]


def permutation_importance(
    adata: AnnData,
    task: Task,
    *,
    representation: str = MEAN_INTENSITY,
    permuted_features: FeaturesWithPermutedMarker | None = None,
    markers: Sequence[str] | None = None,
    candidates: np.ndarray | None = None,
    max_cells: int = _MAX_CELLS,
    max_cells_per_class: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure the permutation importance of every marker for predicting a label.

    The classifier is the linear probe of :func:`~mxsplicer.tl.probing.probe`, trained on the other folds. In the cells
    that test it, the signal of one marker is permuted among the cells of the same slide and fold; all other markers
    stay. The importance of the marker is the balanced accuracy that this costs. Two markers that carry the same
    information can both have a low importance, because the classifier reads one where the other is permuted.

    Parameters
    ----------
    adata
        Cells with intensities in ``X`` and the representation.
    task
        What :func:`~mxsplicer.tl.tasks.set_task` returns.
    representation
        What the classifier reads.
    permuted_features
        Function of three arguments: rows of cells (n), rows of the cells whose signal they receive (n), and the index
        of the permuted marker in ``markers``, or None for the unchanged cells. It returns features (n, d). By default
        mean intensities are permuted in ``X``.
    markers
        Names of the markers, ``adata.var_names`` by default.
    candidates
        Rows of ``adata`` that ``permuted_features`` can embed, all by default.
    max_cells
        Largest number of test cells over all folds, the same number of each class where there are enough.

    Returns
    -------
    One row per marker: ``loss`` of balanced accuracy, ``loss_sd``, its standard deviation across folds, and ``intact``,
    the balanced accuracy without permutation.
    """
    rng = np.random.default_rng(seed)
    names = list(adata.var_names if markers is None else markers)
    features = permuted_features or _permuted_means(adata, task)
    slides = adata.obs["slide"].astype(str).to_numpy() if "slide" in adata.obs else np.full(adata.n_obs, "")
    x, scales = features_of(adata, representation, task.rows), scalers(adata, representation)
    usable = np.ones(len(task.rows), dtype=bool) if candidates is None else np.isin(task.rows, candidates)
    per_class = max(5, max_cells // (task.folds.n * len(task.classes)))
    losses, intact = np.empty((task.folds.n, len(names))), np.empty(task.folds.n)
    for fold in track(range(task.folds.n), f"Permuting markers for {task.label}"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the validation fold does not choose a fit that stopped early
            predict = fit_fold(x, task, fold, scales, max_cells_per_class, seed)[0]
        test = at_most_per_class(np.flatnonzero((task.folds.of_cell == fold) & usable), task.codes, per_class, rng)
        rows, codes = task.rows[test], task.codes[test]
        donors = _permuted_within_slides(rows, slides[rows], rng)
        intact[fold] = balanced_accuracy_score(codes, predict(features(rows, rows, None)).argmax(axis=1))
        for marker in range(len(names)):
            predicted = predict(features(rows, donors, marker)).argmax(axis=1)
            losses[fold, marker] = intact[fold] - balanced_accuracy_score(codes, predicted)
    return pd.DataFrame(
        {
            "label": task.label,
            "representation": representation,
            "marker": names,
            "loss": losses.mean(axis=0),
            "loss_sd": losses.std(axis=0, ddof=1),
            "intact": intact.mean(),
        }
    )


def _permuted_means(adata: AnnData, task: Task) -> FeaturesWithPermutedMarker:
    means = features_of(adata, MEAN_INTENSITY, task.rows)

    def features(rows: np.ndarray, donors: np.ndarray, marker: int | None) -> np.ndarray:
        x, of_donors = (means[np.searchsorted(task.rows, some)] for some in (rows, donors))
        if marker is not None:
            x[:, marker] = of_donors[:, marker]
        return x

    return features


def _permuted_within_slides(rows: np.ndarray, slides: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Permute a marker: return the cell from which each cell gets it, another of the same slide if there is one."""
    permuted = rows.copy()
    for slide in np.unique(slides):
        here = rng.permutation(np.flatnonzero(slides == slide))
        permuted[here] = rows[np.roll(here, 1)]
    return permuted
