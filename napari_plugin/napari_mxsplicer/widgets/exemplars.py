"""Exemplar cells of what is painted, and the picked cell with the cells most similar to it."""

from typing import Any

import numpy as np
from qtpy.QtWidgets import QHBoxLayout, QVBoxLayout

from napari_mxsplicer.exemplars import KINDS, Strip, cut_strip, exemplars, exemplars_by_category
from napari_mxsplicer.layers import OpenedSlide
from napari_mxsplicer.neighbours import similar_rows
from napari_mxsplicer.state import Painted
from napari_mxsplicer.study import Study
from napari_mxsplicer.widgets.base import Context, FixedLabel, PanelPart, button
from napari_mxsplicer.widgets.strip import PatchStrip
from napari_mxsplicer.widgets.theme import Theme
from napari_mxsplicer.widgets.work import Debounced

_HINT = "Point at a cell, or click one."
_SIMILAR, _IN_A_ROW = 11, 6  # with the cell itself, two rows
_LINES = 5  # of the description of a cell


class ExemplarsPart(PanelPart):
    """The part of the panel with images of exemplar cells: highest, middle and lowest, or of categories."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.strip, self.note = PatchStrip(), FixedLabel(2)
        self.strip.reserve(len(KINDS), _IN_A_ROW, titles=len(KINDS))
        self._shown: Painted | None = None
        self.work = self.worker()
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(3)
        column.addWidget(self.strip)
        column.addWidget(self.note)
        self._later = Debounced(self, 200, self._cut)
        state = self.state
        for signal in (state.study_changed, state.painted_changed, state.marker_changed, state.selection_changed):
            signal.connect(self._later.start)
        self.strip.chosen.connect(self._chosen)

    def set_theme(self, theme: Theme) -> None:
        """Use the colours of napari's theme."""
        self.strip.set_theme(theme)

    def showEvent(self, event: Any) -> None:  # noqa: N802
        """Show exemplars of what is painted when this part becomes visible."""
        super().showEvent(event)
        self._later.start()

    def _cut(self) -> None:
        state, opened = self.state, self.canvas.opened
        if not self.isVisible():
            return
        self.strip.setVisible(state.study is None or (opened is not None and opened.slide is not None))
        if state.study is None or state.painted is None or opened is None or opened.slide is None:
            self.strip.show_strip(None)
            self.note.setText(
                "" if state.study is None else "Images of cells need the image of the slide, which is not open."
            )
            return
        painted = state.painted
        marker = state.marker if painted.kind != "marker" else painted.name
        rows = state.rows if state.selection is None else state.selection[state.is_on_slide[state.selection]]
        where = "" if state.selection is None else " among the selected cells"
        self.work.start(
            _cut_exemplars,
            state.study,
            opened,
            state.values,
            rows,
            marker,
            state.categories,
            done=lambda found: self._show(painted, found[0], found[1], where),
        )

    def _show(self, painted: Painted, strip: Strip, titles: tuple[str, ...], where: str) -> None:
        if painted is not self._shown:  # a selection may have fewer categories
            self._shown = painted
            n = max(len(KINDS), len(strip.rows))
            self.strip.reserve(n, _IN_A_ROW, titles=n)
        self.strip.show_strip(strip, titles)
        self.note.setText(f"Drawn at random{where}, at the contrast of the slide. Click a cell to go there.")

    def _chosen(self, row: int) -> None:
        self.state.pick(row)
        self.canvas.show_closely(row)


class CellPart(PanelPart):
    """The part of the panel with the picked or hovered cell, its image and values, and similar exemplars."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.values, self.strip = FixedLabel(_LINES, _HINT), PatchStrip()
        self.strip.reserve(-(-(_SIMILAR + 1) // _IN_A_ROW), _IN_A_ROW)
        self.images, self.search = self.worker(), self.worker()
        self.find = button("Find similar cells", "Find the cells with the most similar features", self._find)
        self.clear = button(
            "Clear rings", "Remove the rings around similar cells", lambda: self.state.mark(np.zeros(0, dtype=np.int64))
        )
        row = QHBoxLayout()
        row.addWidget(self.find)
        row.addWidget(self.clear)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(3)
        column.addLayout(row)
        column.addWidget(self.values)
        column.addWidget(self.strip)
        self._later = Debounced(self, 150, self._cut)
        state = self.state
        for signal in (state.hovered_changed, state.picked_changed, state.painted_changed, state.study_changed):
            signal.connect(self._describe)
        for signal in (state.hovered_changed, state.picked_changed, state.marked_changed, state.marker_changed):
            signal.connect(self._later.start)
        self.strip.chosen.connect(self._chosen)
        self._describe()

    def set_theme(self, theme: Theme) -> None:
        """Use the colours of napari's theme."""
        self.strip.set_theme(theme)

    def showEvent(self, event: Any) -> None:  # noqa: N802
        """Show the cell when this part becomes visible."""
        super().showEvent(event)
        self._later.start()

    @property
    def _row(self) -> int | None:
        return self.state.hovered if self.state.hovered is not None else self.state.picked

    def _describe(self) -> None:
        self.find.setEnabled(self.state.picked is not None and bool(self.state.study and self.state.study.n_features))
        self.values.setText(_HINT if self._row is None else self.state.describe_cell(self._row))

    def _cut(self) -> None:
        state, opened = self.state, self.canvas.opened
        rows = [row for row in [self._row] if row is not None and state.is_on_slide[row]]
        if self._row == state.picked:
            rows += [int(row) for row in state.marked if state.is_on_slide[row] and row != state.picked]
        if state.study is None or opened is None or opened.slide is None or not rows or not self.isVisible():
            self.strip.show_strip(None)
            return
        lines = -(-len(rows) // _IN_A_ROW)
        grid = np.full((lines, _IN_A_ROW), -1, dtype=np.int64)
        grid.ravel()[: len(rows)] = rows
        titles = ("this cell" + (" and similar cells" if len(rows) > 1 else ""), *[""] * (lines - 1))
        marker = state.marker
        self.images.start(
            cut_strip, state.study, opened, grid, marker, done=lambda strip: self.strip.show_strip(strip, titles)
        )

    def _find(self) -> None:
        state = self.state
        if state.study is None or state.picked is None:
            return
        self.context.notify("Searching this slide for similar cells ...")  # only those can be shown
        self.search.start(
            similar_rows, state.study, state.picked, n=_SIMILAR, among=state.is_on_slide, done=self._found
        )

    def _found(self, rows: np.ndarray) -> None:
        self.context.notify("")
        self.state.mark(rows)

    def _chosen(self, row: int) -> None:
        self.canvas.centre_on(row)


def _cut_exemplars(
    study: Study,
    opened: OpenedSlide,
    values: np.ndarray,
    rows: np.ndarray,
    marker: str | None,
    categories: tuple[str, ...],
) -> tuple[Strip, tuple[str, ...]]:
    if not categories:
        return cut_strip(study, opened, exemplars(values, rows), marker), KINDS
    codes, drawn = exemplars_by_category(values, rows)
    return cut_strip(study, opened, drawn, marker), tuple(categories[code] for code in codes)
