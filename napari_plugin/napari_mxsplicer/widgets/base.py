"""What the parts of the panel have in common."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QComboBox, QPushButton, QSizePolicy, QWidget

from napari_mxsplicer.canvas import Canvas
from napari_mxsplicer.state import State
from napari_mxsplicer.widgets.theme import Theme
from napari_mxsplicer.widgets.work import Newest


@dataclass(frozen=True)
class Context:
    """What every part is given: the state, the canvas, and where to tell the user something."""

    state: State
    canvas: Canvas
    tell: Callable[[str], None]


class Part(QWidget):
    """A part of the panel, which shows the state and changes it."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self.context, self.state, self.canvas = context, context.state, context.canvas
        self.works: list[Newest] = []

    def newest(self, failed: Callable[[str], None] | None = None) -> Newest:
        """Return what runs work of this part beside the interface, and ends with the panel."""
        self.works.append(Newest(failed or self.context.tell))
        return self.works[-1]

    def set_theme(self, theme: Theme) -> None:
        """Take the colours of napari's theme."""


def button(text: str, tip: str, clicked: Callable[[], Any]) -> QPushButton:
    """Return a button that may be narrower than its text wants."""
    made = QPushButton(text)
    made.setToolTip(tip)
    made.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
    made.clicked.connect(lambda _checked=False: clicked())
    return made


def choice(tip: str, *items: str) -> QComboBox:
    """Return a list to choose from that does not grow as wide as its longest entry."""
    made = QComboBox()
    made.setToolTip(tip)
    made.addItems(list(items))
    made.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    made.setMinimumContentsLength(6)
    return made


class Later:
    """Calls a function once, when it was not asked to for some milliseconds."""

    def __init__(self, parent: QWidget, milliseconds: int, call: Callable[[], Any]) -> None:
        self._timer = QTimer(parent)
        self._timer.setSingleShot(True)
        self._timer.setInterval(milliseconds)
        self._timer.timeout.connect(call)

    def start(self) -> None:
        """Ask for a call, and put off one that was asked for."""
        self._timer.start()

    def stop(self) -> None:
        """Do not call."""
        self._timer.stop()
