"""The map of the cells with its lasso, and the legend of categories."""

from html import escape
from typing import Any

import numpy as np
from qtpy.QtWidgets import QHBoxLayout, QLabel, QVBoxLayout

from mxsplicer.pl import QUALITATIVE
from napari_mxsplicer.raster import Raster, rows_inside
from napari_mxsplicer.widgets.base import Context, Later, Part, button
from napari_mxsplicer.widgets.map import CellMap
from napari_mxsplicer.widgets.scale import Scale
from napari_mxsplicer.widgets.theme import Theme


class CellsPart(Part):
    """Where cells lie on the map of what was learned, painted as the tissue is."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.map, self.scale, self.legend, self.chosen = CellMap(), Scale(), QLabel(), QLabel()
        self.legend.setWordWrap(True)
        self.legend.setToolTip("Click a name to select its cells")
        self.legend.linkActivated.connect(self._named)
        self.work = self.newest()
        self._text = Theme.dark().text
        self._redraw = Later(self, 0, self._draw_map)  # after the tissue, and once for all that changes together
        self.lasso = button("Lasso", "Draw around points of the map to choose these cells", lambda: None)
        self.lasso.setCheckable(True)
        self.lasso.toggled.connect(self.map.set_lasso)
        row = QHBoxLayout()
        row.setSpacing(4)
        for one in (
            self.lasso,
            button("Region", "Draw around cells in the image to choose them", self.canvas.draw_region),
            button("Undo", "Back to the selection before", self.state.undo),
            button("None", "Choose no cells", lambda: self.state.select(None)),
        ):
            row.addWidget(one)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(3)
        column.addLayout(row)
        column.addWidget(self.map)
        column.addWidget(self.scale)
        column.addWidget(self.legend)
        column.addWidget(self.chosen)
        state = self.state
        state.study_changed.connect(self._study_changed)
        state.painted_changed.connect(self._paint)
        state.selection_changed.connect(self._paint)
        for signal in (state.hovered_changed, state.picked_changed, state.marked_changed):
            signal.connect(self._point)
        self.canvas.on_colours_changed(self._redraw.start)
        self.map.lassoed.connect(self._lassoed)
        self.map.clicked.connect(self._clicked)
        self.map.hovered.connect(state.hover)
        self._study_changed()

    def _lassoed(self, corners: np.ndarray) -> None:
        """Find the points in a lasso beside the interface, and choose them."""
        umap = self.state.study.umap if self.state.study else None
        if umap is not None:
            self.work.start(rows_inside, umap, [corners], done=self.state.select)

    def set_theme(self, theme: Theme) -> None:
        """Take the colours of napari's theme."""
        self._text = theme.text
        self.map.set_theme(theme)
        self.scale.set_theme(theme)
        self._show_legend()

    def _study_changed(self) -> None:
        self.work.stop()
        self.map.show_points(self.state.study.umap if self.state.study else None)
        self._paint()

    def _paint(self) -> None:
        state = self.state
        self._redraw.start()
        n = 0 if state.selection is None else len(state.selection)
        self.chosen.setText(f"{n:,} cells selected" if n else "")
        self.chosen.setVisible(bool(n))
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

    def _named(self, code: str) -> None:
        """Choose the cells of a category whose name was clicked."""
        self.state.select(np.flatnonzero(self.state.values == int(code)))

    def _draw_map(self) -> None:
        self.map.paint_by(self._draw if self.state.painted is not None else None)
        if self.state.painted is not None and not self.state.categories:
            self.scale.show_colours(*self.canvas.colours())

    def _draw(self, raster: Raster) -> np.ndarray:
        table, limits = self.canvas.colours()
        state = self.state
        return raster.draw(state.values, table, limits, chosen=state.selection, mix=not state.categories)

    def _point(self) -> None:
        state = self.state
        single = [row for row in (state.picked, state.hovered) if row is not None]
        self.map.point_at(np.array([*state.marked, *single], dtype=np.int64))

    def _clicked(self, row: Any) -> None:
        self.state.pick(row)
        if row is not None:
            self.canvas.centre_on(row)
