"""Extend names of some cells to all cells by their features, and abstain where nothing named is similar."""

import logging
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from mxsplicer.errors import InputError
from mxsplicer.system.fingerprints import fingerprint_arrays
from mxsplicer.tl.features import feature_names
from mxsplicer.tl.reading import row_slices
from mxsplicer.tl.representations import learned_key, representation, warn_of_several_models

OTHER = "other"  # what a user calls a cell of none of the classes; a class like any other
UNKNOWN = "unknown"  # what a cell is called that resembles no named cell; never a class

_OTHER_MODEL = "Embed the cells with the same `model`, or train a classifier on them."

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Predictions:
    """Names that a classifier predicted, and how sure it is.

    Attributes
    ----------
    classes
        The named classes.
    codes
        Index (n,) into ``classes``, -1 for unknown cells.
    confidence
        Calibrated probability (n,) that the name is right; of an unknown cell, that it is of none of the classes.
    """

    classes: tuple[str, ...]
    codes: np.ndarray
    confidence: np.ndarray

    @property
    def names(self) -> "pd.Categorical[str]":
        """The name (n,) of each cell; the last category is "unknown"."""
        codes = np.where(self.codes < 0, len(self.classes), self.codes)
        return pd.Categorical.from_codes(codes, pd.Index([*self.classes, UNKNOWN]))

    @property
    def share_unknown(self) -> float:
        """The share of cells without a name."""
        return float(np.mean(self.codes < 0)) if len(self.codes) else 0.0

    def counts(self) -> dict[str, int]:
        """Return the number of cells of each class, and of unknown cells."""
        counts = np.bincount(self.names.codes, minlength=len(self.classes) + 1)
        return dict(zip([*self.classes, UNKNOWN], map(int, counts), strict=True))

    def columns(self, key: str) -> dict[str, Any]:
        """Return predicted names and confidence as columns of ``obs``, called ``key`` and ``<key>_confidence``."""
        return dict(zip(predicted_columns(key), (self.names, self.confidence), strict=True))


@dataclass(frozen=True, eq=False)
class CellClassifier:
    """A linear classifier of cells with a class for all that is unlike the named ones; see :func:`train_classifier`.

    Attributes
    ----------
    classes
        The named classes, sorted.
    weights, bias
        Of the logits (d, K + 1) and (K + 1,) of the classes and, last, of unknown cells.
    counts
        Number of named cells of each class.
    left_out
        Classes with too few named cells, which the classifier does not know.
    feature_names, use_rep, model
        Features that it takes, the key of ``obsm``, and the fingerprint of the encoder's weights ("" if unknown).
    class_weights
        Factors (K,) of the probabilities by which the name of a cell is chosen: rare classes have larger ones, because
        where two classes overlap, a cell would otherwise always get the name of the frequent one.
    center, projection, reach
        A cell is unknown whose distance to ``center`` (d,) after ``projection`` (d, m) is above ``reach``, because it
        is unlike every cell that the classifier has seen.
    about
        Further facts: the slides of the named cells, the accuracy in cross-validation, the version and the date.
    """

    classes: tuple[str, ...]
    weights: np.ndarray
    bias: np.ndarray
    counts: Mapping[str, int]
    left_out: Mapping[str, int]
    feature_names: tuple[str, ...]
    use_rep: str
    model: str
    class_weights: np.ndarray
    center: np.ndarray
    projection: np.ndarray
    reach: float
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """A digest of the classes and the weights, by which results record which classifier named their cells."""
        names = "\n".join((*self.classes, "", *self.feature_names)).encode()
        arrays = (self.weights, self.bias, self.class_weights, self.center, self.projection)
        return fingerprint_arrays([names, *arrays])

    def probabilities(self, z: np.ndarray) -> np.ndarray:
        """Return the probability (n, K + 1) of each class and, last, of none of them, for features z (n, d)."""
        z = np.asarray(z, dtype=np.float32)
        if z.ndim != 2 or z.shape[1] != len(self.weights):
            msg = f"features have the shape {z.shape}; the classifier needs (cells, {len(self.weights)})."
            raise InputError(msg)
        if not (finite := np.isfinite(z)).all():
            msg = f"features have values that are not finite in {(~finite).any(axis=1).sum():,} cells."
            raise InputError(msg, "Leave these cells out.")
        logits = z @ self.weights + self.bias
        logits -= logits.max(axis=1, keepdims=True)
        p = np.exp(logits)
        p /= p.sum(axis=1, keepdims=True)
        beyond = self._is_beyond(z)
        p[beyond] *= 1e-3
        p[beyond, -1] = 1 - p[beyond, :-1].sum(axis=1)
        return np.asarray(p)

    def predict(self, z: np.ndarray) -> Predictions:
        """Predict the names of cells with features z (n, d)."""
        p = self.probabilities(z)
        best = np.where(p.argmax(axis=1) == len(self.classes), -1, (p[:, :-1] * self.class_weights).argmax(axis=1))
        confidence = np.take_along_axis(p, best[:, None], axis=1)[:, 0]  # -1 is the last column
        return Predictions(self.classes, best.astype(np.int16), confidence.astype(np.float32))

    def describe(self) -> str:
        """Return in a sentence or two how accurate the classifier is, and for which cells this holds."""
        n = sum(self.counts.values())
        parts = [f"Trained on {n:,} named cells of {len(self.classes)} classes."]
        accuracy = self.about.get("balanced_accuracy")
        if accuracy is not None:
            parts.append(
                f"Balanced accuracy among the named classes: {accuracy:.2f}, cross-validated on the named cells; it "
                "does not count cells of classes that have no name yet."
            )
        if self.left_out:
            few = ", ".join(f"{name} ({count})" for name, count in self.left_out.items())
            parts.append(f"Left out, because too few cells are named: {few}.")
        return " ".join(parts)

    def _is_beyond(self, z: np.ndarray) -> np.ndarray:
        u = (z - self.center) @ self.projection
        return np.asarray(np.einsum("nm,nm->n", u, u) > self.reach**2)


