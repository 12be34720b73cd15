"""Rows of small images of cells."""

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
    """Rows of images of cells, each row with a title; cells can be clicked."""

    chosen = Signal(int)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._strip: Strip | None = None
        self._images: list[list[QImage | None]] = []
        self._titles: tuple[str, ...] = KINDS
        self._theme = Theme.dark()
        self.setAccessibleName("Images of cells")

    @property
    def strip(self) -> Strip | None:
        """The cells shown."""
        return self._strip

    def set_theme(self, theme: Theme) -> None:
        """Use the colours of napari's theme."""
        self._theme = theme
        self.update()

    def show_strip(self, strip: Strip | None, titles: tuple[str, ...] = KINDS) -> None:
        """Show other cells."""
        self._strip, self._titles, self._images = strip, titles, []
        if strip is not None:
            self._images = [
                [_to_qimage(one) if row >= 0 else None for one, row in zip(images, rows, strict=True)]
                for images, rows in zip(strip.images, strip.rows, strict=True)
            ]
        self._resized()

    def resizeEvent(self, event: Any) -> None:  # noqa: N802
        """Adjust the height to the new size of the images."""
        self._resized()
        super().resizeEvent(event)

    def paintEvent(self, event: Any) -> None:  # noqa: N802
        """Draw the images and titles."""
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
        """Emit the cell that was clicked."""
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


def _to_qimage(image: np.ndarray) -> QImage:
    height, width = image.shape[:2]
    # A copy, because QImage does not keep the array alive.
    return QImage(np.ascontiguousarray(image).tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888).copy()
