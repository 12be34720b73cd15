"""How the fields of the table of clusters are drawn, and the line in which a name is typed."""

from typing import Any

from qtpy.QtCore import QEvent, QRect, QRectF, Qt, Signal
from qtpy.QtGui import QColor, QKeySequence, QPainter
from qtpy.QtWidgets import QLineEdit, QStyle, QStyledItemDelegate, QStyleOptionViewItem, QTableView, QWidget

from mxsplicer.pl import CHANNELS, QUALITATIVE
from napari_mxsplicer.clusters import Cluster, shorten, words_of
from napari_mxsplicer.widgets.cluster_model import CLUSTER, COLOUR, COUNT, EXAMPLES, IMAGES, NAME, SHARE, VERDICT
from napari_mxsplicer.widgets.theme import Theme

CELL_PX = 46  # height of a row, and side of an image with its gap
_GAP_PX = 4
_FURTHER = {Qt.Key.Key_Return: 1, Qt.Key.Key_Enter: 1, Qt.Key.Key_Down: 1, Qt.Key.Key_Up: -1}


class ClusterTable(QTableView):
    """The table, which leaves keys that edit no name to the part of the panel that it belongs to."""

    def event(self, event: Any) -> bool:
        """Take keys that begin a name before shortcuts do."""
        writes = event.type() == QEvent.Type.ShortcutOverride and bool(event.text()) and event.text().isprintable()
        if writes and self.currentIndex().isValid():
            event.accept()
            return True
        return bool(super().event(event))

    def keyPressEvent(self, event: Any) -> None:  # noqa: N802
        """Begin a name by Enter, or by any key that writes a character."""
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self.edit(self.currentIndex())
        elif event.text().isprintable() and not event.matches(QKeySequence.StandardKey.Undo):
            super().keyPressEvent(event)
        else:
            event.ignore()


class NameEditor(QLineEdit):
    """The line in which a name is typed."""

    undo = Signal()  # with nothing typed to take back

    def keyPressEvent(self, event: Any) -> None:  # noqa: N802
        """Take back what was typed, or else the last name."""
        if event.matches(QKeySequence.StandardKey.Undo) and not self.isUndoAvailable():
            self.undo.emit()
        else:
            super().keyPressEvent(event)


