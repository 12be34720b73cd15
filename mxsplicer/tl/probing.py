"""What a representation knows about a label: probes on cells of other patients, or of another part of the slide.

The protocol is one for every representation, and the baselines a reviewer would ask for stand beside it.
"""

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from mxsplicer.errors import InputError
from mxsplicer.progress import track
from mxsplicer.tl.folds import LEFT_OUT, Folds, fold_by_group, fold_by_quadrant
from mxsplicer.tl.rows import representation, take

logger = logging.getLogger(__name__)

METRICS = ("balanced_accuracy", "macro_f1", "average_precision", "auroc", "knn_balanced_accuracy")
LEARNED = {"SpliCER": "X_splicer", "joint": "X_joint", "untrained encoder": "X_untrained"}  # keys of obsm
MEAN_INTENSITY = "mean intensity"
INTENSITY_AND_SHAPE = "mean intensity and shape"
INTENSITY_PCA = "PCA of mean intensity"
SHAPE = ("area_um2", "eccentricity", "major_axis_um", "minor_axis_um")

_C_PATH = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # inverse regularisation, strongest first
_PATIENCE = 2  # steps of the path without gain before the rest is skipped
_NEIGHBOURS = 20
_SMALLEST_GAIN = 0.01  # below one point a difference is called none


