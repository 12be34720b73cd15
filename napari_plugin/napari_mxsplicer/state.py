"""The state of the panel: widgets change it and listen to its signals; they do not know each other."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from psygnal import Signal

from napari_mxsplicer.study import Study

if TYPE_CHECKING:
    from napari_mxsplicer.names import Names

ALL = "all cells"  # that correlations are computed over
_MOST_BRIGHT = 4  # markers named in the description of a cell
_MOST_STEPS = 50  # of undo


@dataclass(frozen=True)
class Painted:
    """What the cells of the state are coloured by: a feature, a marker, a column of obs, or computed values."""

    kind: Literal["feature", "marker", "column", "values"]
    name: str  # the number, if it is a feature
    values: np.ndarray | None = field(default=None, compare=False, repr=False)  # (N,), of `values`
    limits: tuple[float, float] | None = None
    categories: tuple[str, ...] = ()  # if `values` are codes
    signed: bool = False  # values from -1 to 1
    code: str = ""  # Python that sets `color` to a column of `adata.obs` with `values`
    missing: str = "without a value"  # what cells without a value are called

    @property
    def feature(self) -> int | None:
        """The number of the feature, or None."""
        return int(self.name) if self.kind == "feature" else None


class State:
    """The study, what its cells are painted by, the marker and the selected cells, with a signal for each.

    Setting a value again emits no signal, so that widgets that listen and set do not call each other endlessly.
    """

    study_changed = Signal()
    painted_changed = Signal()
    marker_changed = Signal()
    selection_changed = Signal()  # rows of the study
    picked_changed = Signal()
    hovered_changed = Signal()
    marked_changed = Signal()
    correlations_changed = Signal()
    names_changed = Signal()
    columns_changed = Signal()  # of obs
    _SIGNALS: ClassVar[tuple[str, ...]] = (
        "study_changed",
        "painted_changed",
        "marker_changed",
        "selection_changed",
        "picked_changed",
        "hovered_changed",
        "marked_changed",
        "correlations_changed",
        "names_changed",
        "columns_changed",
    )

    def __init__(self) -> None:
        self.study: Study | None = None
        self.slide: str | None = None  # the one on the canvas
        self.rows = np.zeros(0, dtype=np.int64)  # of the cells of that slide in the study
        self.is_on_slide = np.zeros(0, dtype=bool)  # (N,), whether a cell belongs to that slide
        self.painted: Painted | None = None
        self.values = np.zeros(0, dtype=np.float32)  # (N,), by which the cells are painted
        self.n_without_value = 0  # cells of the slide without a value
        self.categories: tuple[str, ...] = ()  # if the values are codes
        self.marker: str | None = None
        self.selection: np.ndarray | None = None  # rows, ascending; None if nothing is selected
        self.picked: int | None = None
        self.hovered: int | None = None
        self.marked = np.zeros(0, dtype=np.int64)  # rows of similar cells
        self.correlation_kind, self.r = "", np.zeros((0, 0), dtype=np.float32)  # (markers, features)
        self.p_values: np.ndarray | None = None
        self.correlated_over = ALL
        self._undo: list[np.ndarray | None] = []
        self.names: Names | None = None  # None until they are read
        self.cluster_markers: dict[str, tuple[str, ...]] = {}  # in the suggested name of each cluster

    def use_names(self, names: "Names | None") -> None:
        """Set the names that the user gives; later changes of them are changes of the state."""
        if self.names is not None:
            self.names.changed.disconnect(self._names_changed)
        self.names = names
        if names is not None:
            names.changed.connect(self._names_changed)
        self._names_changed()

    def _names_changed(self) -> None:
        self.names_changed.emit()
        painted, names = self.painted, self.names
        if names is not None and painted is not None and (painted.kind, painted.name) == ("values", names.column):
            self.paint(names.painted())

    def open(self, study: Study, slide: str | None, rows: np.ndarray) -> None:
        """Show another study, or another slide of it; the selection and the marks are cleared."""
        same = study is self.study
        if not same:
            self.use_names(None)
        self.study, self.slide, self.rows = study, slide, rows
        self.is_on_slide = np.zeros(study.n_cells, dtype=bool)
        self.is_on_slide[rows] = True
        self.picked = self.hovered = None
        self.marked = np.zeros(0, dtype=np.int64)
        if not same:
            self.selection, self.painted, self.marker, self._undo = None, None, None, []
            self.cluster_markers = {}
            self.values = np.full(study.n_cells, np.nan, dtype=np.float32)
            self.correlation_kind = next(iter(study.correlations), "")
            self.r = study.correlations.get(self.correlation_kind, np.zeros((len(study.markers), 0), dtype=np.float32))
            self.p_values, self.correlated_over = study.p_values, ALL
        self._count()
        self.study_changed.emit()
        if self.painted is not None:
            self.painted_changed.emit()

    def close(self) -> None:
        """Close the study, whose layers were removed."""
        if self.study is not None:
            self.use_names(None)
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
        if painted.kind == "column" or self.categories:
            self.show_marker(None)  # no marker belongs to them
        self._count()
        self.painted_changed.emit()

    def on_slide(self, values: np.ndarray) -> np.ndarray:
        """Return the values of the cells on the canvas from one value per cell (N,)."""
        return values if len(self.rows) == len(values) else values[self.rows]

    def show_marker(self, marker: str | None) -> None:
        """Set the marker to compare with, whose channel is shown."""
        if marker != self.marker:
            self.marker = marker
            self.marker_changed.emit()

    def select(self, rows: np.ndarray | None) -> None:
        """Select cells by their rows; None or an empty array clears the selection."""
        if rows is not None and (np.diff(rows) <= 0).any():
            rows = np.unique(rows)
        rows = None if rows is None or not len(rows) else rows
        if _same(rows, self.selection):
            return
        self._undo = [*self._undo[-_MOST_STEPS:], self.selection]
        self.selection = rows
        self.selection_changed.emit()

    def undo(self) -> None:
        """Restore the previous selection."""
        if self._undo:
            self.selection = self._undo.pop()
            self.selection_changed.emit()

    def pick(self, row: int | None) -> None:
        """Set the cell that was clicked."""
        if row != self.picked:
            self.picked = row
            self.picked_changed.emit()

    def hover(self, row: int | None) -> None:
        """Set the cell under the pointer."""
        if row != self.hovered:
            self.hovered = row
            self.hovered_changed.emit()

    def mark(self, rows: np.ndarray) -> None:
        """Mark some cells."""
        if not np.array_equal(rows, self.marked):
            self.marked = np.asarray(rows)
            self.marked_changed.emit()

    def show_correlations(
        self, kind: str, r: np.ndarray, *, over: str = ALL, p_values: np.ndarray | None = None
    ) -> None:
        """Set the correlations (markers, features) to show."""
        self.correlation_kind, self.r, self.correlated_over, self.p_values = kind, r, over, p_values
        self.correlations_changed.emit()

    @property
    def title(self) -> str:
        """What the cells are painted by, as a sentence calls it; "" if by nothing."""
        return "" if self.study is None or self.painted is None else title_of(self.study, self.painted)

    def summary(self) -> str:
        """Return a sentence on what the canvas shows."""
        if self.study is None:
            return "Open a result (its mxsplicer.json) or a sample, or choose a table and a labels layer below."
        n = len(self.rows)
        if self.painted is None:
            return f"{self.study.name}: {n:,} cells"
        parts = [self.title]
        feature = self.painted.feature
        if feature is not None and self.marker in self.study.markers and self.r.shape[1] > feature:
            r = self.r[self.study.markers.index(self.marker), feature]
            over = "" if self.correlated_over == ALL else f" over {self.correlated_over}"
            parts.append(f"{_SYMBOLS.get(self.correlation_kind, 'r')} = {r:+.2f} with {self.marker}{over}")
        if feature is not None and self.study.chunks is not None and not self.study.is_of_markers(feature):
            parts.append(self.study.chunks.describe(feature))
        parts.append(f"{n:,} cells")
        if self.n_without_value:
            parts.append(f"{self.n_without_value:,} {self.painted.missing}")
        if self.selection is not None:
            parts.append(f"{len(self.selection):,} selected")
        return ", ".join(parts)

    def describe_cell(self, row: int) -> str:
        """Return a sentence with the values of a cell."""
        study = self.study
        if study is None:
            return ""
        slide = f"{study.slides[row]}, " if len(study.slide_names) > 1 else ""
        parts = [f"{slide}cell {study.cell_ids[row]}"]
        if self.painted is not None:
            value = self.values[row]
            text = self.painted.missing if np.isnan(value) else _format_value(float(value))
            if self.categories and not np.isnan(value):
                text = self.categories[int(value)]
            parts.append(f"{self.title} {text}")
        if self.marker is not None and not (self.painted and self.painted.name == self.marker):
            parts.append(f"{self.marker} {study.marker(self.marker)[row]:,.0f}")
        for name in study.described_columns:
            if not (self.painted and self.painted.name == name):
                value = study.column(name)[row]
                parts.append(f"area {value:.0f} µm²" if name == "area_um2" else f"{name} {value}")
        bright = [f"{name} (top {max(100 * share, 0.1):.2g} %)" for name, share in study.brightest(row)[:_MOST_BRIGHT]]
        return ", ".join(parts) + (f"; bright in {', '.join(bright)}" if bright else "")

    def _count(self) -> None:
        self.n_without_value = int(np.isnan(self.on_slide(self.values)).sum())

    def disconnect(self) -> None:
        """Disconnect all listeners."""
        for name in self._SIGNALS:
            getattr(self, name).disconnect()


_SYMBOLS = {"Pearson": "r", "Spearman": "ρ", "partial": "partial r"}


def title_of(study: Study, painted: Painted) -> str:
    """Return what a sentence calls a state of painting: a feature by its name, such as "CD4 rim"."""
    return painted.name if painted.feature is None else study.feature_names[painted.feature]


def values_of(study: Study, painted: Painted) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the value (N,) of each cell in the state, float32, NaN if missing, and categories if values are codes."""
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


def _format_value(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _same(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return (a is None and b is None) or (a is not None and b is not None and np.array_equal(a, b))
