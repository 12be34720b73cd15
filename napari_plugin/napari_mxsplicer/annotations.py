"""Annotations of cells by the user, saved next to the table."""

import csv
from collections.abc import Collection
from pathlib import Path
from threading import Lock

import numpy as np
import pandas as pd

from mxsplicer import InputError, read_table
from napari_mxsplicer.study import Study

_KEYS = ["slide", "cell_id"]


class Annotations:
    """Names of cells in columns; a cell is identified by its slide and its id."""

    def __init__(self, study: Study) -> None:
        """Read the names that were saved before."""
        self.study = study
        self.path = annotations_path(study)
        self.columns: dict[str, pd.Categorical] = {}  # (N,), missing for cells without a name
        self.is_saved = True
        self._saving = Lock()
        if self.path.is_file():
            self._load()

    def assign(self, column: str, rows: np.ndarray, name: str) -> None:
        """Name cells in a column, or remove their names by ""; :meth:`save` writes them to disk.

        Raises
        ------
        InputError
            If the name of the column is invalid, or the table has a column of this name already.
        """
        self.check_column(column, known=self.columns)
        codes, known = np.full(self.study.n_cells, -1, dtype=np.int32), []
        if column in self.columns:
            codes[:], known = self.columns[column].codes, list(self.columns[column].categories)
        name = name.strip()
        if name and name not in known:
            known.append(name)
        codes[rows] = known.index(name) if name else -1
        self.columns[column] = pd.Categorical.from_codes(codes, pd.Index(known)).remove_unused_categories()
        self.is_saved = False

    def replace(self, column: str, names: pd.Categorical | None) -> None:
        """Restore the names of a column, or remove the column."""
        self.columns.pop(column, None)
        if names is not None:
            self.columns[column] = names
        self.is_saved = False

    def check_column(self, column: str, *, known: Collection[str]) -> None:
        """Raise unless a column of this name may be written; those that are ``known`` may be replaced.

        Raises
        ------
        InputError
            If the name of the column is not valid, or the table has a column of this name already.
        """
        if not column or not all(one.isalnum() or one in "_-." for one in column):
            msg = f"{column!r} is not a valid column name: letters, digits, '_', '-' and '.' are allowed."
            raise InputError(msg)
        if column in self.study.obs_names and column not in known:
            msg = f"the table has a column {column!r} already."
            raise InputError(msg, "Choose another name.")

    def save(self) -> Path:
        """Write all names to :attr:`path`, which is replaced when the new file is complete."""
        with self._saving:
            self.is_saved, columns = True, dict(self.columns)
            try:
                self._write(columns)
            except OSError:
                self.is_saved = False
                raise
        return self.path

    def _write(self, columns: dict[str, pd.Categorical]) -> None:
        rows = np.flatnonzero(np.any([names.codes >= 0 for names in columns.values()], axis=0))
        table = pd.DataFrame({"slide": self.study.slides[rows], "cell_id": self.study.cell_ids[rows]})
        for column, names in columns.items():
            table[column] = names[rows]
        temporary = self.path.with_name(self.path.name + ".partial")
        # quoted: a slide "#1" begins no comment
        table.to_csv(temporary, index=False, quoting=csv.QUOTE_NONNUMERIC, encoding="utf-8")
        temporary.replace(self.path)

    def _load(self) -> None:
        table = read_table(self.path, what="table of annotations")
        table.columns = [name.casefold() if name.casefold() in _KEYS else name for name in table.columns]
        missing = [name for name in _KEYS if name not in table]
        if missing or not table["cell_id"].str.fullmatch(r"\d{1,12}").all():
            problem = f"has no column {missing[0]!r}" if missing else "has cells whose id is not a number"
            msg = f"table of annotations {self.path} {problem}."
            raise InputError(msg, "Repair it, or move it away: then a new one is created.")
        slides = self.study.slides
        of_cells = pd.Index(_keys(slides.codes, self.study.cell_ids))
        of_names = _keys(slides.categories.astype(str).get_indexer(table["slide"]), table["cell_id"].to_numpy(np.int64))
        rows = of_cells.get_indexer(pd.Index(of_names))
        found = rows >= 0
        for column in table.columns.drop(_KEYS):
            given = pd.Categorical([name or None for name in table[column][found]])
            codes = np.full(self.study.n_cells, -1, dtype=np.int32)
            codes[rows[found]] = given.codes
            self.columns[str(column)] = pd.Categorical.from_codes(codes, given.categories)


def _keys(slides: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return one number per slide and id of annotated cells."""
    return (np.asarray(slides, dtype=np.int64) << 40) + np.asarray(ids, dtype=np.int64)


def annotations_path(study: Study) -> Path:
    """Return the file of a study's annotations."""
    return study.folder / "annotations.csv" if study.folder else study.cells.with_suffix(".annotations.csv")
