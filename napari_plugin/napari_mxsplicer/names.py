"""The names that the user gives to clusters and to single cells: saved at once, and undone one by one."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from psygnal import Signal

from mxsplicer import InputError, read_table, write_obs
from napari_mxsplicer.annotations import Annotations
from napari_mxsplicer.export import annotation_code
from napari_mxsplicer.state import Painted
from napari_mxsplicer.study import Study

DEFAULT_COLUMN = "cell_type"
_COLUMNS = ["clusters", "cluster", "cells", "name", "written_to"]  # of the file of clusters' names
_MOST_STEPS = 200  # of undo


@dataclass(frozen=True, eq=False)
class Step:
    """One change: the cluster or the column of names of single cells, and its names before and after."""

    cluster: str | None
    column: str
    before: Any
    after: Any
    rows: np.ndarray | None = None  # of single cells


class Names:
    """Names of clusters, and of single cells, which override those of their clusters."""

    changed = Signal()

    def __init__(self, study: Study) -> None:
        """Read the names that were saved before."""
        self.study = study
        self.cells = Annotations(study)
        self._written: set[str] = set(self.cells.columns)  # columns of obs that may be replaced, being of names
        self.clustering = study.clustering  # the column of obs with the clusters; "" without
        self.of_clusters: dict[str, str] = {}
        self.problem = ""  # why the last name was not saved
        self.note = ""  # about names in the file that are not of these clusters
        self._path = cluster_names_path(study)
        self._others = pd.DataFrame(columns=_COLUMNS, dtype=str)  # of other columns of clusters
        self._is_outdated = False  # the file, whose clusters were found again since
        self._undone: list[Step] = []
        self._done: list[Step] = []
        if self._path.is_file():
            self._load()
        self.column = next(iter([*self.cells.columns, *sorted(self._written)]), self._free_column())

    @property
    def counts(self) -> dict[str, int]:
        """The number of cells of each cluster that has any."""
        return self.study.cluster_counts

    @property
    def classes(self) -> list[str]:
        """All names in use, those of clusters first, each once."""
        cells = self.cells.columns.get(self.column)
        of_cells = [] if cells is None else [str(name) for name in cells.categories]
        of_clusters = [self.of_clusters[one] for one in self.counts if one in self.of_clusters]
        return list(dict.fromkeys([*of_clusters, *of_cells]))

    @property
    def n_named_clusters(self) -> int:
        """How many clusters have a name."""
        return len(self.of_clusters)

    def name_cluster(self, cluster: str, name: str) -> None:
        """Name a cluster, or remove its name by "", and save the names."""
        name, before = name.strip(), self.of_clusters.get(cluster, "")
        if name != before:
            self._do(Step(cluster, "", before, name))

    def name_cells(self, rows: np.ndarray, name: str) -> None:
        """Name single cells, or remove their names by ""; ``cells.save`` writes them to disk.

        Raises
        ------
        InputError
            If the name of the column is not valid, or the table has a column of this name already.
        """
        before = self.cells.columns.get(self.column)
        self.cells.assign(self.column, rows, name)
        self._remember(Step(None, self.column, before, self.cells.columns[self.column], np.asarray(rows)))
        self.changed.emit()

    @property
    def can_undo(self) -> bool:
        """Whether there is a change to take back."""
        return bool(self._done)

    @property
    def can_redo(self) -> bool:
        """Whether there is a change that was taken back."""
        return bool(self._undone)

    def undo(self) -> Step | None:
        """Take back the last change, and return it; None if there is none."""
        return self._move(self._done, self._undone, back=True)

    def redo(self) -> Step | None:
        """Repeat the change that was taken back last, and return it; None if there is none."""
        return self._move(self._undone, self._done, back=False)

    def of_cells(self) -> pd.Categorical:
        """Return the name (N,) of each cell: its own, else that of its cluster; missing without either."""
        classes = self.classes
        codes = np.full(self.study.n_cells, -1, dtype=np.int16)
        if self.of_clusters:
            clusters = self.study.clusters
            of_cluster = [self.of_clusters.get(str(one)) for one in clusters.categories]
            table = np.array([*(classes.index(name) if name else -1 for name in of_cluster), -1], dtype=np.int16)
            codes = table[clusters.codes]  # code -1, no cluster, takes the last entry
        own = self.cells.columns.get(self.column)
        if own is not None:
            table = np.array([classes.index(str(name)) for name in own.categories] or [-1], dtype=np.int16)
            named = np.flatnonzero(own.codes >= 0)
            codes[named] = table[own.codes[named]]
        return pd.Categorical.from_codes(codes, pd.Index(classes, dtype=object))

    def painted(self) -> Painted:
        """Return the names as what cells are coloured by."""
        names = self.of_cells()
        values = np.asarray(names.codes, dtype=np.float32)
        values[values < 0] = np.nan
        classes = tuple(str(name) for name in names.categories)
        code = ""
        if self.column not in self.study.obs_names:
            own = self.cells.path if self.column in self.cells.columns else None
            code = annotation_code(self.study, own, self.column, classes, of_clusters=self.of_clusters)
        return Painted("values", self.column, values, categories=classes, code=code, missing="unnamed")

    def write_to_table(self, more: dict[str, Any] | None = None) -> list[str]:
        """Write the names into ``obs`` of the ``.h5ad``, with ``more`` columns (N,); return the columns written.

        Raises
        ------
        InputError
            If the table has a column of this name that is not of names given here.
        """
        self.cells.check_column(self.column, known=self._written)
        columns = {**self.cells.columns, **({self.column: self.of_cells()} if self.classes else {}), **(more or {})}
        self.study.obs_names = write_obs(self.study.cells, columns)
        self._written.add(self.column)
        if self.of_clusters:
            self._save_clusters()
        return list(columns)

    def _free_column(self) -> str:
        """Return a name for the column of names that no column of the table has."""
        names = (DEFAULT_COLUMN, *(f"{DEFAULT_COLUMN}_{number}" for number in range(2, 1000)))
        return next(name for name in names if name not in self.study.obs_names)

    def _do(self, step: Step) -> None:
        self._apply(step, step.after)
        self._remember(step)
        self.changed.emit()

    def _move(self, origin: list[Step], to: list[Step], *, back: bool) -> Step | None:
        if not origin:
            return None
        step = origin.pop()
        self._apply(step, step.before if back else step.after)
        to.append(step)
        self.changed.emit()
        return step

    def _remember(self, step: Step) -> None:
        self._done = [*self._done[-_MOST_STEPS:], step]
        self._undone = []

    def _apply(self, step: Step, value: Any) -> None:
        if step.cluster is None:
            self.cells.replace(step.column, value)
        else:
            self.of_clusters.pop(step.cluster, None)
            if value:
                self.of_clusters[step.cluster] = value
            self._save_clusters()

    def _save_clusters(self) -> None:
        """Write the names of clusters to disk; they stay in memory, with a word on the problem, if that fails."""
        try:
            self._write_clusters()
            self.problem = ""
        except OSError as error:
            self.problem = f"The names are not saved: {error}. Write them to the .h5ad, or make the folder writable."

    def _write_clusters(self) -> None:
        if self._is_outdated:
            self._path.rename(_free(self._path))
            self._is_outdated = False
        written = self.column if self.column in self._written else ""
        rows = [
            (self.clustering, one, n, self.of_clusters[one], written)
            for one, n in self.counts.items()
            if one in self.of_clusters
        ]
        table = pd.DataFrame(rows, columns=_COLUMNS)
        temporary = self._path.with_name(self._path.name + ".partial")
        together = pd.concat([self._others, table]) if len(self._others) else table
        together.to_csv(temporary, index=False, quoting=csv.QUOTE_NONNUMERIC, encoding="utf-8")
        temporary.replace(self._path)

    def _load(self) -> None:
        table = read_table(self._path, what="table of cluster names")
        missing = [column for column in _COLUMNS if column not in table]
        if missing:
            msg = f"table of cluster names {self._path} has no column {missing[0]!r}."
            raise InputError(msg, "Mend it, or move it away: a new one is begun then.")
        self._written |= set(table["written_to"]) - {""}
        is_of_these = table["clusters"] == self.clustering
        self._others, table = table[~is_of_these], table[is_of_these]
        counts = {cluster: str(n) for cluster, n in self.counts.items()}
        if any(counts.get(one) != n for one, n in zip(table["cluster"], table["cells"], strict=True)):
            self._is_outdated = True
            self.note = (
                f"{self._path.name} has {len(table)} names of earlier clusters, which are not shown. "
                f"It is kept as {_free(self._path).name} when you name a cluster."
            )
            return
        self.of_clusters = {
            str(one): str(name) for one, name in zip(table["cluster"], table["name"], strict=True) if name
        }


def _free(path: Path) -> Path:
    """Return a path next to this one at which no file exists: with a number before its ending."""
    number = 1
    while (found := path.with_name(f"{path.stem}_{number}{path.suffix}")).exists():
        number += 1
    return found


def cluster_names_path(study: Study) -> Path:
    """Return the file of the names of a study's clusters."""
    return study.folder / "cluster_names.csv" if study.folder else study.cells.with_suffix(".cluster_names.csv")
