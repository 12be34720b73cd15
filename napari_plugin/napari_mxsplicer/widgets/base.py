"""The base of the panel's parts, and small widgets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from qtpy.QtCore import QEvent, QRect, QRectF, Qt
from qtpy.QtGui import QColor, QPainter
from qtpy.QtWidgets import QComboBox, QLabel, QPushButton, QSizePolicy, QWidget

from napari_mxsplicer.canvas import Canvas
from napari_mxsplicer.exemplars import colors_of
from napari_mxsplicer.state import State
from napari_mxsplicer.widgets.theme import Theme
from napari_mxsplicer.widgets.work import LatestWorker


@dataclass(frozen=True)
class Context:
    """The base that every part of the panel receives: the state, the canvas, and a function that shows a message."""

    state: State
    canvas: Canvas
    notify: Callable[[str], None]


class PanelPart(QWidget):
    """The base of each part of the panel, which shows the state and changes it."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self.context, self.state, self.canvas = context, context.state, context.canvas
        self.works: list[LatestWorker] = []

    def worker(self, failed: Callable[[str], None] | None = None) -> LatestWorker:
        """Return a worker for this part, which stops with the panel."""
        self.works.append(LatestWorker(failed or self.context.notify))
        return self.works[-1]

    def set_theme(self, theme: Theme) -> None:
        """Use the colours of napari's theme."""

    def action_of(self, key: Any) -> Callable[[], Any] | None:
        """Return what a key does in this part, by its event; None if nothing."""
        return None

    def event(self, event: Any) -> bool:
        """Handle the keys of this part, before napari's shortcuts do."""
        if event.type() in (QEvent.Type.ShortcutOverride, QEvent.Type.KeyPress):
            action = self.action_of(event)
            if action is not None:
                event.accept()
                if event.type() == QEvent.Type.KeyPress:
                    action()
                return True
        return bool(super().event(event))


class CellDrawing(QWidget):
    """The base of small widgets that draw images of cells: their height follows from their width."""

    def __init__(self, name: str, parent: Any = None) -> None:
        super().__init__(parent)
        self.theme = Theme.dark()
        self.setAccessibleName(name)

    def set_theme(self, theme: Theme) -> None:
        """Use the colours of napari's theme."""
        self.theme = theme
        self.update()

    def resizeEvent(self, event: Any) -> None:  # noqa: N802
        """Fit the height to another width."""
        self.fit_height()
        super().resizeEvent(event)

    def fit_height(self) -> None:
        """Set the height that the images need."""
        raise NotImplementedError

    def draw_markers(self, painter: QPainter, rect: QRectF, markers: Sequence[str]) -> None:
        """Write the names of markers in the colours that they have in the images."""
        left = rect.left()
        for marker, color in zip(markers, colors_of(markers), strict=False):
            painter.setPen(QColor(self.theme.text_in(color)))
            painter.drawText(QRectF(left, rect.top(), rect.right() - left, rect.height()), 0, marker)
            left += painter.fontMetrics().horizontalAdvance(f"{marker}  ")


class FixedLabel(QLabel):
    """A small widget, a text of a fixed number of lines: controls below it stay in place when it changes.

    A longer text ends in "…", and its tool tip is the whole text.
    """

    def __init__(self, n_lines: int, text: str = "") -> None:
        super().__init__()
        self._whole = ""
        self.setWordWrap(True)
        self.setAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignTop)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.setStyleSheet("padding: 0px")  # napari's would cut the last line
        self._n_lines = n_lines
        self.setText(text)

    def setText(self, text: str | None) -> None:  # noqa: N802
        """Show another text."""
        self._whole = text or ""
        self.setToolTip(self._whole)
        self._fit()

    def text(self) -> str:
        """Return the whole text."""
        return self._whole

    def resizeEvent(self, event: Any) -> None:  # noqa: N802
        """Fit the text to another width."""
        super().resizeEvent(event)
        self._fit()

    def showEvent(self, event: Any) -> None:  # noqa: N802
        """Fit the text in the font of napari, which a widget gets when it is shown."""
        super().showEvent(event)
        self._fit()

    def _fit(self) -> None:
        height = self._n_lines * self.fontMetrics().lineSpacing() + 2
        margins = self.contentsMargins()
        self.setFixedHeight(height + margins.top() + margins.bottom())
        words, end = self._whole.split(" "), ""
        while len(words) > 1 and self._height(" ".join(words) + end) > height:
            words, end = words[:-1], " …"
        super().setText(" ".join(words) + end)

    def _height(self, text: str) -> int:
        room = QRect(0, 0, max(self.contentsRect().width(), 1), 10_000)
        return int(self.fontMetrics().boundingRect(room, int(Qt.TextFlag.TextWordWrap), text).height())


def button(text: str, tip: str, clicked: Callable[[], Any]) -> QPushButton:
    """Return a small widget, a button that may be narrower than its text."""
    made = QPushButton(text)
    made.setToolTip(tip)
    made.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
    made.clicked.connect(lambda _checked=False: clicked())
    return made


class FromTheTop(QComboBox):
    """A combo box whose list opens at its beginning, wherever the current entry stands."""

    def showPopup(self) -> None:  # noqa: N802
        """Open the list."""
        super().showPopup()
        self.view().scrollToTop()


def choice(tip: str, *items: str) -> QComboBox:
    """Return a small widget, a combo box that does not grow as wide as its longest entry."""
    made = FromTheTop()
    made.setToolTip(tip)
    made.addItems(list(items))
    made.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    made.setMinimumContentsLength(6)
    return made


def add_heading(box: QComboBox, text: str) -> None:
    """Add a heading to the entries of a combo box, which cannot be chosen."""
    box.addItem(text)
    font = box.font()
    font.setBold(True)
    box.setItemData(box.count() - 1, font, Qt.ItemDataRole.FontRole)
    box.model().item(box.count() - 1).setEnabled(False)
