"""The correlation heatmap with its controls: kind of correlation, cells, and features."""

from collections.abc import Callable, Generator
from typing import Any

import numpy as np
from qtpy.QtWidgets import QGridLayout, QHBoxLayout, QLabel, QLineEdit, QVBoxLayout, QWidget

from napari_mxsplicer.correlations import (
    KINDS,
    cluster_order,
    correlate_around_cells,
    correlate_rows,
    filter_features,
    is_not_significant,
)
from napari_mxsplicer.state import ALL, Painted
from napari_mxsplicer.study import Study
from napari_mxsplicer.widgets.base import Context, PanelPart, button, choice
from napari_mxsplicer.widgets.heatmap import Heatmap
from napari_mxsplicer.widgets.theme import Theme
from napari_mxsplicer.widgets.work import Debounced

IN_VIEW, SELECTED = "cells in view", "selected cells"
_RADII_UM = {"50 µm": 50.0, "100 µm": 100.0, "250 µm": 250.0}


class CorrelationsPart(PanelPart):
    """The part of the panel with the correlation heatmap and its controls."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.heatmap, self.filter = Heatmap(), QLineEdit()
        self._feature: int | None = None  # painted last
        self._is_filter_empty = self._is_stale = self._is_drawn = False
        self.kind = choice("Correlation coefficient")
        self.over = choice("Cells to correlate over", ALL, IN_VIEW, SELECTED)
        self.filter.setClearButtonEnabled(True)
        self.radius = choice("Radius around each cell", *_RADII_UM)
        self.work, self.local_work = self.worker(self._failed), self.worker()
        self.missing, self.controls = QLabel(), QWidget()
        self.missing.setWordWrap(True)
        grid = QGridLayout()
        grid.setSpacing(4)
        grid.addWidget(self.kind, 0, 0)
        grid.addWidget(self.over, 0, 1)
        grid.addWidget(self.filter, 1, 0, 1, 2)
        where = QHBoxLayout()
        where.setSpacing(4)
        where.addWidget(
            button("Local correlation", "Colour each cell by the correlation among the cells around it", self.locate)
        )
        where.addWidget(self.radius)
        column = QVBoxLayout(self.controls)
        column.setContentsMargins(0, 0, 0, 0)
        column.addLayout(grid)
        column.addWidget(self.heatmap)
        column.addLayout(where)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(self.missing)
        outer.addWidget(self.controls)
        self._later = Debounced(self, 500, self._compute)
        state = self.state
        state.study_changed.connect(self._study_changed)
        state.correlations_changed.connect(self._draw)
        state.painted_changed.connect(self._frame)
        state.marker_changed.connect(self._frame)
        state.selection_changed.connect(self._selection_changed)
        self.heatmap.cell_clicked.connect(self._cell_clicked)
        self.heatmap.marker_clicked.connect(self._marker_clicked)
        self.heatmap.feature_clicked.connect(lambda feature: state.paint(Painted("feature", str(feature))))
        self.heatmap.stepped.connect(self._step)
        self.filter.textChanged.connect(self._draw)
        self.kind.activated.connect(self._compute)
        self.over.activated.connect(self._compute)
        self.canvas.on_view_changed(self._view_changed)
        self._study_changed()

    def set_theme(self, theme: Theme) -> None:
        """Use the colours of napari's theme."""
        self.heatmap.set_theme(theme)

    def locate(self) -> None:
        """Paint the local correlation of the marker and the feature that was painted last."""
        state, study, feature, marker = self.state, self.state.study, self._feature, self.state.marker
        if study is None or feature is None or marker is None:
            self.context.notify("Click a feature and a marker in the heatmap first.")
            return
        radius = self.radius.currentText()
        name = f"local r of {study.feature_names[feature]} and {marker} within {radius}"
        code = (
            f"color = mxsplicer.tl.local_correlation(adata, {marker!r}, {feature}, radius_um={_RADII_UM[radius]:g}, "
            f"use_rep={study.representation!r})"
        )
        self.context.notify(f"Computing {name} ...")
        self.local_work.start(
            correlate_around_cells,
            study,
            marker,
            feature,
            _RADII_UM[radius],
            done=lambda values: self._located(Painted("values", name, values, signed=True, code=code)),
        )
        state.show_marker(marker)

    def _located(self, painted: Painted) -> None:
        self.context.notify("")
        self.state.paint(painted)

    def _study_changed(self) -> None:
        self._later.stop()
        self.work.stop()
        study = self.state.study
        self.kind.clear()
        self.missing.setText("" if study is None else study.missing)
        self.missing.setVisible(bool(self.missing.text()))
        self.controls.setVisible(not self.missing.text())
        if study is not None:
            # Kinds that are not stored are computed; the partial correlation needs positions of the cells.
            computed = [kind for kind in KINDS if kind != "partial" or study.has_neighbourhood_intensity]
            self.kind.addItems(list(dict.fromkeys([*study.correlations, *computed])))
            self.kind.setCurrentText(self.state.correlation_kind or KINDS[0])
            self.over.setCurrentText(ALL)
            example = "rim" if study.features_by_marker else "12"
            self.filter.setPlaceholderText(f"Filter features: CD8a  {example}  10-20  >0.4")
        self._draw()
        if study is not None and not study.missing and not study.correlations:
            self._compute()

    def showEvent(self, event: Any) -> None:  # noqa: N802
        """Draw the heatmap, or compute it over the selection, when this part becomes visible."""
        super().showEvent(event)
        if not self._is_drawn:
            self._draw()
        if self._is_stale:
            self._selection_changed()

    def _selection_changed(self) -> None:
        self._is_stale = not self.isVisible()
        if self._is_stale:  # computed when they are looked at
            return
        if self.over.currentText() == SELECTED or (self.state.selection is not None and len(self.state.selection) > 2):
            self.over.setCurrentText(SELECTED if self.state.selection is not None else ALL)
            self._compute()

    def _view_changed(self) -> None:
        if self.over.currentText() == IN_VIEW:
            self._later.start()

    def _compute(self) -> None:
        """Show the stored correlations, or compute them over some cells in a thread."""
        study, kind, over = self.state.study, self.kind.currentText(), self.over.currentText()
        if study is None or study.missing:
            return
        if over == SELECTED and self.state.selection is None:
            over = ALL
            self.over.setCurrentText(ALL)
        if over == ALL and kind in study.correlations:
            self.work.stop()
            self.heatmap.set_waiting(False)
            self.state.show_correlations(
                kind, study.correlations[kind], p_values=study.p_values if kind == "Pearson" else None
            )
            return
        self.heatmap.set_waiting(True)
        self.work.start(
            _correlate_in_thread,
            study,
            self._rows_over(over),
            kind,
            done=lambda found: self._computed(kind, found[1], over if over == ALL else f"{found[0]:,} {over}"),
            progress=lambda done, of: self.context.notify(f"Correlations over {over}: {done} of {of} features"),
        )

    def _rows_over(self, over: str) -> Callable[[], np.ndarray]:
        """Return a function that finds the rows of the cells to correlate over."""
        study, selection = self.state.study, self.state.selection
        if over == IN_VIEW:
            return self.canvas.find_in_view()
        if over == SELECTED and selection is not None:
            return lambda: selection
        return lambda: np.arange(study.n_cells if study else 0)

    def _computed(self, kind: str, r: np.ndarray, over: str) -> None:
        self.heatmap.set_waiting(False)
        self.context.notify("")
        self.state.show_correlations(kind, r, over=over)

    def _failed(self, message: str) -> None:
        self.heatmap.set_waiting(False)
        self.context.notify(message)

    def _draw(self) -> None:
        self._is_drawn = self.isVisible()
        if not self._is_drawn:
            return
        study, r = self.state.study, self.state.r
        if study is None or not r.size:
            empty = np.zeros(0, dtype=int)
            self.heatmap.show_correlations(np.zeros((0, 0)), (), rows=empty, columns=empty)
            return
        rows, columns = cluster_order(r, None if study.chunks is None else study.chunks.marker_numbers(study.markers))
        passed = filter_features(
            r, study.markers, self.filter.text(), names=study.feature_names, by_marker=study.features_by_marker
        )
        is_empty = bool(self.filter.text().strip()) and not len(passed)
        if is_empty != self._is_filter_empty:
            self._is_filter_empty = is_empty
            self.context.notify("No feature matches the filter." if is_empty else "")
        self.heatmap.show_correlations(
            r,
            study.markers,
            rows=rows,
            columns=columns[np.isin(columns, passed)],
            not_significant=None if self.state.p_values is None else is_not_significant(self.state.p_values),
            chunks=study.chunks,
            names=study.feature_names,
        )
        self._frame()

    def _frame(self) -> None:
        feature = self.state.painted.feature if self.state.painted else None
        self._feature = self._feature if feature is None else feature
        self.heatmap.frame(self._marker(), feature)

    def _marker(self) -> int | None:
        study, marker = self.state.study, self.state.marker
        return study.markers.index(marker) if study is not None and marker in study.markers else None

    def _cell_clicked(self, marker: int, feature: int) -> None:
        if self.state.study is not None:
            self.state.show_marker(self.state.study.markers[marker])
            self.state.paint(Painted("feature", str(feature)))

    def _marker_clicked(self, marker: int) -> None:
        if self.state.study is not None:
            name = self.state.study.markers[marker]
            self.state.show_marker(name)
            self.state.paint(Painted("marker", name))

    def _step(self, down: int, right: int) -> None:
        feature = self.state.painted.feature if self.state.painted else None
        marker, further = self.heatmap.step(self._marker(), 0 if feature is None else feature, down, right)
        if down and marker is not None and self.state.study is not None:
            self.state.show_marker(self.state.study.markers[marker])
        if right and further is not None:
            self.state.paint(Painted("feature", str(further)))


def _correlate_in_thread(
    study: Study, find: Callable[[], np.ndarray], kind: str
) -> Generator[tuple[int, int], None, tuple[int, np.ndarray]]:
    """Return what the correlation heatmap shows: the number of cells and their correlations."""
    rows = find()
    return len(rows), (yield from correlate_rows(study, rows, kind=kind))