def train_classifier(
    adata: AnnData,
    names: "str | pd.Series[Any] | pd.Categorical[Any]",
    *,
    use_rep: str | None = None,
    seed: int = 0,
) -> CellClassifier:
    """Train a classifier on cells that a person named, which knows what it has not seen.

    A softmax regression separates each class from the other named ones and from a sample of all cells, named or not.
    Cells that resemble no named cell remain in the class "unknown". So one class alone can be named.

    Parameters
    ----------
    adata
        Cells with a representation in ``obsm``; it may lie on disk, as :func:`mxsplicer.open_cells` leaves it.
    names
        Name of each named cell, missing for the others: a column of ``obs``, or the values (N,). The name "other" is a
        class like any other.
    use_rep
        Key of the representation; by default that of the run that embedded the cells.
    seed
        Seed of the sample and of the folds.

    Raises
    ------
    InputError
        If no name has three cells, or a class is called "unknown".
    """
    from mxsplicer.tl.naming_queue import NamingQueue

    given = _named(adata, names)
    warn_of_several_models(adata, use_rep or learned_key(adata))
    queue = NamingQueue.of(adata, use_rep=use_rep, seed=seed)
    queue.set_names(given)
    classifier = queue.classifier
    if classifier is None:
        counts = pd.Series(given).value_counts()
        found = ", ".join(f"{name} ({n})" for name, n in counts.items() if n) or "none"
        msg = f"a classifier needs a name with three cells; found: {found}."
        raise InputError(msg, "Name more cells.")
    return classifier


def annotate(
    adata: AnnData, classifier: CellClassifier, *, key_added: str = "predicted", overwrite: bool = False
) -> Predictions:
    """Predict the name of every cell, with its confidence.

    Parameters
    ----------
    adata
        Cells that the model embedded whose features the classifier was trained on.
    classifier
        From :func:`train_classifier` or :func:`load_classifier`.
    key_added
        Name of the column of predicted names.
    overwrite
        Replace columns of these names.

    Sets
    ----
    ``adata.obs[key_added]``
        The predicted name, categorical; "unknown" where the cell resembles no named cell.
    ``adata.obs["<key_added>_confidence"]``
        Calibrated probability that it is right.

    Raises
    ------
    InputError
        If another model embedded the cells, or the columns exist.
    """
    z = check_same_model(adata, classifier)
    check_columns_free(adata, key_added, overwrite=overwrite)
    found = [classifier.predict(np.asarray(z[part])) for part in row_slices(adata.n_obs)]
    predictions = join_predictions(classifier, found)
    for name, values in predictions.columns(key_added).items():
        adata.obs[name] = values
    return predictions


