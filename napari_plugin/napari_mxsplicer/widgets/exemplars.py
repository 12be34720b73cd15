"""Cells that show what is painted, and the cell that is pointed at, with those most like it."""

import numpy as np
from qtpy.QtWidgets import QHBoxLayout, QLabel, QVBoxLayout

from napari_mxsplicer.exemplars import KINDS, Strip, exemplars, of_categories, picture
from napari_mxsplicer.layers import OpenedSlide
from napari_mxsplicer.neighbours import similar_rows
from napari_mxsplicer.study import Study
from napari_mxsplicer.widgets.base import Context, Later, Part, button
from napari_mxsplicer.widgets.strip import PatchStrip
from napari_mxsplicer.widgets.theme import Theme

_SIMILAR = 11  # beside the cell itself: two lines of six


class Exemplars(Part):
    """Pictures of the highest, the middle and the lowest cells of what is painted, or of some of each category."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.strip, self.note = PatchStrip(), QLabel()
        self.note.setWordWrap(True)
        self.work = self.newest()
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(3)
        column.addWidget(self.strip)
        column.addWidget(self.note)
        self._later = Later(self, 200, self._cut)
        state = self.state
        for signal in (state.study_changed, state.painted_changed, state.marker_changed, state.selection_changed):
            signal.connect(self._later.start)
        self.strip.chosen.connect(self._chosen)

    def set_theme(self, theme: Theme) -> None:
        """Take the colours of napari's theme."""
        self.strip.set_theme(theme)

    def refresh(self) -> None:
        """Show what is painted now; called when this part is unfolded."""
        self._later.start()

    def _cut(self) -> None:
        state, opened = self.state, self.canvas.opened
        if not self.isVisible():
            return
        if state.study is None or state.painted is None or opened is None or opened.slide is None:
            self.strip.show_strip(None)
            self.note.setText("" if state.study is None else "There are pictures where the image is open.")
            return
        marker = state.marker if state.painted.kind != "marker" else state.painted.name
        rows = state.rows if state.selection is None else state.selection[state.here[state.selection]]
        where = "" if state.selection is None else " of the selected cells"
        self.work.start(
            _pictured,
            state.study,
            opened,
            state.values,
            rows,
            marker,
            state.categories,
            done=lambda found: self._show(found[0], found[1], where),
        )

    def _show(self, strip: Strip, titles: tuple[str, ...], where: str) -> None:
        self.strip.show_strip(strip, titles)
        self.note.setText(f"{' + '.join(strip.markers)}{where}, one stretch for all. Click a cell to go there.")

    def _chosen(self, row: int) -> None:
        self.state.pick(row)
        self.canvas.centre_on(row)


class CellPart(Part):
    """The values of the cell under the pointer, or of the one that was clicked; its picture; cells like it."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.values, self.strip = QLabel("Point at a cell, or click one."), PatchStrip()
        self.values.setWordWrap(True)
        self.values.setMinimumHeight(self.values.fontMetrics().height() * 3)
        self.pictures, self.search = self.newest(), self.newest()
        self.find = button("Find similar cells", "The cells whose learned features are nearest", self._find)
        self.clear = button("Clear", "Mark no cells", lambda: self.state.mark(np.zeros(0, dtype=np.int64)))
        row = QHBoxLayout()
        row.addWidget(self.find)
        row.addWidget(self.clear)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(3)
        column.addWidget(self.values)
        column.addWidget(self.strip)
        column.addLayout(row)
        self._later = Later(self, 150, self._cut)
        state = self.state
        for signal in (state.hovered_changed, state.picked_changed, state.painted_changed, state.study_changed):
            signal.connect(self._say)
        for signal in (state.hovered_changed, state.picked_changed, state.marked_changed, state.marker_changed):
            signal.connect(self._later.start)
        self.strip.chosen.connect(self._chosen)
        self._say()

    def set_theme(self, theme: Theme) -> None:
        """Take the colours of napari's theme."""
        self.strip.set_theme(theme)

    @property
    def _row(self) -> int | None:
        return self.state.hovered if self.state.hovered is not None else self.state.picked

    def _say(self) -> None:
        self.find.setEnabled(self.state.picked is not None and bool(self.state.study and self.state.study.n_features))
        self.values.setText(self.state.told(self._row) if self._row is not None else "Point at a cell, or click one.")

    def _cut(self) -> None:
        state, opened = self.state, self.canvas.opened
        rows = [row for row in [self._row] if row is not None and state.here[row]]
        if self._row == state.picked:
            rows += [int(row) for row in state.marked if state.here[row] and row != state.picked]
        if state.study is None or opened is None or opened.slide is None or not rows or not self.isVisible():
            self.strip.show_strip(None)
            return
        lines = -(-len(rows) // 6)
        grid = np.full((lines, 6), -1, dtype=np.int64)
        grid.ravel()[: len(rows)] = rows
        titles = ("this cell" + (", and cells like it" if len(rows) > 1 else ""), *[""] * (lines - 1))
        marker = state.marker
        self.pictures.start(
            picture, state.study, opened, grid, marker, done=lambda strip: self.strip.show_strip(strip, titles)
        )

    def _find(self) -> None:
        state = self.state
        if state.study is None or state.picked is None:
            return
        self.context.tell("Comparing the cells of this slide ...")  # which can be shown
        self.search.start(similar_rows, state.study, state.picked, n=_SIMILAR, among=state.here, done=self._found)

    def _found(self, rows: np.ndarray) -> None:
        self.context.tell("")
        self.state.mark(rows)

    def _chosen(self, row: int) -> None:
        self.canvas.centre_on(row)


def _pictured(
    study: Study,
    opened: OpenedSlide,
    values: np.ndarray,
    rows: np.ndarray,
    marker: str | None,
    categories: tuple[str, ...],
) -> tuple[Strip, tuple[str, ...]]:
    if not categories:
        return picture(study, opened, exemplars(values, rows), marker), KINDS
    codes, drawn = of_categories(values, rows)
    return picture(study, opened, drawn, marker), tuple(categories[code] for code in codes)
