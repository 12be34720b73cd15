"""Rows of small images of cells."""

from typing import Any

import numpy as np
from qtpy.QtCore import QRectF, Qt, Signal
from qtpy.QtGui import QColor, QImage, QPainter

from napari_mxsplicer.exemplars import Strip
from napari_mxsplicer.widgets.base import CellDrawing

_TITLE_PX = 15
_GAP_PX = 2


class PatchStrip(CellDrawing):
    """Rows of images of cells, each row with a title; cells can be clicked."""

    chosen = Signal(int)

    def __init__(self, hint: str = "", parent: Any = None) -> None:
        """``hint`` is shown where the images will be."""
        super().__init__("Images of cells", parent)
        self._hint = hint
        self._strip: Strip | None = None
        self._images: list[list[QImage | None]] = []
        self._titles: tuple[str, ...] = ()
        self._least, self._least_titles = (0, 1), 1

    @property
    def strip(self) -> Strip | None:
        """The cells shown."""
        return self._strip

    def reserve(self, lines: int, columns: int, *, titles: int = 1) -> None:
        """Keep room for so many images and titles, so that what is below does not move when they come."""
        self._least, self._least_titles, self._titles = (lines, columns), titles, ()
        self.fit_height()

    def show_strip(self, strip: Strip | None, titles: tuple[str, ...] = ()) -> None:
        """Show other cells."""
        self._strip, self._titles, self._images = strip, titles, []
        if strip is not None:
            self._images = [
                [to_qimage(one) if row >= 0 else None for one, row in zip(images, rows, strict=True)]
                for images, rows in zip(strip.images, strip.rows, strict=True)
            ]
        self.fit_height()

    def paintEvent(self, event: Any) -> None:  # noqa: N802
        """Draw the images and titles."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        if not self._images:
            painter.setPen(QColor(self.theme.muted))
            painter.drawText(self.rect(), Qt.AlignmentFlag.AlignCenter | Qt.TextFlag.TextWordWrap, self._hint)
        side = self._side()
        for line, images in enumerate(self._images):
            top = self._top(line)
            title = QRectF(0, top - _TITLE_PX, self.width(), _TITLE_PX)
            painter.setPen(QColor(self.theme.text))
            painter.drawText(title, Qt.AlignmentFlag.AlignLeft, self._title(line))
            if not line and self._strip is not None:
                title.setLeft(painter.fontMetrics().horizontalAdvance(f"{self._title(line)}   "))
                self.draw_markers(painter, title, self._strip.markers)
            for place, image in enumerate(images):
                if image is not None:
                    painter.drawImage(QRectF(place * (side + _GAP_PX), top, side, side), image)

    def mousePressEvent(self, event: Any) -> None:  # noqa: N802
        """Emit the cell that was clicked."""
        if self._strip is None or not self._images:
            return
        side, y = self._side(), event.position().y()
        place = int(event.position().x() // (side + _GAP_PX))
        for line, images in enumerate(self._images):
            if 0 <= y - self._top(line) < side and 0 <= place < len(images):
                row = int(self._strip.rows[line, place])
                if row >= 0:
                    self.chosen.emit(row)

    def _title(self, line: int) -> str:
        return self._titles[line] if line < len(self._titles) else ""

    def _top(self, line: int) -> int:
        """Return where the images of a line begin, below its title if it has one."""
        titles = sum(bool(self._title(one)) or not one for one in range(line + 1))
        return line * (self._side() + _GAP_PX) + titles * _TITLE_PX

    def _side(self) -> int:
        n = max(len(self._images[0]) if self._images else 1, self._least[1])
        return max(8, (int(self.width()) - _GAP_PX * (n - 1)) // n)

    def fit_height(self) -> None:
        """Set the height of the images and titles, or of the room kept for them."""
        lines = max(len(self._images), self._least[0])
        titles = max(self._least_titles, sum(map(bool, self._titles[1:])) + 1)
        self.setFixedHeight(lines * (self._side() + _GAP_PX) + titles * _TITLE_PX)
        self.update()


def to_qimage(image: np.ndarray) -> QImage:
    """Return an image (y, x, 3) uint8 to draw."""
    height, width = image.shape[:2]
    # A copy, because QImage does not keep the array alive.
    return QImage(np.ascontiguousarray(image).tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888).copy()
