"""Which markers a prediction rests on: exchange one marker's signal between cells and see what is lost.

This is permutation importance (Breiman 2001, "Random forests", section 10) of a marker, not of a feature: a learned
feature mixes markers, so the signal is exchanged in the image and the cell embedded again.
"""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from sklearn.metrics import balanced_accuracy_score

from mxsplicer.system.progress import track
from mxsplicer.tl.probing import Task, at_most, fit_fold
from mxsplicer.tl.representations import MEAN_INTENSITY, features_of, scalers

_CELLS = 2_000  # tested

Exchange = Callable[[np.ndarray, np.ndarray, int | None], np.ndarray]


def measure_reliance(
    adata: AnnData,
    task: Task,
    *,
    representation: str = MEAN_INTENSITY,
    exchange: Exchange | None = None,
    markers: Sequence[str] | None = None,
    candidates: np.ndarray | None = None,
    max_cells: int = _CELLS,
    max_cells_per_class: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure how much balanced accuracy a trained linear head loses when one marker's signal is exchanged.

    The head is that of :func:`~mxsplicer.tl.probing.probe`, trained on other folds. Of the cells that test it, each
    gets the signal of one marker from another cell of its slide and fold, drawn at random; all other markers stay. A
    head that rests on a marker loses; one that can read the same elsewhere does not, so small figures of two markers
    that tell the same do not mean that both are useless.

    Parameters
    ----------
    adata
        Cells with intensities in ``X`` and the representation.
    task
        What :func:`~mxsplicer.tl.probing.set_task` returns.
    representation
        What the head reads.
    exchange
        Takes rows of cells (n), rows of the cells whose signal they get (n), and the place of the marker in
        ``markers``, or None for no exchange; returns features (n, d). By default means are exchanged in ``X``.
    markers
        Names of the markers, ``adata.var_names`` by default.
    candidates
        Rows of ``adata`` that ``exchange`` can embed, all by default.
    max_cells
        Cells that are tested, at most, over all folds; as many of each class as there are.

    Returns
    -------
    One row per marker: ``loss`` of balanced accuracy, its standard deviation over folds, and ``intact``, the balanced
    accuracy without exchange.
    """
    rng = np.random.default_rng(seed)
    names = list(adata.var_names if markers is None else markers)
    change = exchange or _exchange_means(adata, task)
    slides = adata.obs["slide"].astype(str).to_numpy() if "slide" in adata.obs else np.full(adata.n_obs, "")
    x, scales = features_of(adata, representation, task.rows), scalers(adata, representation)
    usable = np.ones(len(task.rows), dtype=bool) if candidates is None else np.isin(task.rows, candidates)
    per_class = max(5, max_cells // (task.folds.n * len(task.classes)))
    losses, intact = np.empty((task.folds.n, len(names))), np.empty(task.folds.n)
    for fold in track(range(task.folds.n), f"Exchanging markers of {task.label}"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a fit that stops early is one the validation fold then does not choose
            predict = fit_fold(x, task, fold, scales, max_cells_per_class, seed)[0]
        test = at_most(np.flatnonzero((task.folds.of_cell == fold) & usable), task.codes, per_class, rng)
        rows, codes = task.rows[test], task.codes[test]
        partners = _partners(rows, slides[rows], rng)
        intact[fold] = balanced_accuracy_score(codes, predict(change(rows, rows, None)).argmax(axis=1))
        for marker in range(len(names)):
            found = predict(change(rows, partners, marker)).argmax(axis=1)
            losses[fold, marker] = intact[fold] - balanced_accuracy_score(codes, found)
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


def _exchange_means(adata: AnnData, task: Task) -> Exchange:
    means = features_of(adata, MEAN_INTENSITY, task.rows)

    def change(rows: np.ndarray, partners: np.ndarray, marker: int | None) -> np.ndarray:
        x, other = (means[np.searchsorted(task.rows, some)] for some in (rows, partners))
        if marker is not None:
            x[:, marker] = other[:, marker]
        return x

    return change


def _partners(rows: np.ndarray, slides: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return another cell of the same slide for each cell; of a slide with one cell, that cell."""
    partners = rows.copy()
    for slide in np.unique(slides):
        here = rng.permutation(np.flatnonzero(slides == slide))
        partners[here] = rows[np.roll(here, 1)]
    return partners
