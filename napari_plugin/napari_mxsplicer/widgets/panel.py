"""The panel: which feature follows which marker, and where; every view of it shows the same state."""

from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox, QHBoxLayout, QLabel, QLineEdit, QScrollArea, QVBoxLayout, QWidget

from napari_mxsplicer.canvas import Canvas
from napari_mxsplicer.order import chosen, clustered
from napari_mxsplicer.state import Painted, State
from napari_mxsplicer.widgets.heatmap import Heatmap
from napari_mxsplicer.widgets.theme import Theme

if TYPE_CHECKING:
    import napari.viewer

_WIDTH_PX = 330  # at which everything can be used


class Panel(QWidget):
    """The marker-correlation map of the study on the canvas."""

    def __init__(self, viewer: "napari.viewer.Viewer", parent: Any = None) -> None:
        super().__init__(parent)
        self.state = State()
        self.viewer = viewer
        self.sentence = QLabel()
        self.sentence.setWordWrap(True)
        self.heatmap = Heatmap()
        self.kind, self.filter = QComboBox(), QLineEdit()
        self.kind.setToolTip("How the correlation is computed")
        self.filter.setPlaceholderText("Filter: CD8a  12  10-20  >0.4")
        self.filter.setClearButtonEnabled(True)
        self._order: tuple[np.ndarray, np.ndarray] = (np.zeros(0, dtype=int), np.zeros(0, dtype=int))
        self._arrange()
        self._listen()
        self.canvas = Canvas(viewer, self.state)
        self._themed()
        self._study_changed()

    def closeEvent(self, event: Any) -> None:  # noqa: N802
        """Listen to nothing any more."""
        self.disconnect_all()
        super().closeEvent(event)

    def disconnect_all(self) -> None:
        """Leave the viewer alone."""
        self.canvas.disconnect()
        self.viewer.events.theme.disconnect(self._themed)

    def _arrange(self) -> None:
        inner = QWidget()
        column = QVBoxLayout(inner)
        column.setContentsMargins(6, 6, 6, 6)
        column.setSpacing(4)
        row = QHBoxLayout()
        row.addWidget(self.kind)
        row.addWidget(self.filter, 1)
        column.addWidget(self.sentence)
        column.addLayout(row)
        column.addWidget(self.heatmap)
        column.addStretch(1)
        area = QScrollArea()
        area.setWidget(inner)
        area.setWidgetResizable(True)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(area)
        self.setMinimumWidth(_WIDTH_PX)

    def _listen(self) -> None:
        state = self.state
        state.study_changed.connect(self._study_changed)
        state.map_changed.connect(self._draw_map)
        for signal in (state.painted_changed, state.marker_changed):
            signal.connect(self._frame)
        for signal in (state.painted_changed, state.marker_changed, state.map_changed, state.selection_changed):
            signal.connect(self._say)
        self.heatmap.cell_clicked.connect(self._cell_clicked)
        self.heatmap.marker_clicked.connect(self._marker_clicked)
        self.heatmap.feature_clicked.connect(self._feature_clicked)
        self.heatmap.stepped.connect(self._step)
        self.filter.textChanged.connect(self._draw_map)
        self.kind.activated.connect(self._kind_chosen)
        self.viewer.events.theme.connect(self._themed)

    def _themed(self, event: Any = None) -> None:
        self.heatmap.set_theme(Theme.of(self.viewer.theme))

    def _study_changed(self) -> None:
        study = self.state.study
        self.kind.clear()
        if study is not None:
            self.kind.addItems(list(study.maps) or ["Pearson"])
            self.kind.setCurrentText(self.state.map_name)
        self._draw_map()
        self._say()

    def _draw_map(self) -> None:
        study, r = self.state.study, self.state.r
        if study is None:
            self.heatmap.show_map(np.zeros((0, 0)), (), rows=np.zeros(0, int), columns=np.zeros(0, int))
            return
        rows, columns = clustered(r)
        left = chosen(r, study.markers, self.filter.text())
        self.heatmap.show_map(r, study.markers, rows=rows, columns=columns[np.isin(columns, left)])
        self._frame()

    def _frame(self) -> None:
        self.heatmap.frame(self._marker_number(), self.state.painted.feature if self.state.painted else None)

    def _say(self) -> None:
        self.sentence.setText(self.state.sentence())

    def _marker_number(self) -> int | None:
        study, marker = self.state.study, self.state.marker
        return study.markers.index(marker) if study is not None and marker in study.markers else None

    def _cell_clicked(self, marker: int, feature: int) -> None:
        if self.state.study is not None:
            self.state.look_at(self.state.study.markers[marker])
            self.state.paint(Painted("feature", str(feature)))

    def _marker_clicked(self, marker: int) -> None:
        if self.state.study is not None:
            name = self.state.study.markers[marker]
            self.state.look_at(name)
            self.state.paint(Painted("marker", name))

    def _feature_clicked(self, feature: int) -> None:
        self.state.paint(Painted("feature", str(feature)))

    def _step(self, down: int, right: int) -> None:
        feature = self.state.painted.feature if self.state.painted else None
        marker, further = self.heatmap.step(self._marker_number(), 0 if feature is None else feature, down, right)
        if down and marker is not None and self.state.study is not None:
            self.state.look_at(self.state.study.markers[marker])
        if right and further is not None:
            self.state.paint(Painted("feature", str(further)))

    def _kind_chosen(self) -> None:
        study, name = self.state.study, self.kind.currentText()
        if study is not None and name in study.maps:
            self.state.show_map(name, study.maps[name], p_values=study.p_values if name == "Pearson" else None)
