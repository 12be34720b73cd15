"""A scatter plot of all cells (the UMAP), drawn as an image, with a lasso."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyqtgraph as pg
from qtpy.QtCore import QRectF, Qt, Signal
from qtpy.QtWidgets import QToolButton

from napari_mxsplicer.raster import Raster
from napari_mxsplicer.widgets.theme import Theme

_CLOSEST = 1e-3  # the smallest view, as a share of all points
_REACH_PX = 8  # distance at which the pointer finds a point
_POINT_PX = {20_000: 3, 200_000: 2, np.inf: 1}  # side of a point on the screen, by how many there are


class Scatter(pg.PlotWidget):
    """A scatter plot: points binned into an image, which is redrawn when the view changes."""

    lassoed = Signal(object)  # corners (n, 2)
    clicked = Signal(object)  # a row, or None
    hovered = Signal(object)

    def __init__(self, parent: Any = None) -> None:
        self._view = _LassoView()
        super().__init__(parent, viewBox=self._view, enableMenu=False)
        self._raster: Raster | None = None
        self._draw: Callable[[Raster], np.ndarray] | None = None
        self._image = pg.ImageItem(axisOrder="row-major")
        self._ring = pg.ScatterPlotItem(size=13, brush=None)
        self._path = pg.PlotCurveItem()
        for item in (self._image, self._path, self._ring):
            self.addItem(item)
        self.hideAxis("left")
        self.hideAxis("bottom")
        self.hideButtons()
        self.reset = QToolButton(self)  # over the plot, so that it moves nothing
        self.reset.setText("Reset view")
        self.reset.setToolTip("Show all cells again; so does a double click")
        self.reset.clicked.connect(self.show_all)
        self.reset.move(4, 4)
        self.reset.hide()
        self._view.setAspectLocked(True)
        self.setFixedHeight(260)
        self.setAccessibleName("UMAP of the cells")
        self._view.sigRangeChanged.connect(self.redraw)
        self._view.drawn.connect(self._lasso_drawn)
        self._view.sigRangeChangedManually.connect(lambda _: self.reset.show())
        self.scene().sigMouseClicked.connect(self._clicked)
        self.scene().sigMouseMoved.connect(self._moved)
        self._accent = "#ffd166"

    def set_theme(self, theme: Theme) -> None:
        """Use the colours of napari's theme."""
        self.setBackground(theme.background)
        self._accent = theme.accent
        self._path.setPen(pg.mkPen(theme.accent, width=2))
        self._ring.setPen(pg.mkPen(theme.accent, width=2))

    def set_lasso(self, on: bool) -> None:
        """Make the mouse draw a lasso, or move the plot."""
        self._view.lasso = on
        self.setCursor(Qt.CursorShape.CrossCursor if on else Qt.CursorShape.ArrowCursor)

    def show_points(self, xy: np.ndarray | None) -> None:
        """Show other points (N, 2), or none."""
        self._raster = None if xy is None else Raster(xy)
        self._ring.setData([], [])
        self.show_all()

    def show_all(self) -> None:
        """Zoom so that all points are in view."""
        if self._raster is not None:
            left, right, bottom, top = self._raster.bounds
            self._view.home = QRectF(left, bottom, right - left, top - bottom)
            self._view.setRange(self._view.home, padding=0)
        self.redraw()
        self.reset.hide()

    def mouseDoubleClickEvent(self, event: Any) -> None:  # noqa: N802
        """Show all points again."""
        super().mouseDoubleClickEvent(event)
        if not self._view.lasso:
            self.show_all()

    def paint_by(self, draw: Callable[[Raster], np.ndarray] | None) -> None:
        """Set the function that draws the points, and redraw."""
        self._draw = draw
        self.redraw()

    def point_at(self, rows: np.ndarray) -> None:
        """Draw rings around some points."""
        xy = self._raster.xy[rows] if self._raster is not None and len(rows) else np.zeros((0, 2))
        self._ring.setData(xy[:, 0], xy[:, 1])

    def redraw(self) -> None:
        """Draw the points in view."""
        size = self._view.size()
        if self._raster is None:
            self._image.clear()
            return
        side = next(px for n, px in _POINT_PX.items() if len(self._raster.xy) < n)
        shape = (int(size.height() / side), int(size.width() / side))
        if self._draw is None or min(shape) < 2:
            self._image.clear()
            return
        (left, right), (bottom, top) = self._view.viewRange()
        self._raster.set_window((left, right, bottom, top), shape)
        self._image.setImage(self._draw(self._raster), autoLevels=False)
        self._image.setRect(QRectF(left, bottom, right - left, top - bottom))

    def _lasso_drawn(self, corners: Any, finished: bool) -> None:
        if finished:
            self._path.setData([], [])
            if self._raster is not None:
                self.lassoed.emit(np.array(corners))
        else:
            xy = np.array([*corners, corners[0]])
            self._path.setData(xy[:, 0], xy[:, 1])

    def _row_at(self, position: Any) -> int | None:
        if self._raster is None or not self._view.sceneBoundingRect().contains(position):
            return None
        point, (width, _) = self._view.mapSceneToView(position), self._view.viewPixelSize()
        return self._raster.nearest(point.x(), point.y(), _REACH_PX * width)

    def _clicked(self, event: Any) -> None:
        if event.button() == Qt.MouseButton.LeftButton:
            self.clicked.emit(self._row_at(event.scenePos()))

    def _moved(self, position: Any) -> None:
        self.hovered.emit(self._row_at(position))


class _LassoView(pg.ViewBox):
    drawn = Signal(object, bool)  # corners (x, y), and whether the lasso is finished

    def __init__(self) -> None:
        super().__init__(enableMenu=False)
        self.lasso, self.home = False, QRectF()
        self._corners: list[tuple[float, float]] = []

    def wheelEvent(self, event: Any, axis: Any = None) -> None:  # noqa: N802
        """Zoom, but not further out than all points, and not further in than a thousandth of them."""
        before = self.viewRect()
        super().wheelEvent(event, axis=axis)
        seen, home = self.viewRect(), self.home
        if seen.width() > home.width() and seen.height() > home.height():
            self.setRange(home, padding=0)
        elif max(seen.width(), seen.height()) < _CLOSEST * max(home.width(), home.height()):
            self.setRange(before, padding=0)

    def mouseDragEvent(self, event: Any, axis: Any = None) -> None:  # noqa: N802
        if not self.lasso or event.button() != Qt.MouseButton.LeftButton:
            super().mouseDragEvent(event, axis=axis)
            return
        event.accept()
        if event.isStart():
            start = self.mapSceneToView(event.buttonDownScenePos())
            self._corners = [(start.x(), start.y())]
        point = self.mapSceneToView(event.scenePos())
        self._corners.append((point.x(), point.y()))
        self.drawn.emit(list(self._corners), bool(event.isFinish()))
