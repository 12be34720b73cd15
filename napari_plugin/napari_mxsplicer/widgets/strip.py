"""A strip of cells: those of the highest, the middle and the lowest values of what is painted."""

from typing import Any

import numpy as np
from qtpy.QtCore import QRectF, Qt, Signal
from qtpy.QtGui import QColor, QImage, QPainter
from qtpy.QtWidgets import QWidget

from napari_mxsplicer.exemplars import KINDS, Strip
from napari_mxsplicer.widgets.theme import Theme

_TITLE_PX = 15
_GAP_PX = 2


class PatchStrip(QWidget):
    """Rows of small pictures, each with a title; a click tells the cell."""

    chosen = Signal(int)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._strip: Strip | None = None
        self._images: list[list[QImage | None]] = []
        self._titles: tuple[str, ...] = KINDS
        self._theme = Theme.dark()
        self.setAccessibleName("Pictures of cells")

    @property
    def strip(self) -> Strip | None:
        """What is shown."""
        return self._strip

    def set_theme(self, theme: Theme) -> None:
        """Take the colours of napari's theme."""
        self._theme = theme
        self.update()

    def show_strip(self, strip: Strip | None, titles: tuple[str, ...] = KINDS) -> None:
        """Show other cells."""
        self._strip, self._titles, self._images = strip, titles, []
        if strip is not None:
            self._images = [
                [_image(one) if row >= 0 else None for one, row in zip(pictures, rows, strict=True)]
                for pictures, rows in zip(strip.pictures, strip.rows, strict=True)
            ]
        self._resized()

    def resizeEvent(self, event: Any) -> None:  # noqa: N802
        """Make room for the pictures at their new size."""
        self._resized()
        super().resizeEvent(event)

    def paintEvent(self, event: Any) -> None:  # noqa: N802
        """Draw the pictures."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        painter.setPen(QColor(self._theme.text))
        side = self._side()
        for line, images in enumerate(self._images):
            top = line * (side + _TITLE_PX + _GAP_PX)
            painter.drawText(QRectF(0, top, self.width(), _TITLE_PX), Qt.AlignmentFlag.AlignLeft, self._titles[line])
            for place, image in enumerate(images):
                if image is not None:
                    painter.drawImage(QRectF(place * (side + _GAP_PX), top + _TITLE_PX, side, side), image)

    def mousePressEvent(self, event: Any) -> None:  # noqa: N802
        """Tell which cell was clicked."""
        if self._strip is None or not self._images:
            return
        side = self._side()
        line = int(event.position().y() // (side + _TITLE_PX + _GAP_PX))
        place = int(event.position().x() // (side + _GAP_PX))
        if 0 <= line < len(self._images) and 0 <= place < len(self._images[line]):
            row = int(self._strip.rows[line, place])
            if row >= 0:
                self.chosen.emit(row)

    def _side(self) -> int:
        n = len(self._images[0]) if self._images else 1
        return max(8, (int(self.width()) - _GAP_PX * (n - 1)) // n)

    def _resized(self) -> None:
        self.setFixedHeight(max(_TITLE_PX, len(self._images) * (self._side() + _TITLE_PX + _GAP_PX)))
        self.update()


def _image(picture: np.ndarray) -> QImage:
    height, width = picture.shape[:2]
    # The copy owns its pixels; the array may go.
    return QImage(np.ascontiguousarray(picture).tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888).copy()
