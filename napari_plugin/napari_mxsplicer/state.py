"""What is shown and chosen, in one place: views change it, and listen to it; they do not know each other."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from psygnal import Signal

from napari_mxsplicer.study import Study

ALL = "all cells"  # that a map of correlations is of
_MOST_BRIGHT = 4  # markers that are told of a cell
_MOST_STEPS = 50  # of selections that can be taken back


@dataclass(frozen=True)
class Painted:
    """What cells are painted by: a learned feature, a marker, a column of obs, or values that were computed."""

    kind: Literal["feature", "marker", "column", "values"]
    name: str  # of a feature its number
    values: np.ndarray | None = field(default=None, compare=False, repr=False)  # (N,), of `values`
    limits: tuple[float, float] | None = None
    categories: tuple[str, ...] = ()  # of `values` that number them
    signed: bool = False  # from -1 to 1
    code: str = ""  # of `values`: Python that sets `color` to a column of `adata.obs` that holds them

    @property
    def feature(self) -> int | None:
        """The number of the feature, where it is one."""
        return int(self.name) if self.kind == "feature" else None

    @property
    def title(self) -> str:
        """What to call it in a sentence."""
        return f"feature {self.name}" if self.kind == "feature" else self.name


class State:
    """The study, what it is painted by, which marker is looked at, and the chosen cells; signals tell of changes.

    A change to what already holds is no change, so that views that listen and set do not answer each other for ever.
    """

    study_changed = Signal()
    painted_changed = Signal()
    marker_changed = Signal()
    selection_changed = Signal()  # rows of the study
    picked_changed = Signal()
    hovered_changed = Signal()
    marked_changed = Signal()
    map_changed = Signal()  # which correlations are shown
    _SIGNALS: ClassVar[tuple[str, ...]] = (
        "study_changed",
        "painted_changed",
        "marker_changed",
        "selection_changed",
        "picked_changed",
        "hovered_changed",
        "marked_changed",
        "map_changed",
    )

    def __init__(self) -> None:
        self.study: Study | None = None
        self.slide: str | None = None  # the one on the canvas
        self.rows = np.zeros(0, dtype=np.int64)  # of the study, of the cells of that slide
        self.here = np.zeros(0, dtype=bool)  # (N,), whether a cell is of that slide
        self.painted: Painted | None = None
        self.values = np.zeros(0, dtype=np.float32)  # (N,), what `painted` means
        self.without = 0  # cells of the slide that have no value
        self.categories: tuple[str, ...] = ()  # that the values number, or nothing
        self.marker: str | None = None
        self.selection: np.ndarray | None = None  # rows, ascending; None where nothing is chosen
        self.picked: int | None = None
        self.hovered: int | None = None
        self.marked = np.zeros(0, dtype=np.int64)  # rows that are pointed at: similar cells
        self.map_name, self.r = "", np.zeros((0, 0), dtype=np.float32)  # (markers, features)
        self.p_values: np.ndarray | None = None
        self.map_of = ALL
        self._undo: list[np.ndarray | None] = []

    def open(self, study: Study, slide: str | None, rows: np.ndarray) -> None:
        """Show another study, or another slide of it; what was chosen before is forgotten."""
        same = study is self.study
        self.study, self.slide, self.rows = study, slide, rows
        self.here = np.zeros(study.n_cells, dtype=bool)
        self.here[rows] = True
        self.picked = self.hovered = None
        self.marked = np.zeros(0, dtype=np.int64)
        if not same:
            self.selection, self.painted, self.marker, self._undo = None, None, None, []
            self.values = np.full(study.n_cells, np.nan, dtype=np.float32)
            self.map_name = next(iter(study.maps), "")
            self.r = study.maps.get(self.map_name, np.zeros((len(study.markers), 0), dtype=np.float32))
            self.p_values, self.map_of = study.p_values, ALL
        self._count()
        self.study_changed.emit()
        if self.painted is not None:
            self.painted_changed.emit()

    def close(self) -> None:
        """Let go of the study: its layers are gone."""
        if self.study is not None:
            self.study, self.slide, self.selection, self.painted = None, None, None, None
            self.picked = self.hovered = None
            self._undo = []
            self.study_changed.emit()

    def paint(self, painted: Painted) -> None:
        """Paint the cells by a feature, a marker, a column, or values."""
        if self.study is None or (painted == self.painted and painted.values is None):
            return
        self.values, self.categories = values_of(self.study, painted)
        self.painted = painted
        self._count()
        self.painted_changed.emit()

    def on_slide(self, values: np.ndarray) -> np.ndarray:
        """Return of one value per cell (N,) those of the cells of the slide on the canvas."""
        return values if len(self.rows) == len(values) else values[self.rows]

    def look_at(self, marker: str | None) -> None:
        """Choose the marker that is compared with."""
        if marker != self.marker:
            self.marker = marker
            self.marker_changed.emit()

    def select(self, rows: np.ndarray | None) -> None:
        """Choose cells by their rows; None or no rows at all choose nothing."""
        if rows is not None and (np.diff(rows) <= 0).any():
            rows = np.unique(rows)
        rows = None if rows is None or not len(rows) else rows
        if _same(rows, self.selection):
            return
        self._undo = [*self._undo[-_MOST_STEPS:], self.selection]
        self.selection = rows
        self.selection_changed.emit()

    def undo(self) -> None:
        """Go back to the selection before."""
        if self._undo:
            self.selection = self._undo.pop()
            self.selection_changed.emit()

    def pick(self, row: int | None) -> None:
        """Point at one cell, to stay."""
        if row != self.picked:
            self.picked = row
            self.picked_changed.emit()

    def hover(self, row: int | None) -> None:
        """Point at one cell, for a moment."""
        if row != self.hovered:
            self.hovered = row
            self.hovered_changed.emit()

    def mark(self, rows: np.ndarray) -> None:
        """Point at some cells."""
        if not np.array_equal(rows, self.marked):
            self.marked = np.asarray(rows)
            self.marked_changed.emit()

    def show_map(self, name: str, r: np.ndarray, *, of: str = ALL, p_values: np.ndarray | None = None) -> None:
        """Show other correlations (markers, features)."""
        self.map_name, self.r, self.map_of, self.p_values = name, r, of, p_values
        self.map_changed.emit()

    def sentence(self) -> str:
        """Return in words what is on the canvas."""
        if self.study is None:
            return "Open a result (its mxsplicer.json), a sample, or choose a table and labels below."
        n = len(self.rows)
        if self.painted is None:
            return f"{self.study.name}: {n:,} cells"
        parts = [self.painted.title]
        feature = self.painted.feature
        if feature is not None and self.marker in self.study.markers and self.r.shape[1] > feature:
            r = self.r[self.study.markers.index(self.marker), feature]
            over = "" if self.map_of == ALL else f" over {self.map_of}"
            parts.append(f"{_SYMBOLS.get(self.map_name, 'r')} = {r:+.2f} with {self.marker}{over}")
        if feature is not None and self.study.chunks is not None:
            parts.append(self.study.chunks.told(feature))
        parts.append(f"{n:,} cells")
        if self.without:
            parts.append(f"{self.without:,} without value")
        if self.selection is not None:
            parts.append(f"{len(self.selection):,} selected")
        return ", ".join(parts)

    def told(self, row: int) -> str:
        """Return in words what is known of a cell."""
        study = self.study
        if study is None:
            return ""
        slide = f"{study.slides[row]}, " if len(study.slide_names) > 1 else ""
        parts = [f"{slide}cell {study.cell_ids[row]}"]
        if self.painted is not None:
            value = self.values[row]
            said = "no value" if np.isnan(value) else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
            if self.categories and not np.isnan(value):
                said = self.categories[int(value)]
            parts.append(f"{self.painted.title} {said}")
        if self.marker is not None and not (self.painted and self.painted.name == self.marker):
            parts.append(f"{self.marker} {study.marker(self.marker)[row]:,.0f}")
        for name in study.told_columns:
            if not (self.painted and self.painted.name == name):
                value = study.column(name)[row]
                parts.append(f"area {value:.0f} µm²" if name == "area_um2" else f"{name} {value}")
        bright = [f"{name} (top {max(100 * share, 0.1):.2g} %)" for name, share in study.brightest(row)[:_MOST_BRIGHT]]
        return ", ".join(parts) + (f"; bright in {', '.join(bright)}" if bright else "")

    def _count(self) -> None:
        self.without = int(np.isnan(self.on_slide(self.values)).sum())

    def disconnect(self) -> None:
        """Forget who listens."""
        for name in self._SIGNALS:
            getattr(self, name).disconnect()


_SYMBOLS = {"Pearson": "r", "Spearman": "ρ", "partial": "partial r"}


def values_of(study: Study, painted: Painted) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the value (N,) of each cell, float32, and the categories that they number; NaN stands for none."""
    if painted.values is not None:
        return np.asarray(painted.values, dtype=np.float32), painted.categories
    readers: dict[str, Callable[[], Any]] = {
        "feature": lambda: study.feature(int(painted.name)),
        "marker": lambda: study.marker(painted.name),
        "column": lambda: study.column(painted.name),
    }
    found = readers[painted.kind]()
    if hasattr(found, "codes"):
        codes = np.asarray(found.codes, dtype=np.float32)
        codes[codes < 0] = np.nan
        return codes, tuple(str(name) for name in found.categories)
    return np.asarray(found, dtype=np.float32), ()


def _same(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return (a is None and b is None) or (a is not None and b is not None and np.array_equal(a, b))