def probe(
    adata: AnnData,
    *,
    label: str,
    representations: Sequence[str] | None = None,
    groups: str | None = None,
    guard_um: float | None = None,
    max_cells_per_class: int = 2000,
    min_cells: int = 5,
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
        Names of :data:`LEARNED`, of the baselines, or keys of ``obsm``; all there are by default.
    groups
        Column of ``obs`` whose values stay together: patient or slide. By default ``slide`` where there are three or
        more slides, else quadrants.
    guard_um
        Width of the band between quadrants; by default the side of a patch.
    max_cells_per_class
        Cells of one class used in training, at most; drawn at random.
    min_cells
        Classes with fewer cells than this in any fold are left out, and named in the result.
    seed
        Draws the training cells and deals the groups.

    Returns
    -------
    One row per representation: for every metric its mean over folds and, with ``_sd``, its standard deviation;
    ``gain`` and ``gain_sd``, balanced accuracy minus that of mean intensity in the same folds; ``chance``, ``n_cells``,
    ``n_classes``, ``folds``, ``folds_by``, ``classes``, ``left_out``.

    Sets
    ----
    ``adata.uns["mxsplicer_probe"]``
        The rows of every label scored so far.

    Raises
    ------
    InputError
        If fewer than two classes have enough cells in every fold.
    """
    labels = _labels(adata, label)
    folds = _folds(adata, labels, groups, guard_um, seed)
    classes, left_out = _classes(labels, folds, min_cells, label)
    used = np.flatnonzero(np.isin(labels, classes) & (folds.of_cell != LEFT_OUT))
    codes = np.searchsorted(classes, labels[used])
    folds_used = Folds(folds.of_cell[used], folds.by)
    names = list(representations) if representations is not None else _available(adata)
    if MEAN_INTENSITY not in names:
        names.append(MEAN_INTENSITY)  # everything is measured against it

    per_fold: dict[str, pd.DataFrame] = {}
    limits = {"max_per_class": max_cells_per_class, "seed": seed}
    with threadpool_limits(1):  # matrices this small run 3 to 20 times slower on several threads of a busy machine
        for name in track(names, f"Scoring {label}"):
            x, reduce = _features(adata, name, used), name == INTENSITY_PCA
            per_fold[name] = pd.DataFrame(
                _score_fold(x, codes, folds_used, fold, reduce=reduce, **limits) for fold in range(folds.n)
            )
    rows = [_row(scores, per_fold[MEAN_INTENSITY]) | {"representation": name} for name, scores in per_fold.items()]
    about: dict[str, Any] = {
        "label": label,
        "chance": 1 / len(classes),
        "n_cells": len(used),
        "n_classes": len(classes),
        "folds": folds.n,
        "folds_by": folds.by,
        "classes": ", ".join(classes),
        "left_out": ", ".join(left_out),
    }
    table = pd.DataFrame(rows).assign(**about)
    first = ["label", "representation"]
    table = table[first + [column for column in table.columns if column not in first]]
    table.index = pd.Index([f"{label}: {name}" for name in names])
    earlier = adata.uns.get("mxsplicer_probe")
    kept = [] if earlier is None else [earlier[earlier["label"] != label]]
    adata.uns["mxsplicer_probe"] = pd.concat([*(part for part in kept if len(part)), table])
    return table


def verdict(scores: pd.DataFrame) -> list[str]:
    """Say for every label whether the trained representation is better than, equal to, or worse than mean intensity.

    A difference counts when it is at least one point of balanced accuracy and larger than its standard deviation over
    the folds. Where another row scores higher, the sentence names it.
    """
    sentences = []
    for label, rows in scores.groupby("label", sort=False):
        by_name = rows.set_index("representation")
        trained = next(name for name in ("SpliCER", "joint", *by_name.index) if name in by_name.index)
        own = by_name.loc[trained]
        gain, sd = float(own["gain"]), float(own["gain_sd"])
        if abs(gain) < _SMALLEST_GAIN or abs(gain) <= sd:
            found = (
                f"equal to mean intensity within the spread of the folds ({gain * 100:+.1f} ± {sd * 100:.1f} points)"
            )
        else:
            word = "better" if gain > 0 else "worse"
            found = f"{word} than mean intensity by {abs(gain) * 100:.1f} ± {sd * 100:.1f} points"
        sentence = f"{label}: {trained} is {found}; balanced accuracy {own['balanced_accuracy']:.2f}"
        best = str(by_name["balanced_accuracy"].idxmax())
        if best != trained:
            sentence += f", the best is {best} with {by_name['balanced_accuracy'].max():.2f}"
        sentences.append(f"{sentence}, chance {own['chance']:.2f}.")
    return sentences


def _labels(adata: AnnData, label: str) -> np.ndarray:
    if label not in adata.obs:
        msg = f"the cells have no label {label!r}; obs holds: {', '.join(adata.obs.columns)}."
        raise InputError(msg)
    values = adata.obs[label].astype(object)
    return np.asarray(values.where(values.notna(), "").astype(str), dtype=object)


def _folds(adata: AnnData, labels: np.ndarray, groups: str | None, guard_um: float | None, seed: int) -> Folds:
    if groups is None and "slide" in adata.obs and adata.obs["slide"].nunique() >= 3:
        groups = "slide"
    if groups is not None:
        if groups not in adata.obs:
            msg = f"the cells have no column {groups!r} to make folds by; obs holds: {', '.join(adata.obs.columns)}."
            raise InputError(msg)
        return fold_by_group(adata.obs[groups], labels, seed=seed)
    if guard_um is None:
        guard_um = float(adata.uns.get("mxsplicer", {}).get("patch_size_um", 32.0))
    return fold_by_quadrant(adata, guard_um=guard_um)


def _classes(labels: np.ndarray, folds: Folds, min_cells: int, label: str) -> tuple[np.ndarray, list[str]]:
    labelled = (labels != "") & (folds.of_cell != LEFT_OUT)
    counts = pd.crosstab(labels[labelled], folds.of_cell[labelled]).reindex(columns=range(folds.n), fill_value=0)
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


def _available(adata: AnnData) -> list[str]:
    shape = [INTENSITY_AND_SHAPE] if set(SHAPE) <= set(adata.obs.columns) else []
    pca = [INTENSITY_PCA] if adata.n_vars > 1 else []
    return [name for name, key in LEARNED.items() if key in adata.obsm] + [MEAN_INTENSITY, *shape, *pca]


def _features(adata: AnnData, name: str, rows: np.ndarray) -> np.ndarray:
    if name in (MEAN_INTENSITY, INTENSITY_AND_SHAPE, INTENSITY_PCA):
        intensity = adata.X[rows].toarray() if hasattr(adata.X, "toarray") else np.asarray(adata.X)[rows]
        features = np.log1p(np.maximum(intensity, 0))
        if name == INTENSITY_AND_SHAPE:
            features = np.hstack([features, adata.obs[list(SHAPE)].to_numpy()[rows]])
    else:
        features = take(representation(adata, LEARNED.get(name, name)), rows)
    if not np.isfinite(features).all():
        msg = f"{name!r} holds values that are not finite in {(~np.isfinite(features)).any(axis=1).sum()} cells."
        raise InputError(msg)
    return np.asarray(features, dtype=np.float32)


def _score_fold(
    features: np.ndarray, codes: np.ndarray, folds: Folds, fold: int, *, reduce: bool, max_per_class: int, seed: int
) -> dict[str, float]:
    rng = np.random.default_rng([seed, fold])
    train, validation, test = folds.train_validate_test(fold)
    train = _at_most(train, codes, max_per_class, rng)
    scale = _scaler(reduce).fit(features[train])
    x_train, x_validation = scale.transform(features[train]), scale.transform(features[validation])
    regularisation = _choose_c(x_train, codes[train], x_validation, codes[validation])

    train = _at_most(np.concatenate([train, validation]), codes, max_per_class, rng)
    scale = _scaler(reduce).fit(features[train])
    x_train, x_test = scale.transform(features[train]), scale.transform(features[test])
    model = _logistic(regularisation)
    _fit(model, x_train, codes[train])
    neighbours = KNeighborsClassifier(min(_NEIGHBOURS, len(train)), metric="cosine").fit(x_train, codes[train])
    knn = balanced_accuracy_score(codes[test], neighbours.predict(x_test))
    return _metrics(codes[test], model.predict_proba(x_test)) | {"knn_balanced_accuracy": float(knn)}


def _at_most(rows: np.ndarray, codes: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    shuffled = rng.permutation(rows)
    rank = pd.Series(codes[shuffled]).groupby(codes[shuffled]).cumcount().to_numpy()
    return np.sort(shuffled[rank < n])


def _scaler(reduce: bool) -> Any:
    if reduce:  # to the components that hold 95 % of the variance
        return make_pipeline(StandardScaler(), PCA(0.95, svd_solver="full"), StandardScaler())
    return StandardScaler()


def _choose_c(x: np.ndarray, y: np.ndarray, x_validation: np.ndarray, y_validation: np.ndarray) -> float:
    model = _logistic(_C_PATH[0])
    best, best_score = 0, -1.0
    for step, c in enumerate(_C_PATH):  # from the strongest on, each fit starting where the last one ended
        model.set_params(C=c)
        _fit(model, x, y)
        score = balanced_accuracy_score(y_validation, model.predict(x_validation))
        if score > best_score + 1e-9:
            best, best_score = step, score
        elif step - best >= _PATIENCE:
            break
    return _C_PATH[best]


def _logistic(c: float) -> Any:
    return LogisticRegression(C=c, class_weight="balanced", tol=1e-3, max_iter=300, warm_start=True)


def _fit(model: Any, x: np.ndarray, y: np.ndarray) -> None:
    with warnings.catch_warnings():
        # A weakly regularised fit that stops early is one the validation fold then does not choose.
        warnings.simplefilter("ignore")
        model.fit(x, y)


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
