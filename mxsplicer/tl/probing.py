"""Linear and nearest-neighbour probes: how well a representation predicts a label in held-out cells.

Test cells are from other patients, or from another part of the slide. Every representation and every baseline is scored
by the same protocol.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from anndata import AnnData
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import FunctionTransformer

from mxsplicer.system.progress import track
from mxsplicer.system.workers import in_parallel
from mxsplicer.tl.defaults import MAX_SCORED_CELLS
from mxsplicer.tl.folds import fold_at_random
from mxsplicer.tl.representations import (
    CONCATENATED,
    MEAN_INTENSITY,
    features_of,
    intensities_of,
    is_baseline,
    key_of,
    names_with_reference,
    trained,
)
from mxsplicer.tl.scaling import neighbour_scaler, scalers
from mxsplicer.tl.tasks import Task, at_most_per_class, set_task

T = TypeVar("T")

METRICS = ("balanced_accuracy", "macro_f1", "average_precision", "auroc", "knn_balanced_accuracy")
# Columns of how much the trained representation is better, and the metric that they compare.
TRAINED_GAINS = {"trained_gain": "balanced_accuracy", "knn_trained_gain": "knn_balanced_accuracy"}
CELLS_PER_CLASS = 2000  # training cells of a probe, at most

_C_PATH = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # inverse regularisation, strongest first
_PATIENCE = 2  # steps of the path without improvement before the rest is skipped
_N_NEIGHBOURS = 20
_KNN_TRAIN_CELLS, _KNN_TEST_CELLS = 10_000, 2_000  # per fold, since the cost is their product
_SCALE_CELLS = 10_000  # by which intensities are scaled before neighbours are searched


def probe(
    adata: AnnData,
    *,
    label: str,
    representations: Sequence[str] | None = None,
    groups: str | None = None,
    guard_um: float | None = None,
    train_on: Sequence[str] = (),
    test_on: Sequence[str] = (),
    max_cells_per_class: int = CELLS_PER_CLASS,
    max_cells: int = MAX_SCORED_CELLS,
    min_cells: int = 5,
    unsafe_random_split: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """Score how well each representation predicts a label, compared with its baselines.

    A class-balanced logistic regression is trained on some folds and tested on another; each fold is tested once. Folds
    are whole patients or slides, or quadrants of a slide with a guard band between them; with random folds, neighbours
    that share pixels would be in training and test. Scaling is fitted to the training cells. The regularisation is
    chosen on the fold after the tested one, which then joins the training cells.

    A probe reads what a label can be predicted from, and neighbours show what clusters and UMAPs will: the 20 nearest
    training cells by Euclidean distance vote. Learned representations are taken as they stand in ``obsm``, as
    ``scanpy.pp.neighbors`` takes them; intensities are logarithmised and scaled by all cells, labelled or not.

    Parameters
    ----------
    adata
        Cells with a label in ``obs``; intensities in ``X``; representations in ``obsm``.
    label
        Column of ``obs``. Cells where it is missing or "" are left out.
    representations
        Names of :data:`~mxsplicer.tl.representations.LEARNED`, of the baselines, or keys of ``obsm``; by default all
        that were found. A verdict is about the first learned one. ``"A + B"`` scores the concatenated features of two
        representations, to see whether A adds to B; the weight of A is chosen like the regularisation, and can be 0.
    groups
        Column of ``obs`` whose values stay in one fold, such as patient or slide, or ``"quadrants"``. By default
        ``patient`` or ``slide``, the first that has three or more values, otherwise quadrants.
    guard_um
        Width of the guard band between quadrants; by default the side of a patch.
    train_on, test_on
        Slides whose cells train the probe, and slides whose cells test it; of one of the two, the default is all other
        slides. With a column as ``groups``, its values, such as patients. This shows whether a probe carries over to
        another slide; two are enough. The folds are then parts of the test slides.
    max_cells_per_class
        Largest number of training cells of each class, drawn at random.
    max_cells
        Largest number of scored cells, drawn at random, so that classes keep their proportions.
    min_cells
        Classes with fewer cells than this in a fold are left out, and named in the result.
    unsafe_random_split
        Score the same cells in random folds too, to measure how much such a split would have overestimated.
    seed
        Seed of the sample and of the assignment of groups to folds.

    Returns
    -------
    One row per representation: for every metric its mean over folds and, with ``_sd``, its standard deviation;
    ``gain`` and ``gain_sd``, balanced accuracy minus that of mean intensity in the same folds; ``trained_gain`` and
    ``knn_trained_gain``, with ``_sd``, balanced accuracy of the first learned representation minus that of this one, by
    the probe and by neighbours; ``chance``, ``n_cells``, ``n_labelled``, ``n_classes``, ``folds``, ``folds_by``,
    ``classes``, ``left_out``; ``intensities``, a sentence if ``X`` is not raw. With ``unsafe_random_split`` also
    ``random_split`` and ``random_split_sd``, balanced accuracy in random folds, and ``leak``, how much higher it is.

    Sets
    ----
    ``adata.uns["mxsplicer_probe"]``
        The rows of every label scored so far.

    Raises
    ------
    InputError
        If fewer than two classes have enough cells in every fold.
    """
    task = set_task(
        adata,
        label=label,
        groups=groups,
        guard_um=guard_um,
        train_on=train_on,
        test_on=test_on,
        min_cells=min_cells,
        max_cells=max_cells,
        seed=seed,
    )
    table = score(
        adata,
        task,
        representations=representations,
        max_cells_per_class=max_cells_per_class,
        unsafe_random_split=unsafe_random_split,
        seed=seed,
    )
    remember(adata, table)
    return table


def score(
    adata: AnnData,
    task: Task,
    *,
    representations: Sequence[str] | None = None,
    max_cells_per_class: int = CELLS_PER_CLASS,
    unsafe_random_split: bool = False,
    reference: AnnData | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Return the table of :func:`probe` for a task, without writing it into ``adata``.

    ``reference`` holds the cells by which intensities are scaled before neighbours are searched, for an ``adata`` that
    lacks the unlabelled ones: an analyst scales by all cells, and scaling by cells of similar types amplifies noise.
    """
    reference = adata if reference is None else reference
    names = names_with_reference(adata, representations)
    at_random = replace(task, folds=fold_at_random(task.codes, task.folds.n, seed=seed))
    of_folds: dict[str, pd.DataFrame] = {}
    leaks: dict[str, dict[str, float]] = {}
    for name in track(names, f"Scoring {task.label}"):
        of_folds[name] = _score_folds(adata, task, name, max_cells_per_class, reference, seed)
        if unsafe_random_split:
            random_split = _score_folds(adata, at_random, name, max_cells_per_class, reference, seed)[
                "balanced_accuracy"
            ]
            leaks[name] = {
                "random_split": float(random_split.mean()),
                "random_split_sd": float(random_split.std(ddof=1)),
                "leak": float(random_split.mean() - of_folds[name]["balanced_accuracy"].mean()),
            }
    own_name = trained(names)
    own = None if is_baseline(own_name) else of_folds[own_name]
    rows = [
        {"label": task.label, "representation": name}
        | _mean_and_sd(scores, of_folds[MEAN_INTENSITY], own)
        | leaks.get(name, {})
        | task.about
        | {"intensities": str(intensities_of(adata))}
        for name, scores in of_folds.items()
    ]
    return pd.DataFrame(rows, index=pd.Index([f"{task.label}: {name}" for name in names]))


