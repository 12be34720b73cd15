"""Bars with intervals for the strongest correlations of a marker or a feature."""

from collections.abc import Sequence
from typing import Any

from qtpy.QtCore import QPointF, QRectF, Qt, Signal
from qtpy.QtGui import QColor, QPainter, QPen
from qtpy.QtWidgets import QWidget

from napari_mxsplicer.correlations import Partner
from napari_mxsplicer.widgets.theme import Theme

_ROW_PX, _NAME_PX, _NUMBER_PX = 20, 96, 44  # the least width of names
_MOST = 5  # partners shown
_NAME_SHARE = 0.5  # of the width, that long names take


class Bars(QWidget):
    """A row per partner: its name, a bar from 0 to r on an axis from -1 to 1, its interval, and r."""

    chosen = Signal(object)  # a Partner

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._partners: Sequence[Partner] = ()
        self._theme = Theme.dark()
        self.setMouseTracking(True)
        self.setFixedHeight(_MOST * _ROW_PX)  # always, so that nothing below it moves
        self.setAccessibleName("Most correlated")

    @property
    def partners(self) -> Sequence[Partner]:
        """The partners shown."""
        return self._partners

    def set_theme(self, theme: Theme) -> None:
        """Use the colours of napari's theme."""
        self._theme = theme
        self.update()

    def show_partners(self, partners: Sequence[Partner]) -> None:
        """Show other partners."""
        self._partners = partners
        self.setAccessibleDescription("; ".join(f"{one.name} {one.r:+.2f}" for one in partners))
        self.update()

    def paintEvent(self, event: Any) -> None:  # noqa: N802
        """Draw the bars."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        table = self._theme.diverging()
        widest = max([self.fontMetrics().horizontalAdvance(one.name) for one in self._partners] or [0]) + 12
        left = max(_NAME_PX, min(widest, round(_NAME_SHARE * self.width())))
        right = self.width() - _NUMBER_PX
        middle, half = (left + right) / 2, (right - left) / 2
        text = QPen(QColor(self._theme.text))
        for place, one in enumerate(self._partners):
            top, centre = place * _ROW_PX, place * _ROW_PX + _ROW_PX / 2
            painter.setPen(text)
            name = self.fontMetrics().elidedText(one.name, Qt.TextElideMode.ElideMiddle, left - 8)
            middle_left = Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft
            painter.drawText(QRectF(0, top, left - 4, _ROW_PX), middle_left, name)
            painter.drawText(QRectF(right + 6, top, _NUMBER_PX, _ROW_PX), middle_left, f"{one.r:+.2f}")
            red, green, blue, _ = (int(band) for band in table[int((one.r + 1) * 127.5)])
            bar = QRectF(QPointF(middle, top + 4), QPointF(middle + half * one.r, top + _ROW_PX - 4)).normalized()
            painter.fillRect(bar, QColor(red, green, blue))
            painter.drawLine(QPointF(middle + half * one.low, centre), QPointF(middle + half * one.high, centre))
            for end in (one.low, one.high):
                painter.drawLine(QPointF(middle + half * end, centre - 3), QPointF(middle + half * end, centre + 3))
        if self._partners:
            painter.setPen(QPen(QColor(self._theme.faint)))
            painter.drawLine(QPointF(middle, 0), QPointF(middle, self.height()))

    def mouseMoveEvent(self, event: Any) -> None:  # noqa: N802
        """Show the interval as a tool tip."""
        one = self._at(event)
        self.setToolTip(
            f"{one.name}: r = {one.r:+.3f}, 95 % confidence interval {one.low:+.3f} to {one.high:+.3f} "
            f"by block bootstrap, {one.n:,} cells"
            if one
            else ""
        )

    def mousePressEvent(self, event: Any) -> None:  # noqa: N802
        """Choose the partner that was clicked."""
        one = self._at(event)
        if one is not None:
            self.chosen.emit(one)

    def _at(self, event: Any) -> Partner | None:
        place = int(event.position().y() // _ROW_PX)
        return self._partners[place] if 0 <= place < len(self._partners) else None