def predicted_columns(key: str) -> tuple[str, str]:
    """Return the columns of ``obs`` for the predicted names and their confidence."""
    return key, f"{key}_confidence"


def check_columns_free(adata: AnnData, key_added: str, *, overwrite: bool, where: str = "obs") -> None:
    """Raise InputError if ``obs`` has the columns that names would be written to, unless they may be replaced."""
    taken = [name for name in predicted_columns(key_added) if name in adata.obs]
    if taken and not overwrite:
        msg = f"{where} has a column {taken[0]!r} already."
        raise InputError(msg, "Choose another `key_added`, or pass `overwrite=True` to replace it.")


def predict_all(
    classifier: CellClassifier, read: Callable[[np.ndarray], np.ndarray], n_cells: int
) -> Generator[tuple[int, int], None, Predictions]:
    """Predict all cells in slices and yield the progress; ``read`` returns features (n, d) of the rows it is given."""
    found = []
    for part in row_slices(n_cells):
        found.append(classifier.predict(read(np.arange(part.start, part.stop))))
        yield part.stop, n_cells
    return join_predictions(classifier, found)


def join_predictions(classifier: CellClassifier, parts: list[Predictions]) -> Predictions:
    """Return predictions of consecutive cells as one."""
    if not parts:
        return Predictions(classifier.classes, np.empty(0, np.int16), np.empty(0, np.float32))
    codes, confidence = (np.concatenate([getattr(one, name) for one in parts]) for name in ("codes", "confidence"))
    return Predictions(classifier.classes, codes, confidence)


def check_same_model(adata: AnnData, classifier: CellClassifier) -> Any:
    """Return the features (N, d) that a classifier takes; raise InputError if another model computed them."""
    key = classifier.use_rep if classifier.use_rep in adata.obsm else learned_key(adata)
    z, model = representation(adata, key), model_of(adata, key)
    if model and classifier.model and model != classifier.model:
        msg = f"the cells were embedded by another model (weights {model}) than the classifier's ({classifier.model})."
        raise InputError(msg, _OTHER_MODEL)
    n, wanted = z.shape[1], classifier.feature_names
    own = tuple(feature_names(adata, use_rep=key))
    own = () if own == tuple(f"feature {number}" for number in range(n)) else own
    if n != len(wanted) or (own and own != wanted):
        how = f"{n} instead of {len(wanted)}" if n != len(wanted) else _first_difference(own, wanted)
        msg = f"the cells have other features than the classifier was trained on ({how})."
        raise InputError(msg, _OTHER_MODEL)
    if not model or not classifier.model:
        logger.warning("Which model embedded the cells is not recorded, so it was not compared with the classifier's.")
    return z


def model_of(adata: AnnData, key: str) -> str:
    """Return the fingerprint of the weights of the encoder that computed a representation; "" if unknown."""
    weights = adata.uns.get("mxsplicer", {}).get("fingerprints", {}).get("weights", "")
    return str(weights) if key == learned_key(adata) else ""


def _first_difference(names: tuple[str, ...], wanted: tuple[str, ...]) -> str:
    name, other = next(pair for pair in zip(names, wanted, strict=True) if pair[0] != pair[1])
    return f"{name!r} instead of {other!r}"


def _named(adata: AnnData, names: "str | pd.Series[Any] | pd.Categorical[Any]") -> "pd.Categorical[Any]":
    if isinstance(names, str):
        if names not in adata.obs:
            msg = f"obs has no column {names!r}; it has {', '.join(adata.obs) or '(none)'}."
            raise InputError(msg)
        names = adata.obs[names]
    given: pd.Categorical[Any] = pd.Categorical(pd.Series(names))
    if len(given) != adata.n_obs:
        msg = f"`names` has {len(given):,} values; one for each of the {adata.n_obs:,} cells is needed."
        raise InputError(msg)
    return given
