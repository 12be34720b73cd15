"""Fit a classifier of cells to named cells and a sample of all cells, among which are cells of classes without a name.

Learning from positive and unlabelled examples in two steps (Liu et al. 2003, "Building text classifiers using positive
and unlabeled examples"): a regression separates the named cells of each class from the sample; cells of the sample that
score like held-out named cells get their name and the others are "unknown"; a regression on all of these is the
classifier. Its features are principal components, scaled so that cells and their nearest neighbours differ by about the
same along each (within-class covariance normalisation, with neighbours in place of classes).
"""

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

_N_COMPONENTS, _N_NEIGHBORS, _SPACE_CELLS = 60, 10, 4_000
_RIDGE = 0.1  # of the mean variance between neighbours
_FIRST_C, _CLASS_C, _SECOND_C = 0.01, 0.02, 0.01  # the last for a whole background
_N_FOLDS, _ROUNDS = 5, 3
_BALANCE = 0.7  # power of the share of a class; at 1, frequent classes would have the same weight as rare ones
_HELD_OUT_BELOW = 0.25  # share of held-out named cells that score below what counts as similar
_NAMED_WEIGHT = 3.0
_REACH = 1.5  # times the largest distance of a cell of the sample to their centre
_BACKGROUND = 3_000


@dataclass(frozen=True, eq=False)
class Space:
    """The features that a classifier is fitted to: u = (z - center) @ projection."""

    center: np.ndarray  # (d,)
    projection: np.ndarray  # (d, m)
    reach: float

    @classmethod
    def of(cls, z: np.ndarray, seed: int) -> "Space":
        """Find the space of a sample of all cells z (n, d)."""
        from sklearn.decomposition import PCA
        from sklearn.neighbors import NearestNeighbors

        some = z[np.random.default_rng(seed).permutation(len(z))[:_SPACE_CELLS]].astype(np.float64)
        m = min(_N_COMPONENTS, z.shape[1], len(some) - 1)
        pca = PCA(m, svd_solver="covariance_eigh" if len(some) > z.shape[1] else "full").fit(some)
        u = pca.transform(some)
        k = min(_N_NEIGHBORS, len(u) - 1)
        near = NearestNeighbors(n_neighbors=k).fit(u).kneighbors(return_distance=False)
        differences = (u[:, None] - u[near]).reshape(-1, m)
        variance, axes = np.linalg.eigh(differences.T @ differences / len(differences))
        scale = 1 / np.sqrt(variance + _RIDGE * variance.mean() + 1e-12)
        projection = pca.components_.T @ (axes * scale)
        projection /= max(((some - pca.mean_) @ projection).std(), 1e-12)
        center, projection = rounded(pca.mean_), rounded(projection)
        distances = np.linalg.norm((z - center) @ projection, axis=1)
        return cls(center, projection, float(rounded(np.array(_REACH * distances.max()))))

    def __call__(self, z: np.ndarray) -> np.ndarray:
        """Return cells with features (n, d) in this space (n, m)."""
        return np.asarray((z - self.center) @ self.projection)


def rounded(values: np.ndarray) -> np.ndarray:
    """Round to six significant digits, as a classifier is saved, so that the saved one is the same; float32."""
    return np.array([float(f"{value:.6g}") for value in np.ravel(values)], dtype=np.float32).reshape(np.shape(values))


@dataclass(frozen=True, eq=False)
class Fit:
    """What was fitted to the cells.

    Attributes
    ----------
    weights, bias
        Of classes and of unknown cells, (m, K + 1) and (K + 1,).
    class_weights
        Factors (K,) of the probabilities by which a class is chosen.
    balanced_accuracy
        Among the named classes; None of one class.
    """

    weights: np.ndarray
    bias: np.ndarray
    class_weights: np.ndarray
    balanced_accuracy: float | None