def remember(adata: AnnData, table: pd.DataFrame) -> None:
    """Add a table of probe scores to ``uns["mxsplicer_probe"]``, where it replaces those of the same labels."""
    earlier = adata.uns.get("mxsplicer_probe")
    kept = [] if earlier is None else [earlier[~earlier["label"].isin(table["label"])]]
    joined = pd.concat([*(rows for rows in kept if len(rows)), table])
    adata.uns["mxsplicer_probe"] = joined.fillna({"intensities": ""})  # scores of version 0.1 have no such column


def fit_fold(
    features: np.ndarray, task: Task, fold: int, scales: Sequence[Any], max_per_class: int, seed: int
) -> tuple[Callable[[np.ndarray], np.ndarray], Any, np.ndarray]:
    """Train the linear probe that is tested on a fold, on features of the task's cells.

    The validation fold chooses the regularisation and, where there are several, the scaling.

    Returns
    -------
    A function from features (n, d) to probabilities (n, classes); the scaling; the rows of the training cells.
    """
    rng = np.random.default_rng([seed, fold])
    codes = task.codes
    train, validation, _ = task.folds.train_validate_test(fold)
    train = at_most_per_class(train, codes, max_per_class, rng)
    found = []
    for each in scales:
        scale = clone(each).fit(features[train])
        x_train, x_validation = scale.transform(features[train]), scale.transform(features[validation])
        found.append(_choose_c(x_train, codes[train], x_validation, codes[validation]))
    chosen = int(np.argmax([score for score, _ in found]))  # the first of equals

    train = at_most_per_class(np.concatenate([train, validation]), codes, max_per_class, rng)
    scale = clone(scales[chosen]).fit(features[train])
    model = _logistic(found[chosen][1]).fit(scale.transform(features[train]), codes[train])
    return lambda x: np.asarray(model.predict_proba(scale.transform(x))), scale, train


