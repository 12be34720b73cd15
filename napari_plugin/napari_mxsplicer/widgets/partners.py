"""The strongest correlations of the painted marker or feature."""

from typing import Any

import numpy as np
from qtpy.QtWidgets import QVBoxLayout

from napari_mxsplicer.correlations import Partner, partners_of_feature, partners_of_marker
from napari_mxsplicer.state import Painted
from napari_mxsplicer.widgets.bars import Bars
from napari_mxsplicer.widgets.base import Context, FixedLabel, PanelPart
from napari_mxsplicer.widgets.theme import Theme
from napari_mxsplicer.widgets.work import Debounced


class PartnersPart(PanelPart):
    """The part of the panel with the five partners that correlate most, with intervals."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.title, self.bars = FixedLabel(2), Bars()
        self.work = self.worker()
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(3)
        column.addWidget(self.title)
        column.addWidget(self.bars)
        self._later = Debounced(self, 120, self._find)
        state = self.state
        for signal in (state.study_changed, state.painted_changed, state.marker_changed, state.correlations_changed):
            signal.connect(self._later.start)
        self.bars.chosen.connect(self._chosen)

    def set_theme(self, theme: Theme) -> None:
        """Use the colours of napari's theme."""
        self.bars.set_theme(theme)

    def showEvent(self, event: Any) -> None:  # noqa: N802
        """Find the partners of what is painted when this part becomes visible."""
        super().showEvent(event)
        self._later.start()

    def _find(self) -> None:
        state, study, painted = self.state, self.state.study, self.state.painted
        if not self.isVisible():
            return
        if study is None or painted is None or not state.r.size:
            self._show("", [])
            return
        rows = np.arange(study.n_cells) if state.selection is None else state.selection
        if painted.feature is not None:
            title, function, number = (
                f"Markers that correlate with {state.title}",
                partners_of_feature,
                painted.feature,
            )
        elif painted.kind == "marker":
            title, function = f"Features that correlate with {painted.name}", partners_of_marker
            number = study.markers.index(painted.name)
        else:
            self._show("Colour the cells by a feature or a marker to list what correlates most with it.", [])
            return
        if state.correlation_kind != "Pearson":
            title += " (Pearson's r)"  # the intervals are for Pearson's r
        self.work.start(function, study, number, state.r, rows, done=lambda found: self._show(title, found))

    def _show(self, title: str, found: list[Partner]) -> None:
        self.title.setText(title)
        self.bars.show_partners(found)

    def _chosen(self, partner: Partner) -> None:
        if partner.feature is not None:
            self.state.paint(Painted("feature", str(partner.feature)))
        else:
            self.state.show_marker(partner.name)
