"""What a representation knows about a label: probes on cells of other patients, or of another part of the slide.

The protocol is one for every representation, and the baselines a reviewer would ask for stand beside it.
"""

import logging
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.stats import t as t_distribution
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from mxsplicer.errors import InputError
from mxsplicer.system.progress import track
from mxsplicer.tl.folds import FEWEST_GROUPS, LEFT_OUT, Folds, fold_at_random, fold_by_group, fold_by_quadrant
from mxsplicer.tl.representations import (
    LEARNED,
    MEAN_INTENSITY,
    available,
    check_representation,
    features_of,
    is_baseline,
    scalers,
    trained,
)

__all__ = ["LEARNED", "MEAN_INTENSITY", "METRICS", "Task", "probe", "probe_few_labels", "set_task", "verdict"]

logger = logging.getLogger(__name__)
T = TypeVar("T")

METRICS = ("balanced_accuracy", "macro_f1", "average_precision", "auroc", "knn_balanced_accuracy")
QUADRANTS = "quadrants"  # as a value of ``groups``
MAX_CELLS = 100_000  # scored, of a label
CELLS_PER_CLASS = 2000  # that train a probe, at most
LABELS_PER_CLASS = (100, 200, 500, 1000, 2000)

_C_PATH = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # inverse regularisation, strongest first
_POINT = ("label", "representation", "labels_per_class", "balanced_accuracy", "balanced_accuracy_sd", "gain", "gain_sd")
_PATIENCE = 2  # steps of the path without gain before the rest is skipped
_NEIGHBOURS = 20
_REFERENCES, _QUERIES = (
    10_000,
    2_000,
)  # cells among and for which neighbours are sought in a fold; their cost is quadratic
_SMALLEST_GAIN = 0.01  # below one point a difference is called none
_FALSE_CALLS = 0.05  # of differences where there is none
_MOST_THREADS = 4


