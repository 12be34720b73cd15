"""Gate the cells by a marker: its histogram with a threshold that is dragged."""

from typing import Any

import numpy as np
import pyqtgraph as pg
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QGridLayout, QLineEdit

from napari_mxsplicer.gates import Histogram, gated_rows, histogram, proposed_threshold
from napari_mxsplicer.widgets.base import Context, FixedLabel, PanelPart, button, choice
from napari_mxsplicer.widgets.theme import Theme

ALL_CELLS, WITHIN, ADDED = "among all cells", "within the selection", "added to the selection"
_HEIGHT_PX = 120


class GatingPart(PanelPart):
    """The part of the panel that selects cells by a threshold of a marker."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.plot, self.note, self.value = GatePlot(), FixedLabel(2), QLineEdit()
        self.marker = choice("Marker of the gate")
        self.among = choice("Which cells the gate selects", ALL_CELLS, WITHIN, ADDED)
        self.value.setToolTip("Threshold; Enter selects the cells")
        self._above, self._is_selecting, self._is_drawn = True, False, False
        self._base: np.ndarray | None = None  # rows that were selected before the gate
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(4)
        grid.addWidget(self.marker, 0, 0)
        grid.addWidget(self.among, 0, 1)
        grid.addWidget(self.plot, 1, 0, 1, 2)
        grid.addWidget(self.note, 2, 0, 1, 2)
        grid.addWidget(self.value, 3, 0, 1, 2)
        grid.addWidget(button("Select above", "Select cells with at least the threshold", self.select_above), 4, 0)
        grid.addWidget(button("Select below", "Select cells with less than the threshold", self.select_below), 4, 1)
        self.marker.activated.connect(self.show_marker)
        self.among.activated.connect(self._draw)
        self.plot.moved.connect(self._describe)
        self.plot.dropped.connect(self._select)
        self.value.returnPressed.connect(self._typed)
        state = self.state
        state.study_changed.connect(self._study_changed)
        state.marker_changed.connect(self._marker_changed)
        state.selection_changed.connect(self._selection_changed)
        self._study_changed()

    def set_theme(self, theme: Theme) -> None:
        """Use the colours of napari's theme."""
        self.plot.set_theme(theme)

    def showEvent(self, event: Any) -> None:  # noqa: N802
        """Draw the histogram when this part becomes visible."""
        super().showEvent(event)
        if not self._is_drawn:
            self.show_marker()

    def show_marker(self) -> None:
        """Draw the histogram of the chosen marker with a proposed threshold."""
        self._base = self.state.selection
        values = self._values()
        self._is_drawn = values is not None and self.isVisible()
        if values is not None and self._is_drawn:
            self._draw()
            self.plot.set_threshold(proposed_threshold(values if self._among is None else values[self._among]))
            self._describe()

    def select_above(self) -> None:
        """Select the cells with at least the threshold."""
        self._above = True
        self._select()

    def select_below(self) -> None:
        """Select the cells with less than the threshold."""
        self._above = False
        self._select()

    @property
    def _among(self) -> np.ndarray | None:
        return self._base if self.among.currentText() == WITHIN else None

    def _values(self) -> np.ndarray | None:
        study, name = self.state.study, self.marker.currentText()
        return study.marker(name) if study is not None and name in study.markers else None

    def _draw(self) -> None:
        values = self._values()
        if values is not None:
            self.plot.show_histogram(histogram(values if self._among is None else values[self._among]))
            self._describe()

    def _rows(self) -> np.ndarray:
        values = self._values()
        assert values is not None
        return gated_rows(values, self.plot.threshold, above=self._above, among=self._among)

    def _describe(self) -> None:
        values = self._values()
        if values is None:
            return
        self.value.setText(f"{self.plot.threshold:.6g}")
        n, total = len(self._rows()), len(values) if self._among is None else len(self._among)
        sign = "≥" if self._above else "<"
        self.note.setText(
            f"{self.marker.currentText()} {sign} {self.plot.threshold:,.4g}: {n:,} of {total:,} cells "
            f"({100 * n / max(total, 1):.1f} %)"
        )

    def _select(self) -> None:
        if self._values() is None:
            return
        self._describe()
        rows = self._rows()
        if self.among.currentText() == ADDED and self._base is not None:
            rows = np.union1d(rows, self._base)
        self._is_selecting = True
        self.state.select(rows)
        self._is_selecting = False
        self.context.notify("" if len(rows) else "No cell is on this side of the threshold.")

    def _typed(self) -> None:
        try:
            threshold = float(self.value.text().replace(",", ""))
        except ValueError:
            self.context.notify(f"{self.value.text()!r} is not a number.")
            return
        self.plot.set_threshold(threshold)
        self._select()

    def _selection_changed(self) -> None:
        if not self._is_selecting:
            self._base = self.state.selection
            if self.among.currentText() == WITHIN and self.isVisible():
                self._draw()

    def _marker_changed(self) -> None:
        if self.state.marker and self.state.marker != self.marker.currentText():
            self.marker.setCurrentText(self.state.marker)
            self.show_marker()

    def _study_changed(self) -> None:
        study = self.state.study
        self.marker.clear()
        if study is not None:
            self.marker.addItems(study.markers)
            first = next((one for one in study.markers if one not in study.confounders), "")
            self.marker.setCurrentText(self.state.marker or first)
            self.show_marker()