def fit_classifier(u: np.ndarray, codes: np.ndarray, background: np.ndarray, represents: np.ndarray, seed: int) -> Fit:
    """Fit a classifier to named cells u (n, m) with codes 0 to K - 1 and a sample of all cells (b, m).

    ``represents`` (n,) is how many cells each named cell stands for. A queue proposes many cells between classes, which
    stand for few: without weights, what is unlike a class would be judged by them.
    """
    rng = np.random.default_rng(seed)
    n_classes = int(codes.max()) + 1
    background = background[rng.permutation(len(background))[:_BACKGROUND]]
    fold = _folds(codes, rng)
    held_out = np.empty((len(u), n_classes))
    for number in range(_N_FOLDS):
        test = fold == number
        if test.any():
            held_out[test] = _scores(_fit_first(u[~test], codes[~test], background), u[test])
    own = [codes == k for k in range(n_classes)]
    lowest = np.array([_weighted_quantile(held_out[one, k], represents[one]) for k, one in enumerate(own)])
    similar = _scores(_fit_first(u, codes, background), background) - lowest
    guesses, held_out_guesses = _named_classes(u, codes, background, fold)
    unlike = similar[np.arange(len(background)), guesses]
    is_unknown = unlike < 0
    x, weight = np.concatenate([u, background]), np.repeat([_NAMED_WEIGHT, 1.0], [len(u), len(background)])
    model = None
    for _ in range(_ROUNDS):
        is_unknown[unlike.argmin()] = True  # one at least, so that there is such a class
        y = np.concatenate([codes, np.where(is_unknown, n_classes, guesses)])
        model = _regress(x, y, weight, _SECOND_C * _BACKGROUND / len(background))
        is_unknown = model.predict(background) == n_classes
    assert model is not None
    weights, bias = _logits(model, n_classes + 1)
    shares = np.zeros(n_classes + 1)
    shares[model.classes_] = model.predict_proba(background).mean(axis=0)
    class_weights = np.maximum(shares[:-1], 1 / len(background)) ** -_BALANCE
    accuracy = None
    if n_classes > 1:
        right = held_out_guesses == codes
        accuracy = float(np.mean([right[codes == k].mean() for k in range(n_classes)]))
    return Fit(weights, bias, class_weights / class_weights.mean(), accuracy)


def _named_classes(
    u: np.ndarray, codes: np.ndarray, background: np.ndarray, fold: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the class of each cell of the background, and of each held-out named cell, by the named cells alone."""
    held_out = np.full(len(u), codes[0])
    if codes.max() == 0:
        return np.zeros(len(background), dtype=np.int64), held_out
    for number in range(_N_FOLDS):
        test = fold == number
        if test.any():
            held_out[test] = _balanced(u[~test], codes[~test]).predict(u[test])
    return np.asarray(_balanced(u, codes).predict(background)), held_out


def _balanced(u: np.ndarray, codes: np.ndarray) -> "LogisticRegression":
    weight = len(codes) / (np.bincount(codes) * (codes.max() + 1.0))
    return _regress(u, codes, weight[codes], _CLASS_C)


def _weighted_quantile(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    below = (np.cumsum(weights[order]) - weights[order] / 2) / weights.sum()
    return float(np.interp(_HELD_OUT_BELOW, below, values[order]))


def _folds(codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the fold (n,) of each named cell; each fold has about as many cells of each class."""
    fold = np.empty(len(codes), dtype=np.int64)
    for k in range(int(codes.max()) + 1):
        rows = np.flatnonzero(codes == k)
        fold[rng.permutation(rows)] = np.arange(len(rows)) % _N_FOLDS
    return fold


def _fit_first(u: np.ndarray, codes: np.ndarray, background: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit the regression of classes and the sample of all cells, each with the same weight in total."""
    n_classes = int(codes.max()) + 1
    counts = np.bincount(codes, minlength=n_classes)
    weight = np.concatenate([1 / counts[codes], np.full(len(background), 1 / len(background))]) * len(u) / n_classes
    y = np.concatenate([codes, np.full(len(background), n_classes)])
    return _logits(_regress(np.concatenate([u, background]), y, weight, _FIRST_C), n_classes + 1)


def _scores(model: tuple[np.ndarray, np.ndarray], u: np.ndarray) -> np.ndarray:
    """Return the logarithm (n, K) of how much denser each class is at the cells u than all cells together."""
    logits = u @ model[0] + model[1]
    return np.asarray(logits[:, :-1] - logits[:, -1:])


def _regress(x: np.ndarray, y: np.ndarray, weight: np.ndarray, c: float) -> "LogisticRegression":
    from sklearn.linear_model import LogisticRegression  # half a second to load

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of convergence: a fit of 300 steps is good enough
        return LogisticRegression(C=c, max_iter=300).fit(x, y, sample_weight=weight)


def _logits(model: "LogisticRegression", n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return weights (m, n) and biases (n,) of a regression, one column per class; of two it has only one."""
    coef, bias = model.coef_.T, model.intercept_
    if coef.shape[1] == 1:
        coef, bias = np.hstack([-coef / 2, coef / 2]), np.concatenate([-bias / 2, bias / 2])
    weights, biases = np.zeros((len(coef), n)), np.full(n, -1e3)
    weights[:, model.classes_], biases[model.classes_] = coef, bias
    return weights, biases
