"""Images of the cell to name: large with two markers, and small for each marker alone."""

from typing import Any

from qtpy.QtCore import QRectF, Qt
from qtpy.QtGui import QColor, QImage, QPainter

from napari_mxsplicer.exemplars import colors_of
from napari_mxsplicer.naming_session import CellView
from napari_mxsplicer.widgets.base import CellDrawing
from napari_mxsplicer.widgets.strip import to_qimage

_GAP_PX, _COLUMNS, _LINE_PX = 3, 4, 15
_LARGE = 0.42  # of the width, for the large image


class CellImages(CellDrawing):
    """The images of one cell."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__("Cell to name", parent)
        self._view: CellView | None = None
        self._large, self._small = QImage(), list[tuple[str, QImage]]()
        self.fit_height()

    @property
    def view(self) -> CellView | None:
        """The images shown."""
        return self._view

    def show_view(self, view: CellView | None) -> None:
        """Show another cell, or none."""
        self._view = view
        self._large = QImage() if view is None else to_qimage(view.composite)
        self._small = [] if view is None else [(marker, to_qimage(image)) for marker, image in view.single]
        self.setAccessibleDescription("" if view is None else ", ".join(view.markers))
        self.update()

    def fit_height(self) -> None:
        """Set the height of the large image and the names below it."""
        self.setFixedHeight(round(self._side()) + _LINE_PX + 2)

    def paintEvent(self, event: Any) -> None:  # noqa: N802
        """Draw the images, each marker with its name."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        side = self._side()
        if self._view is None:
            painter.setPen(QColor(self.theme.faint))
            painter.drawRect(QRectF(0.5, 0.5, side - 1, side - 1))
            return
        painter.drawImage(QRectF(0, 0, side, side), self._large)
        self.draw_markers(painter, QRectF(0, side + 1, side, _LINE_PX), self._view.markers)
        colors = dict(zip(self._view.markers, colors_of(self._view.markers), strict=False))
        small = (self.width() - side - _COLUMNS * _GAP_PX) / _COLUMNS
        for place, (marker, image) in enumerate(self._small):
            down, right = divmod(place, _COLUMNS)
            x, y = side + _GAP_PX + right * (small + _GAP_PX), down * (small + _LINE_PX + _GAP_PX)
            painter.drawImage(QRectF(x, y, small, small), image)
            painter.setPen(QColor(self.theme.text_in(colors.get(marker, self.theme.text))))
            shown = painter.fontMetrics().elidedText(marker, Qt.TextElideMode.ElideRight, int(small))
            painter.drawText(QRectF(x, y + small, small, _LINE_PX), Qt.AlignmentFlag.AlignHCenter, shown)

    def _side(self) -> float:
        return float(max(60.0, _LARGE * self.width()))