class GatePlot(pg.PlotWidget):
    """The histogram of the gate and its threshold, a line that can be dragged."""

    moved = Signal()  # while it is dragged
    dropped = Signal()

    def __init__(self, parent: Any = None) -> None:
        self._axis = _IntensityAxis("bottom")
        super().__init__(parent, axisItems={"bottom": self._axis}, enableMenu=False)
        self._bars = pg.PlotCurveItem([0, 1], [0], stepMode="center", fillLevel=0)
        self.line = pg.InfiniteLine(0, angle=90, movable=True, bounds=(0, 1))
        self.addItem(self._bars)
        self.addItem(self.line)
        self.hideAxis("left")
        self.hideButtons()
        self.setMouseEnabled(x=False, y=False)
        self.setFixedHeight(_HEIGHT_PX)
        self.setAccessibleName("Histogram of the marker")
        self._histogram: Histogram | None = None
        self.line.sigDragged.connect(lambda _: self.moved.emit())
        self.line.sigPositionChangeFinished.connect(lambda _: self.dropped.emit())

    @property
    def threshold(self) -> float:
        """The intensity at the line."""
        place = float(self.line.value())
        return place if self._histogram is None else self._histogram.value(place)

    def set_threshold(self, value: float) -> None:
        """Move the line to an intensity, which may lie outside the histogram."""
        place = value if self._histogram is None else self._histogram.place(value)
        low, high = self.line.bounds()
        self.line.setBounds((min(low, place), max(high, place)))
        self.line.setValue(place)

    def set_theme(self, theme: Theme) -> None:
        """Use the colours of napari's theme."""
        self.setBackground(theme.background)
        self._axis.setPen(theme.faint)
        self._axis.setTextPen(theme.text)
        self._bars.setPen(pg.mkPen(theme.faint))
        self._bars.setBrush(pg.mkBrush(theme.faint))
        self.line.setPen(pg.mkPen(theme.accent, width=2))
        self.line.setHoverPen(pg.mkPen(theme.accent, width=4))

    def show_histogram(self, shown: Histogram) -> None:
        """Show another histogram; heights are square roots of counts, so that few bright cells can be seen."""
        self._histogram = self._axis.histogram = shown
        self._bars.setData(shown.edges, np.sqrt(shown.counts))
        low, high = float(shown.edges[0]), float(shown.edges[-1])
        self.line.setBounds((low, high))
        self.setXRange(low, high, padding=0.02)
        self.setYRange(0, float(np.sqrt(shown.counts.max())) or 1, padding=0.02)
        self._axis.setTicks(None)


class _IntensityAxis(pg.AxisItem):
    """The axis of the gate, labelled in the unit of the intensities."""

    histogram: Histogram | None = None

    def tickStrings(self, values: list[float], scale: float, spacing: float) -> list[str]:  # noqa: N802
        """Return the labels."""
        if self.histogram is None:
            return [""] * len(values)
        return [_rounded(self.histogram.value(place)) for place in values]


def _rounded(value: float) -> str:
    return f"{float(f'{value:.2g}'):,g}"