@dataclass(frozen=True, eq=False)
class Task:
    """The cells of a label that are scored, their classes and their folds.

    Attributes
    ----------
    rows
        Which cells, ascending (n).
    codes
        Place of each one's class in ``classes`` (n).
    folds
        Of these cells.
    left_out
        Classes that are too rare to stand in every fold.
    n_labelled
        Cells that have a label; ``rows`` lacks those in the guard band, of rare classes, and beyond the cap.
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
        """What a table of scores says of how it was made."""
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
    min_cells: int = 5,
    max_cells: int = MAX_CELLS,
    seed: int = 0,
) -> Task:
    """Choose the cells that are scored and deal them into folds; the arguments are those of :func:`probe`."""
    labels = _labels(adata, label)
    folds = _folds(adata, labels, groups, guard_um, seed)
    candidates = np.flatnonzero((labels != "") & (folds.of_cell != LEFT_OUT))
    if len(candidates) > max_cells:
        candidates = np.sort(np.random.default_rng(seed).choice(candidates, max_cells, replace=False))
        logger.info("Label %s: %d of %d labelled cells are scored", label, max_cells, (labels != "").sum())
    classes, left_out = _classes(labels, candidates, folds, min_cells, label)
    rows = candidates[np.isin(labels[candidates], classes)]
    return Task(
        label=label,
        rows=rows,
        codes=np.searchsorted(classes, labels[rows]),
        folds=Folds(folds.of_cell[rows], folds.by),
        classes=tuple(classes),
        left_out=tuple(left_out),
        n_labelled=int((labels != "").sum()),
    )


def probe(
    adata: AnnData,
    *,
    label: str,
    representations: Sequence[str] | None = None,
    groups: str | None = None,
    guard_um: float | None = None,
    max_cells_per_class: int = CELLS_PER_CLASS,
    max_cells: int = MAX_CELLS,
    min_cells: int = 5,
    unsafe_random_split: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """Score how well each representation tells the classes of a label apart, beside its baselines.

    A class-balanced logistic regression is trained on some folds and tested on another, in turn. Folds are whole
    patients or slides, or quadrants of a slide with a guard band between them; random folds would let neighbours, which
    share pixels, stand on both sides. Scaling is fitted on the training cells; the regularisation is chosen on the
    fold after the tested one, which then joins the training.

    Parameters
    ----------
    adata
        Cells with a label in ``obs``; intensities in ``X``; representations in ``obsm``.
    label
        Column of ``obs``. Cells where it is missing or "" are left out.
    representations
        Names of :data:`LEARNED`, of the baselines, or keys of ``obsm``; all there are by default. The first that was
        learned is what a verdict is about. ``"A + B"`` scores two of them side by side, to see whether A adds to B: how
        much A weighs is chosen as the regularisation is, and may be nothing.
    groups
        Column of ``obs`` whose values stay together, patient or slide, or ``"quadrants"``. By default ``patient`` or
        ``slide``, the first that has three or more values, else quadrants.
    guard_um
        Width of the band between quadrants; by default the side of a patch.
    max_cells_per_class
        Cells of one class used in training, at most; drawn at random.
    max_cells
        Cells that are scored, at most; drawn at random, so that classes keep their shares.
    min_cells
        Classes with fewer cells than this in any fold are left out, and named in the result.
    unsafe_random_split
        Score the same cells in random folds as well, to measure how much such a split would have flattered.
    seed
        Draws the cells and deals the groups.

    Returns
    -------
    One row per representation: for every metric its mean over folds and, with ``_sd``, its standard deviation;
    ``gain`` and ``gain_sd``, balanced accuracy minus that of mean intensity in the same folds; ``chance``, ``n_cells``,
    ``n_labelled``, ``n_classes``, ``folds``, ``folds_by``, ``classes``, ``left_out``. With ``unsafe_random_split`` also
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
        adata, label=label, groups=groups, guard_um=guard_um, min_cells=min_cells, max_cells=max_cells, seed=seed
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
    seed: int = 0,
) -> pd.DataFrame:
    """Return the table of :func:`probe` for cells and folds that are chosen, and write it nowhere."""
    names = _names(adata, representations)
    at_random = replace(task, folds=fold_at_random(task.codes, task.folds.n, seed=seed))
    per_fold: dict[str, pd.DataFrame] = {}
    leaks: dict[str, dict[str, float]] = {}
    for name in track(names, f"Scoring {task.label}"):
        x, scales = features_of(adata, name, task.rows), scalers(adata, name)

        def score_in(task: Task, fold: int, x: np.ndarray = x, scales: Sequence[Any] = scales) -> dict[str, float]:
            return _score_fold(x, task, fold, scales, max_cells_per_class, seed)

        per_fold[name] = pd.DataFrame(_at_once(lambda fold: score_in(task, fold), range(task.folds.n)))
        if unsafe_random_split:
            flattered = pd.DataFrame(_at_once(lambda fold: score_in(at_random, fold), range(task.folds.n)))
            random_split = flattered["balanced_accuracy"]
            leaks[name] = {
                "random_split": float(random_split.mean()),
                "random_split_sd": float(random_split.std(ddof=1)),
                "leak": float(random_split.mean() - per_fold[name]["balanced_accuracy"].mean()),
            }
    rows = [
        {"label": task.label, "representation": name}
        | _row(scores, per_fold[MEAN_INTENSITY])
        | leaks.get(name, {})
        | task.about
        for name, scores in per_fold.items()
    ]
    return pd.DataFrame(rows, index=pd.Index([f"{task.label}: {name}" for name in names]))


def remember(adata: AnnData, table: pd.DataFrame) -> None:
    """Put a table of scores in place of what ``uns["mxsplicer_probe"]`` holds of its label."""
    earlier = adata.uns.get("mxsplicer_probe")
    kept = [] if earlier is None else [earlier[~earlier["label"].isin(table["label"])]]
    adata.uns["mxsplicer_probe"] = pd.concat([*(part for part in kept if len(part)), table])


