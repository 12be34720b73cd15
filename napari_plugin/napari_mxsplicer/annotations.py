"""Names that people give to cells, kept beside the table; and a quick classifier that carries them to all cells."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pandas as pd

from mxsplicer import InputError, write_obs
from napari_mxsplicer.study import Study

_FEWEST = 5  # cells of a name that a classifier is trained on
_AT_ONCE = 16  # features


class Annotations:
    """Names of cells in columns, each cell known by its slide and its id."""

    def __init__(self, study: Study) -> None:
        """Read the names that were given before."""
        self.study = study
        self.path = annotations_path(study)
        self.columns: dict[str, pd.Categorical] = {}  # (N,), missing where a cell has no name
        self.is_saved = True
        self._saving = Lock()
        if self.path.is_file():
            self._load()

    def give(self, column: str, rows: np.ndarray, name: str) -> None:
        """Name cells in a column, "" to take their names away; :meth:`save` keeps them.

        Raises
        ------
        InputError
            If the column's name could not be one of ``obs``, or is one of the table's own.
        """
        if not column or not all(one.isalnum() or one in "_-." for one in column):
            msg = f"{column!r} cannot be a column: letters, digits, '_', '-' and '.' are allowed."
            raise InputError(msg)
        if column in self.study.obs_names and column not in self.columns:
            msg = f"{column!r} is a column of the table already; choose another name."
            raise InputError(msg)
        codes, known = np.full(self.study.n_cells, -1, dtype=np.int32), []
        if column in self.columns:
            codes[:], known = self.columns[column].codes, list(self.columns[column].categories)
        name = name.strip()
        if name and name not in known:
            known.append(name)
        codes[rows] = known.index(name) if name else -1
        self.columns[column] = pd.Categorical.from_codes(codes, pd.Index(known)).remove_unused_categories()
        self.is_saved = False

    def save(self) -> Path:
        """Write all names to :attr:`path`, which is replaced when they are whole."""
        with self._saving:
            self.is_saved, columns = True, dict(self.columns)
            rows = np.flatnonzero(np.any([names.codes >= 0 for names in columns.values()], axis=0))
            table = pd.DataFrame({"slide": self.study.slides[rows], "cell_id": self.study.cell_ids[rows]})
            for column, names in columns.items():
                table[column] = names[rows]
            temporary = self.path.with_name(self.path.name + ".partial")
            table.to_csv(temporary, index=False)
            temporary.replace(self.path)
        return self.path

    def put_into_table(self, more: Mapping[str, Any] | None = None) -> Path:
        """Write all names as columns of ``obs`` into the ``.h5ad``, which is replaced when the new one is whole.

        ``more`` are further columns (N,), what a classifier says: categories or numbers.
        """
        cells = self.study.cells
        self.study.obs_names = write_obs(cells, {**self.columns, **(more or {})})
        return cells

    def _load(self) -> None:
        table = pd.read_csv(self.path, dtype=str, keep_default_na=False)
        slides = self.study.slides
        of_cells = pd.Index(_keys(slides.codes, self.study.cell_ids))
        of_names = _keys(slides.categories.astype(str).get_indexer(table["slide"]), table["cell_id"].to_numpy(np.int64))
        rows = of_cells.get_indexer(pd.Index(of_names))
        there = rows >= 0
        for column in table.columns.drop(["slide", "cell_id"]):
            given = pd.Categorical([name or None for name in table[column][there]])
            codes = np.full(self.study.n_cells, -1, dtype=np.int32)
            codes[rows[there]] = given.codes
            self.columns[str(column)] = pd.Categorical.from_codes(codes, given.categories)


def _keys(slides: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return one number for each slide and id together."""
    return (np.asarray(slides, dtype=np.int64) << 40) + np.asarray(ids, dtype=np.int64)


def annotations_path(study: Study) -> Path:
    """Return where names of a study's cells are kept."""
    return study.folder / "annotations.csv" if study.folder else study.cells.with_suffix(".annotations.csv")


@dataclass(frozen=True, eq=False)
class Calls:
    """What a classifier says of every cell, and how often it was right about named cells it had not seen."""

    classes: tuple[str, ...]
    codes: np.ndarray  # (N,) place in `classes`
    confidence: np.ndarray  # (N,) probability of that class, float32
    accuracy: float  # balanced, by cross-validation over the named cells
    n_named: int

    def columns(self, of: str) -> dict[str, Any]:
        """Return the calls and their confidence as columns of ``obs``, called after the column of names."""
        called = pd.Categorical.from_codes(self.codes, pd.Index(self.classes))
        return {f"{of}_called": called, f"{of}_confidence": self.confidence}


def classify(study: Study, names: pd.Categorical, *, seed: int = 0) -> Generator[tuple[int, int], None, Calls]:
    """Train a logistic regression on the features of the named cells and call all; yield how far it is.

    Raises
    ------
    InputError
        If fewer than two names have five cells each.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    counts = np.bincount(names.codes[names.codes >= 0], minlength=len(names.categories))
    enough = np.flatnonzero(counts >= _FEWEST)
    if len(enough) < 2:
        msg = f"a classifier needs two names with {_FEWEST} cells each; there are: " + (
            ", ".join(f"{name} ({n})" for name, n in zip(names.categories, counts, strict=True)) or "none"
        )
        raise InputError(msg)
    rows = np.flatnonzero(np.isin(names.codes, enough))
    classes = tuple(str(names.categories[int(code)]) for code in enough)
    y = np.searchsorted(enough, names.codes[rows])
    d = study.n_features
    x = np.empty((len(rows), d), dtype=np.float32)
    for first in range(0, d, _AT_ONCE):
        last = min(first + _AT_ONCE, d)
        x[:, first:last] = study.feature_block(first, last)[:, rows].T
        yield last, 2 * d
    mean, sd = x.mean(axis=0), x.std(axis=0)
    sd = np.where(sd > 0, sd, 1)
    x = (x - mean) / sd
    model = LogisticRegression(C=0.1, class_weight="balanced", max_iter=2000)
    folds = StratifiedKFold(min(5, int(counts[enough].min())), shuffle=True, random_state=seed)
    accuracy = float(balanced_accuracy_score(y, cross_val_predict(model, x, y, cv=folds)))
    model.fit(x, y)
    weights, offset = model.coef_ / sd, model.intercept_ - (model.coef_ / sd) @ mean
    scores = np.tile(offset[:, None], study.n_cells).astype(np.float32)
    for first in range(0, d, _AT_ONCE):
        last = min(first + _AT_ONCE, d)
        scores += (weights[:, first:last] @ study.feature_block(first, last)).astype(np.float32)
        yield d + last, 2 * d
    if len(scores) == 1:  # of two classes the regression has one score
        scores = np.concatenate([np.zeros_like(scores), scores])
    probability = np.exp(scores - scores.max(axis=0))
    probability /= probability.sum(axis=0)
    return Calls(classes, probability.argmax(axis=0), probability.max(axis=0), accuracy, len(rows))
