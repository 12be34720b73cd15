"""Scores of a description: linear probe, neighbours, few labels, and clusters, by the same folds for all."""

import warnings
from collections.abc import Iterator

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from scipy.stats import ttest_rel
from sklearn.metrics import adjusted_rand_score, balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from mxsplicer.tl.probing import fit_fold
from mxsplicer.tl.tasks import Task

TRAINING_CELLS = 500  # of a class, for the linear probe
FEW = 20  # labels of a class
NEIGHBOURS = 20
RESOLUTIONS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
CLUSTER_NEIGHBOURS = 15
SCALES = (StandardScaler(with_std=False), StandardScaler())
METRICS = ("linear", "neighbours", "few_labels")


def score_folds(features: np.ndarray, task: Task, *, seed: int = 0) -> pd.DataFrame:
    """Return balanced accuracies of a description (n cells of the task, d), one row per fold.

    The linear probe and that with few labels take the features of any description as they are, or with unit variance,
    whichever predicts the validation fold better; neighbours take them as they are, as scanpy does.
    """
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")  # weakly regularised fits may stop early
        return pd.DataFrame(list(_score_folds(np.asarray(features, dtype=np.float32), task, seed)))


def _score_folds(features: np.ndarray, task: Task, seed: int) -> Iterator[dict[str, float]]:
    for fold in range(task.folds.n):
        test = np.flatnonzero(task.folds.of_cell == fold)
        train = np.flatnonzero(task.folds.of_cell != fold)
        scores = {"fold": fold}
        for name, per_class in (("linear", TRAINING_CELLS), ("few_labels", FEW)):
            predict, _, _ = fit_fold(features, task, fold, SCALES, per_class, seed)
            scores[name] = balanced_accuracy_score(task.codes[test], predict(features[test]).argmax(axis=1))
        near = KNeighborsClassifier(min(NEIGHBOURS, len(train)), algorithm="brute")
        near.fit(features[train], task.codes[train])
        scores["neighbours"] = balanced_accuracy_score(task.codes[test], near.predict(features[test]))
        yield scores


def score_clusters(features: np.ndarray, labels: np.ndarray, *, seed: int = 0) -> dict[str, float]:
    """Return the adjusted Rand index of Leiden clusters with labels: the best of the resolutions, and at 1.0."""
    known = labels != ""
    cells = AnnData(obs=pd.DataFrame(index=[str(i) for i in range(known.sum())]))
    cells.obsm["X"] = np.asarray(features[known], dtype=np.float32)
    index = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # FutureWarnings of scanpy
        sc.pp.neighbors(cells, CLUSTER_NEIGHBOURS, use_rep="X", transformer="sklearn", random_state=seed)
        for resolution in RESOLUTIONS:
            options = {"flavor": "igraph", "n_iterations": 2, "directed": False, "random_state": seed}
            sc.tl.leiden(cells, resolution=resolution, **options)
            index[resolution] = adjusted_rand_score(labels[known], cells.obs["leiden"])
    return {"ari_best": max(index.values()), "ari_1.0": index[1.0]}


def summarise(folds: pd.DataFrame, classical: set[str]) -> pd.DataFrame:
    """Return one row per data set, label and description: means, and differences to the best classical description.

    Parameters
    ----------
    folds
        One row per fold, with ``data``, ``label``, ``description`` and the metrics. Seeds of one data set are pooled:
        ``fold`` names them apart.
    classical
        Descriptions among which the best is sought, for each metric.
    """
    rows = []
    for (data, label), group in folds.groupby(["data", "label"], sort=False):
        wide = {metric: group.pivot(index="fold", columns="description", values=metric) for metric in METRICS}
        for description in group["description"].unique():
            row = {"data": data, "label": label, "description": description}
            for metric, table in wide.items():
                scores = table[description]
                row |= {metric: scores.mean(), f"{metric}_sd": scores.std(ddof=1)}
                others = table[[name for name in table if name in classical and name != description]].mean()
                if len(others):
                    best = table[others.idxmax()]
                    row |= {f"{metric}_best_classical": others.idxmax(), f"{metric}_difference": (scores - best).mean()}
                    row[f"{metric}_p"] = ttest_rel(scores, best).pvalue
            rows.append(row)
    return pd.DataFrame(rows)
