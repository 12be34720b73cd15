"""The UMAP with its lasso, the colour scale and the legend of categories."""

from html import escape
from typing import Any

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFrame, QHBoxLayout, QLabel, QScrollArea, QVBoxLayout, QWidget

from mxsplicer.pl import QUALITATIVE
from napari_mxsplicer.lasso import rows_inside
from napari_mxsplicer.raster import Raster
from napari_mxsplicer.widgets.base import Context, FixedLabel, PanelPart, button
from napari_mxsplicer.widgets.scale import Scale
from napari_mxsplicer.widgets.scatter import Scatter
from napari_mxsplicer.widgets.theme import Theme
from napari_mxsplicer.widgets.work import Debounced

_LEGEND_LINES = 4


class UmapPart(PanelPart):
    """The part of the panel with the UMAP of the features, painted like the tissue."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.scatter, self.scale, self.legend, self.n_selected = Scatter(), Scale(), QLabel(), FixedLabel(1)
        self.legend.setWordWrap(True)
        self.legend.setToolTip("Click a name to select its cells")
        self.legend.linkActivated.connect(self._category_clicked)
        self.work = self.worker()
        self._text = Theme.dark().text
        self._redraw = Debounced(self, 0, self._draw_scatter)  # after the tissue, and once for simultaneous changes
        self.lasso = button("Lasso", "Draw around points of the UMAP to select these cells", lambda: None)
        self.lasso.setCheckable(True)
        self.lasso.toggled.connect(self.scatter.set_lasso)
        row = QHBoxLayout()
        row.setSpacing(4)
        for one in (
            self.lasso,
            button("Outline", "Draw an outline in the image to select the cells inside", self.canvas.draw_outline),
            button("Undo", "Restore the previous selection", self.state.undo),
            button("Clear selection", "Select no cell", lambda: self.state.select(None)),
        ):
            row.addWidget(one)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(3)
        column.addLayout(row)
        column.addWidget(self.n_selected)
        column.addWidget(self.scatter)
        column.addWidget(_scrolled(self.scale, self.legend))
        state = self.state
        state.study_changed.connect(self._study_changed)
        state.painted_changed.connect(self._paint)
        state.selection_changed.connect(self._paint)
        for signal in (state.hovered_changed, state.picked_changed, state.marked_changed):
            signal.connect(self._point)
        self.canvas.on_colours_changed(self._redraw.start)
        self.scatter.lassoed.connect(self._lassoed)
        self.scatter.clicked.connect(self._clicked)
        self.scatter.hovered.connect(state.hover)
        self._study_changed()

    def _lassoed(self, corners: np.ndarray) -> None:
        """Select the points inside a lasso, found in a thread."""
        umap = self.state.study.umap if self.state.study else None
        if umap is not None:
            self.work.start(rows_inside, umap, [corners], done=self.state.select)

    def set_theme(self, theme: Theme) -> None:
        """Use the colours of napari's theme."""
        self._text = theme.text
        self.scatter.set_theme(theme)
        self.scale.set_theme(theme)
        self._show_legend()

    def _study_changed(self) -> None:
        self.work.stop()
        self.scatter.show_points(self.state.study.umap if self.state.study else None)
        self._paint()

    def _paint(self) -> None:
        state = self.state
        self._redraw.start()
        n = 0 if state.selection is None else len(state.selection)
        self.n_selected.setText(f"{n:,} cells selected" if n else "No cell selected")
        self._show_legend()

    def _show_legend(self) -> None:
        categories = self.state.categories[: len(QUALITATIVE)]
        style = f"color:{self._text};text-decoration:none"
        entries = [
            f'<span style="color:{QUALITATIVE[code]}">■</span>&nbsp;'
            f'<a href="{code}" style="{style}">{escape(name).replace(" ", "&nbsp;")}</a>'
            for code, name in enumerate(categories)
        ]
        self.legend.setText(" &nbsp;".join(entries))
        self.legend.setVisible(bool(entries))
        self.scale.setVisible(self.state.painted is not None and not entries)

    def _category_clicked(self, code: str) -> None:
        """Select the cells of a category."""
        self.state.select(np.flatnonzero(self.state.values == int(code)))

    def _draw_scatter(self) -> None:
        self.scatter.paint_by(self._draw if self.state.painted is not None else None)
        if self.state.painted is not None and not self.state.categories:
            self.scale.show_colours(*self.canvas.colours())

    def _draw(self, raster: Raster) -> np.ndarray:
        table, limits = self.canvas.colours()
        state = self.state
        return raster.draw(state.values, table, limits, selection=state.selection, mix=not state.categories)

    def _point(self) -> None:
        state = self.state
        single = [row for row in (state.picked, state.hovered) if row is not None]
        self.scatter.point_at(np.array([*state.marked, *single], dtype=np.int64))

    def _clicked(self, row: Any) -> None:
        self.state.pick(row)
        if row is not None:
            self.canvas.centre_on(row)


def _scrolled(*widgets: QWidget) -> QScrollArea:
    """Return the colours below the UMAP in an area of fixed height, so that nothing below moves with the legend."""
    inner, area = QWidget(), QScrollArea()
    column = QVBoxLayout(inner)
    column.setContentsMargins(0, 0, 0, 0)
    for one in widgets:
        column.addWidget(one)
    column.addStretch(1)
    area.setWidget(inner)
    area.setWidgetResizable(True)
    area.setFrameShape(QFrame.Shape.NoFrame)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setFixedHeight(_LEGEND_LINES * area.fontMetrics().lineSpacing() + 4)
    return area