class ClusterDelegate(QStyledItemDelegate):
    """Draws the fields of a cluster, and edits its name."""

    leave_for = Signal(int)  # how many rows further a name is typed next
    undo = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.theme = Theme.dark()
        self._editor: NameEditor | None = None

    def createEditor(self, parent: Any, option: QStyleOptionViewItem, index: Any) -> QWidget:  # noqa: N802
        """Return the line in which the name is typed."""
        editor = NameEditor(parent)
        editor.setPlaceholderText(f"Name of cluster {index.data(CLUSTER).name}")
        editor.undo.connect(self.undo)
        self._editor = editor
        return editor

    def updateEditorGeometry(self, editor: QWidget, option: QStyleOptionViewItem, index: Any) -> None:  # noqa: N802
        """Place the line over the name, above the markers."""
        rect = option.rect.adjusted(0, 2, -2, 0)
        editor.setGeometry(QRect(rect.left(), rect.top(), rect.width(), CELL_PX // 2 + 1))

    def eventFilter(self, editor: Any, event: Any) -> bool:  # noqa: N802
        """Take over the name and go to another row with Enter and the arrow keys."""
        if event.type() == QEvent.Type.KeyPress and event.key() in _FURTHER:
            self.finish()
            self.leave_for.emit(_FURTHER[event.key()])
            return True
        return bool(super().eventFilter(editor, event))

    def finish(self) -> None:
        """Take over the name that is being typed."""
        if self._editor is not None:
            editor, self._editor = self._editor, None
            self.commitData.emit(editor)
            self.closeEditor.emit(editor)

    def abandon(self) -> None:
        """Leave the name as it was before it was typed."""
        if self._editor is not None:
            editor, self._editor = self._editor, None
            self.closeEditor.emit(editor)

    def destroyEditor(self, editor: QWidget, index: Any) -> None:  # noqa: N802
        """Forget the line."""
        if editor is self._editor:
            self._editor = None
        super().destroyEditor(editor, index)

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Any) -> None:
        """Draw a field."""
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        if option.state & QStyle.StateFlag.State_Selected:
            painter.fillRect(option.rect, QColor(self.theme.raised))
        one, rect = index.data(CLUSTER), QRectF(option.rect)
        if index.column() == COLOUR:
            color = QColor(QUALITATIVE[one.code % len(QUALITATIVE)])
            painter.fillRect(rect.adjusted(2, 3, -2, -3), color)
        elif index.column() == NAME:
            self._draw_name(painter, rect, one, index.data())
        elif index.column() == COUNT:
            self._draw_lines(painter, rect, index.data(), f"{100 * index.data(SHARE):.1f} %")
        elif index.column() == VERDICT:
            self._draw_verdict(painter, rect, one)
        elif index.column() == EXAMPLES:
            for place, image in enumerate(index.data(IMAGES) or ()):
                side = CELL_PX - _GAP_PX
                painter.drawImage(QRectF(rect.left() + place * (side + 2), rect.top() + _GAP_PX / 2, side, side), image)
        painter.restore()

    def _draw_name(self, painter: QPainter, rect: QRectF, one: Cluster, name: str) -> None:
        """Draw the name, and below it the markers in the colours of the example cells."""
        upper, lower = _halves(rect)
        font = painter.font()
        font.setBold(bool(name))
        font.setItalic(not name)
        painter.setFont(font)
        painter.setPen(QColor(self.theme.text if name else self.theme.muted))
        text = name or f"cluster {one.name}"
        text = painter.fontMetrics().elidedText(text, Qt.TextElideMode.ElideRight, int(upper.width()))
        painter.drawText(upper, int(Qt.AlignmentFlag.AlignBottom | Qt.AlignmentFlag.AlignLeft), text)
        font.setBold(False)
        font.setItalic(False)
        painter.setFont(font)
        left, metrics = lower.left(), painter.fontMetrics()
        words = words_of(one.suggested, one.markers)
        for word, marker in shorten(words, lambda text: metrics.horizontalAdvance(text) <= lower.width()):
            room = int(lower.right() - left)
            painter.setPen(QColor(self.theme.muted if marker is None else self.theme.text_in(CHANNELS[marker + 1])))
            shown = metrics.elidedText(word, Qt.TextElideMode.ElideRight, room)
            painter.drawText(QRectF(left, lower.top(), room, lower.height()), int(Qt.AlignmentFlag.AlignTop), shown)
            left += metrics.horizontalAdvance(f"{word} ")

    def _draw_lines(self, painter: QPainter, rect: QRectF, first: str, second: str) -> None:
        upper, lower = _halves(rect)
        painter.setPen(QColor(self.theme.text))
        painter.drawText(upper, int(Qt.AlignmentFlag.AlignBottom | Qt.AlignmentFlag.AlignLeft), first)
        painter.setPen(QColor(self.theme.muted))
        painter.drawText(lower, int(Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignLeft), second)

    def _draw_verdict(self, painter: QPainter, rect: QRectF, one: Cluster) -> None:
        painter.setPen(QColor(self.theme.warning if one.is_flagged else self.theme.muted))
        flags = Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft | Qt.TextFlag.TextWordWrap
        painter.drawText(rect.adjusted(2, 0, -4, 0), int(flags), one.verdict)


def _halves(rect: QRectF) -> tuple[QRectF, QRectF]:
    """Return the places of two lines in a field."""
    rect = rect.adjusted(4, 0, -4, 0)
    middle = rect.center().y()
    return (
        QRectF(rect.left(), rect.top(), rect.width(), middle - rect.top() - 1),
        QRectF(rect.left(), middle + 1, rect.width(), rect.bottom() - middle - 1),
    )