def _score_folds(
    adata: AnnData, task: Task, name: str, max_per_class: int, reference: AnnData, seed: int
) -> pd.DataFrame:
    """Return the metrics of the probe on a representation, one row per fold."""
    x, scales = features_of(adata, name, task.rows), scalers(adata, name)
    # What the distance of concatenated features means would depend on their weights, so they have no neighbours.
    is_concatenation = CONCATENATED in name and name not in adata.obsm
    for_neighbours = None if is_concatenation else _fit_neighbour_scaler(reference, adata, name, seed)

    def score_fold(fold: int) -> dict[str, float]:
        test = np.flatnonzero(task.folds.of_cell == fold)
        predict = fit_fold(x, task, fold, scales, max_per_class, seed)[0]
        train = np.concatenate(task.folds.train_validate_test(fold)[:2])
        knn = np.nan
        if for_neighbours is not None:
            knn = _score_neighbours(for_neighbours, x, task.codes, train, test, seed)
        return _metrics(task.codes[test], predict(x[test])) | {"knn_balanced_accuracy": knn}

    return pd.DataFrame(in_parallel(score_fold, range(task.folds.n)))


def _fit_neighbour_scaler(reference: AnnData, adata: AnnData, name: str, seed: int) -> Any:
    scale, key = neighbour_scaler(name), key_of(name)
    if isinstance(scale, FunctionTransformer):
        return scale
    cells = adata if key in adata.obsm and key not in reference.obsm else reference
    rows = np.sort(np.random.default_rng(seed).permutation(cells.n_obs)[:_SCALE_CELLS])
    return scale.fit(features_of(cells, name, rows))


def _score_neighbours(
    scale: Any, features: np.ndarray, codes: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int
) -> float:
    """Return the balanced accuracy of the probe by neighbours: a vote of the nearest training cells."""
    # Training cells keep the proportions of the tissue, as a graph of neighbours has them. Of the test cells, large
    # classes are sampled: balanced accuracy weights all classes equally, so its expectation does not change.
    rng, n_classes = np.random.default_rng(seed), int(codes.max()) + 1
    train = np.sort(rng.permutation(train)[:_KNN_TRAIN_CELLS])
    test = at_most_per_class(test, codes, max(_N_NEIGHBOURS, _KNN_TEST_CELLS // n_classes), rng)
    neighbours = KNeighborsClassifier(min(_N_NEIGHBOURS, len(train)), algorithm="brute")
    neighbours.fit(scale.transform(features[train]), codes[train])
    return float(balanced_accuracy_score(codes[test], neighbours.predict(scale.transform(features[test]))))


def _choose_c(x: np.ndarray, y: np.ndarray, x_validation: np.ndarray, y_validation: np.ndarray) -> tuple[float, float]:
    """Return the probe's best balanced accuracy on validation cells, and the inverse regularisation that reaches it."""
    model = _logistic(_C_PATH[0])
    best, best_score = 0, -1.0
    for step, c in enumerate(_C_PATH):  # strongest first; each fit starts from the coefficients of the last
        model.set_params(C=c)
        model.fit(x, y)
        score = balanced_accuracy_score(y_validation, model.predict(x_validation))
        if score > best_score + 1e-9:
            best, best_score = step, score
        elif step - best >= _PATIENCE:
            break
    return best_score, _C_PATH[best]


def _logistic(c: float) -> Any:
    return LogisticRegression(C=c, class_weight="balanced", tol=1e-3, max_iter=300, warm_start=True)


def _metrics(codes: np.ndarray, probability: np.ndarray) -> dict[str, float]:
    one_hot = codes[:, None] == np.arange(probability.shape[1])
    predicted = probability.argmax(axis=1)
    return {
        "balanced_accuracy": float(balanced_accuracy_score(codes, predicted)),
        "macro_f1": float(f1_score(codes, predicted, average="macro")),
        "average_precision": float(average_precision_score(one_hot, probability, average="macro")),
        "auroc": float(roc_auc_score(one_hot, probability, average="macro")),
    }


def _mean_and_sd(scores: pd.DataFrame, reference: pd.DataFrame, own: pd.DataFrame | None) -> dict[str, float]:
    """Return the mean of each probe metric over folds and its standard deviation, and those of the differences.

    The differences are paired over folds: from mean intensity (``reference``), and of the trained representation
    (``own``) from this one; NaN without a trained one.
    """
    columns = scores.assign(gain=scores["balanced_accuracy"] - reference["balanced_accuracy"])
    for gain, metric in TRAINED_GAINS.items():
        columns[gain] = np.nan if own is None else own[metric] - scores[metric]
    mean, sd = columns.mean(), columns.std(ddof=1)
    return {
        key: float(value)
        for name in (*METRICS, "gain", *TRAINED_GAINS)
        for key, value in ((name, mean[name]), (f"{name}_sd", sd[name]))
    }