def probe_few_labels(
    adata: AnnData,
    task: Task,
    *,
    labels_per_class: Sequence[int] = LABELS_PER_CLASS,
    representations: Sequence[str] | None = None,
    scores: pd.DataFrame | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Score the linear probe of each representation when fewer cells are labelled: its label-efficiency curve.

    The cells that test are those of :func:`probe`, in the same folds; of each class at most so many train.

    Parameters
    ----------
    adata
        Cells with a label in ``obs``; intensities in ``X``; representations in ``obsm``.
    task
        What :func:`set_task` returns.
    labels_per_class
        Points of the curve. Those that no class reaches in every fold are left out.
    representations, seed
        As for :func:`probe`; the same seed labels the same cells for every representation.
    scores
        What :func:`probe` found of the same task by default; the point of 2,000 labels is taken from it, not made anew.

    Returns
    -------
    One row per representation and point: ``labels_per_class``, ``balanced_accuracy``, ``gain`` over mean intensity
    with as many labels, and with ``_sd`` their standard deviations over the folds.
    """
    tests = [task.folds.of_cell == fold for fold in range(task.folds.n)]
    most = min(np.bincount(task.codes[~test]).max() for test in tests)
    reached = [size for size in labels_per_class if size <= most]
    sizes = [size for size in reached if scores is None or size != CELLS_PER_CLASS]
    names = _names(adata, representations)
    found: dict[tuple[str, int], Any] = {}
    for name in track(names, f"Scoring {task.label} with fewer labels"):
        x, scales = features_of(adata, name, task.rows), scalers(adata, name)

        def score_in(place: tuple[int, int], x: np.ndarray = x, scales: Sequence[Any] = scales) -> float:
            size, fold = place
            test = np.flatnonzero(tests[fold])
            predict = fit_fold(x, task, fold, scales, size, seed)[0]
            return float(balanced_accuracy_score(task.codes[test], predict(x[test]).argmax(axis=1)))

        places = [(size, fold) for size in sizes for fold in range(task.folds.n)]
        values = np.reshape(_at_once(score_in, places), (len(sizes), task.folds.n))
        found |= {(name, size): pd.Series(of_folds) for size, of_folds in zip(sizes, values, strict=True)}
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
    table = pd.DataFrame(rows, columns=list(_POINT))
    if len(sizes) < len(reached) and scores is not None:
        last = scores[scores["representation"].isin(names)].assign(labels_per_class=CELLS_PER_CLASS)
        table = pd.concat([table, last[list(_POINT)]] if rows else [last[list(_POINT)]], ignore_index=True)
    return table


def verdict(scores: pd.DataFrame) -> list[str]:
    """Say for every label whether the trained representation is better than, equal to, or worse than mean intensity.

    A difference counts when it is at least one point of balanced accuracy and a paired t-test over the folds finds it
    at 5 %: with 3, 4 and 5 folds it has to be more than 2.5, 1.6 and 1.2 of its standard deviations. What is not above
    chance by the same rule is never called better. Where another row scores higher, the sentence names it.
    """
    return [_sentence(str(label), rows) for label, rows in scores.groupby("label", sort=False)]


def _sentence(label: str, rows: pd.DataFrame) -> str:
    by_name = rows.set_index("representation")
    name = trained(list(by_name.index))
    own: Any = rows[rows["representation"] == name].iloc[0]
    gain, sd, chance, n_folds = float(own["gain"]), float(own["gain_sd"]), float(own["chance"]), int(own["folds"])
    above_chance = float(own["balanced_accuracy"]) - chance
    guesses = above_chance <= 0 or not _counts(above_chance, float(own["balanced_accuracy_sd"]), n_folds)
    points = f"{gain * 100:+.1f} ± {sd * 100:.1f} points"
    if is_baseline(name):
        sentence = f"{label}: there is no learned representation to judge; {name} has"
    elif guesses and gain > 0:
        sentence = f"{label}: {name} is not told from chance, and so no better than mean intensity ({points});"
    elif not _counts(gain, sd, n_folds):
        if abs(gain) >= _SMALLEST_GAIN:  # what is large and not certain is not shown to be nothing
            least = sd * _deviations_needed(n_folds)
            points += f", and these {n_folds} folds tell no less than {least * 100:.1f} from chance"
        sentence = f"{label}: {name} is equal to mean intensity within the spread of the folds ({points});"
    else:
        word = "better" if gain > 0 else "worse"
        deviations = f" ({abs(gain) / sd:.1f} deviations over the folds)" if sd > 0 else ""
        sentence = (
            f"{label}: {name} is {word} than mean intensity by {abs(gain) * 100:.1f} ± {sd * 100:.1f} points"
            f"{deviations};"
        )
    sentence += f" balanced accuracy {own['balanced_accuracy']:.2f}"
    best = str(by_name["balanced_accuracy"].idxmax())
    if best != name:
        sentence += f", the best is {best} with {by_name['balanced_accuracy'].max():.2f}"
    return f"{sentence}, chance {chance:.2f}."


def _counts(difference: float, sd: float, n_folds: int) -> bool:
    return abs(difference) >= _SMALLEST_GAIN and abs(difference) > sd * _deviations_needed(n_folds)


def _deviations_needed(n_folds: int) -> float:
    # Of simulated pairs of equally good representations (tests/benchmarks/bench_evaluate.py) this calls 3 to 5 in 100
    # different with three to five folds; one deviation would call 6 to 16 so.
    return float(t_distribution.ppf(1 - _FALSE_CALLS / 2, n_folds - 1) / np.sqrt(n_folds))


def _names(adata: AnnData, representations: Sequence[str] | None) -> list[str]:
    names = list(representations) if representations is not None else available(adata)
    if MEAN_INTENSITY not in names:
        names.append(MEAN_INTENSITY)  # everything is measured against it
    for name in names:
        check_representation(adata, name)
    return names


def _at_once(function: Callable[[Any], T], items: Iterable[Any]) -> list[T]:
    """Return the results of a function, as many at a time as there are processors."""
    # One thread of BLAS each: matrices this small run 3 to 20 times slower on several threads of a busy machine.
    with warnings.catch_warnings(), threadpool_limits(1), ThreadPoolExecutor(_threads()) as pool:
        # A weakly regularised fit that stops early is one the validation fold then does not choose.
        warnings.simplefilter("ignore")
        return list(pool.map(function, items))


def _threads() -> int:
    return min(_MOST_THREADS, os.cpu_count() or 1)


def _labels(adata: AnnData, label: str) -> np.ndarray:
    if label not in adata.obs:
        msg = f"the cells have no label {label!r}; obs holds: {', '.join(adata.obs.columns)}."
        raise InputError(msg)
    values = adata.obs[label].astype(object)
    return np.asarray(values.where(values.notna(), "").astype(str), dtype=object)


def _folds(adata: AnnData, labels: np.ndarray, groups: str | None, guard_um: float | None, seed: int) -> Folds:
    if groups is None:
        known = (column for column in ("patient", "slide") if column in adata.obs)
        groups = next((column for column in known if adata.obs[column].nunique() >= FEWEST_GROUPS), QUADRANTS)
    if groups != QUADRANTS or groups in adata.obs:
        if groups not in adata.obs:
            msg = f"the cells have no column {groups!r} to make folds by; obs holds: {', '.join(adata.obs.columns)}."
            raise InputError(msg)
        return fold_by_group(adata.obs[groups], labels, seed=seed)
    if guard_um is None:
        guard_um = float(adata.uns.get("mxsplicer", {}).get("patch_size_um", 32.0))
    return fold_by_quadrant(adata, guard_um=guard_um)


def _classes(
    labels: np.ndarray, candidates: np.ndarray, folds: Folds, min_cells: int, label: str
) -> tuple[np.ndarray, list[str]]:
    counts = pd.crosstab(labels[candidates], folds.of_cell[candidates])
    counts = counts.reindex(columns=range(folds.n), fill_value=0)
    enough = counts.index[(counts >= min_cells).all(axis=1)]
    left_out = sorted(set(labels[labels != ""]) - set(enough))
    if len(enough) < 2:
        msg = (
            f"label {label!r} cannot be scored by {folds.by}: {len(enough)} classes have {min_cells} or more cells in "
            "every fold and two are needed. Label more cells, or leave out classes that are rare."
        )
        raise InputError(msg)
    if left_out:
        logger.info("Label %s: left out, fewer than %d cells in a fold: %s", label, min_cells, ", ".join(left_out))
    return np.array(sorted(enough), dtype=object), left_out


def _score_fold(
    features: np.ndarray, task: Task, fold: int, scales: Sequence[Any], max_per_class: int, seed: int
) -> dict[str, float]:
    test = np.flatnonzero(task.folds.of_cell == fold)
    predict, scale, train = fit_fold(features, task, fold, scales, max_per_class, seed)
    knn = _score_neighbours(scale, features, task.codes, train, test, seed)
    return _metrics(task.codes[test], predict(features[test])) | {"knn_balanced_accuracy": knn}


def fit_fold(
    features: np.ndarray, task: Task, fold: int, scales: Sequence[Any], max_per_class: int, seed: int
) -> tuple[Callable[[np.ndarray], np.ndarray], Any, np.ndarray]:
    """Train the linear probe that a fold tests, on features of the task's cells.

    Of several scalings the validation fold chooses one.

    Returns
    -------
    What turns features (n, d) into probabilities (n, classes); the scaling; the rows that trained.
    """
    rng = np.random.default_rng([seed, fold])
    codes = task.codes
    train, validation, _ = task.folds.train_validate_test(fold)
    train = at_most(train, codes, max_per_class, rng)
    found = []
    for each in scales:
        scale = clone(each).fit(features[train])
        x_train, x_validation = scale.transform(features[train]), scale.transform(features[validation])
        found.append(_choose_c(x_train, codes[train], x_validation, codes[validation]))
    chosen = int(np.argmax([score for score, _ in found]))  # the first of equals

    train = at_most(np.concatenate([train, validation]), codes, max_per_class, rng)
    scale = clone(scales[chosen]).fit(features[train])
    model = _logistic(found[chosen][1]).fit(scale.transform(features[train]), codes[train])
    return lambda x: np.asarray(model.predict_proba(scale.transform(x))), scale, train


def _score_neighbours(
    scale: Any, features: np.ndarray, codes: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int
) -> float:
    # Fewer cells of the large classes: balanced accuracy counts every class alike, so its expectation stays.
    rng, n_classes = np.random.default_rng(seed), int(codes.max()) + 1
    train = at_most(train, codes, max(_NEIGHBOURS, _REFERENCES // n_classes), rng)
    test = at_most(test, codes, max(_NEIGHBOURS, _QUERIES // n_classes), rng)
    x_train, x_test = (normalize(scale.transform(features[rows])) for rows in (train, test))
    # Between rows of length 1 the nearest by distance are the nearest by cosine.
    neighbours = KNeighborsClassifier(min(_NEIGHBOURS, len(train)), algorithm="brute").fit(x_train, codes[train])
    return float(balanced_accuracy_score(codes[test], neighbours.predict(x_test)))


def at_most(rows: np.ndarray, codes: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return at most ``n`` rows of every class, drawn at random, ascending."""
    shuffled = rng.permutation(rows)
    rank = pd.Series(codes[shuffled]).groupby(codes[shuffled]).cumcount().to_numpy()
    return np.sort(shuffled[rank < n])


def _choose_c(x: np.ndarray, y: np.ndarray, x_validation: np.ndarray, y_validation: np.ndarray) -> tuple[float, float]:
    """Return the best balanced accuracy on the validation cells, and the regularisation that it is reached with."""
    model = _logistic(_C_PATH[0])
    best, best_score = 0, -1.0
    for step, c in enumerate(_C_PATH):  # from the strongest on, each fit starting where the last one ended
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


def _row(scores: pd.DataFrame, reference: pd.DataFrame) -> dict[str, float]:
    columns = scores.assign(gain=scores["balanced_accuracy"] - reference["balanced_accuracy"])
    mean, sd = columns.mean(), columns.std(ddof=1)
    return {
        key: float(value)
        for name in (*METRICS, "gain")
        for key, value in ((name, mean[name]), (f"{name}_sd", sd[name]))
    }
