"""A colour scale with the lowest and the highest value."""

from typing import Any

import numpy as np
from qtpy.QtCore import QRectF, Qt
from qtpy.QtGui import QColor, QImage, QPainter
from qtpy.QtWidgets import QWidget

from napari_mxsplicer.widgets.theme import Theme

_STRIP_PX, _GAP_PX = 8, 6


class Scale(QWidget):
    """A strip of colours between the lowest and the highest value."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._image, self._ends = QImage(), ("", "")
        self._theme = Theme.dark()
        self.setFixedHeight(self.fontMetrics().height() + 2)
        self.setAccessibleName("Colours of the values")

    @property
    def ends(self) -> tuple[str, str]:
        """The lowest and the highest value, as text."""
        return self._ends

    def set_theme(self, theme: Theme) -> None:
        """Use the colours of napari's theme."""
        self._theme = theme
        self.update()

    def show_colours(self, table: np.ndarray, limits: tuple[float, float]) -> None:
        """Show other colours (n, 4) uint8, of values from the first to the second limit."""
        rgb = np.ascontiguousarray(table[:, :3])
        self._image = QImage(rgb.tobytes(), len(rgb), 1, 3 * len(rgb), QImage.Format.Format_RGB888).copy()
        low, high = limits
        self._ends = (_format(low, high - low), _format(high, high - low))
        self.setAccessibleDescription(" to ".join(self._ends))
        self.update()

    def paintEvent(self, event: Any) -> None:  # noqa: N802
        """Draw the strip and its ends."""
        painter, metrics = QPainter(self), self.fontMetrics()
        painter.setPen(QColor(self._theme.text))
        left, right = (metrics.horizontalAdvance(one) + _GAP_PX for one in self._ends)
        strip = QRectF(left, (self.height() - _STRIP_PX) / 2, max(self.width() - left - right, 1), _STRIP_PX)
        painter.drawText(self.rect(), Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft, self._ends[0])
        painter.drawText(self.rect(), Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignRight, self._ends[1])
        painter.drawImage(strip, self._image)


def _format(value: float, width: float) -> str:
    return f"{value:,.0f}" if width >= 100 else f"{value:.3g}" if width >= 0.01 else f"{value:.5g}"
