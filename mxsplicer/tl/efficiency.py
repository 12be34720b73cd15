"""Label efficiency: how well a representation predicts a label when fewer cells are labelled."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from sklearn.metrics import balanced_accuracy_score

from mxsplicer.system.progress import track
from mxsplicer.system.workers import in_parallel
from mxsplicer.tl.probing import CELLS_PER_CLASS, fit_fold
from mxsplicer.tl.representations import MEAN_INTENSITY, features_of, names_with_reference
from mxsplicer.tl.scaling import scalers
from mxsplicer.tl.tasks import Task

LABELS_PER_CLASS = (100, 200, 500, 1000, 2000)

_COLUMNS = ["label", "representation", "labels_per_class", "balanced_accuracy", "balanced_accuracy_sd", "gain"]
_COLUMNS += ["gain_sd"]


def probe_few_labels(
    adata: AnnData,
    task: Task,
    *,
    labels_per_class: Sequence[int] = LABELS_PER_CLASS,
    representations: Sequence[str] | None = None,
    scores: pd.DataFrame | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Score the linear probe of each representation with fewer labelled cells: its label-efficiency curve.

    The test cells and the folds are those of :func:`~mxsplicer.tl.probing.probe`; only the number of training cells per
    class changes.

    Parameters
    ----------
    adata
        Cells with a label in ``obs``; intensities in ``X``; representations in ``obsm``.
    task
        What :func:`~mxsplicer.tl.tasks.set_task` returns.
    labels_per_class
        Points of the curve. A point that no class reaches in every fold is left out.
    representations, seed
        As for :func:`~mxsplicer.tl.probing.probe`; the same seed labels the same cells for every representation.
    scores
        What :func:`~mxsplicer.tl.probing.probe` returned for this task with its defaults. The point of 2,000 labels is
        then taken from there instead of being computed again.

    Returns
    -------
    One row per representation and point: ``labels_per_class``, ``balanced_accuracy``, ``gain`` over mean intensity with
    the same number of labels, and with ``_sd`` their standard deviations across folds.
    """
    splits = [task.folds.train_validate_test(fold) for fold in range(task.folds.n)]
    most = min(np.bincount(task.codes[np.concatenate(split[:2])]).max() for split in splits)
    reached = [size for size in labels_per_class if size <= most]
    sizes = [size for size in reached if scores is None or size != CELLS_PER_CLASS]
    names = names_with_reference(adata, representations)
    found: dict[tuple[str, int], Any] = {}
    for name in track(names, f"Scoring {task.label} with fewer labels"):
        for size, of_folds in zip(sizes, _score_sizes(adata, task, name, sizes, seed), strict=True):
            found[name, size] = pd.Series(of_folds)
    rows = []
    for (name, size), of_folds in found.items():
        gain = of_folds - found[MEAN_INTENSITY, size]
        rows.append(
            {
                "label": task.label,
                "representation": name,
                "labels_per_class": size,
                "balanced_accuracy": of_folds.mean(),
                "balanced_accuracy_sd": of_folds.std(ddof=1),
                "gain": gain.mean(),
                "gain_sd": gain.std(ddof=1),
            }
        )
    table = pd.DataFrame(rows, columns=_COLUMNS)
    if len(sizes) < len(reached) and scores is not None:
        last = scores[scores["representation"].isin(names)].assign(labels_per_class=CELLS_PER_CLASS)
        table = pd.concat([table, last[_COLUMNS]] if rows else [last[_COLUMNS]], ignore_index=True)
    return table


def _score_sizes(adata: AnnData, task: Task, name: str, sizes: Sequence[int], seed: int) -> np.ndarray:
    """Return balanced accuracy for label efficiency (sizes, folds), with so many labelled cells per class."""
    x, scales = features_of(adata, name, task.rows), scalers(adata, name)

    def score_one(size_and_fold: tuple[int, int]) -> float:
        size, fold = size_and_fold
        test = np.flatnonzero(task.folds.of_cell == fold)
        predict = fit_fold(x, task, fold, scales, size, seed)[0]
        return float(balanced_accuracy_score(task.codes[test], predict(x[test]).argmax(axis=1)))

    pairs = [(size, fold) for size in sizes for fold in range(task.folds.n)]
    return np.reshape(in_parallel(score_one, pairs), (len(sizes), task.folds.n))
