"""A part of the panel with a title that folds it."""

from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QToolButton, QVBoxLayout, QWidget


class Section(QWidget):
    """A title with content below it, which can be folded."""

    def __init__(self, title: str, content: QWidget, *, is_open: bool = True, parent: Any = None) -> None:
        super().__init__(parent)
        self._title = QToolButton()
        self._title.setText(title)
        self._title.setCheckable(True)
        self._title.setChecked(is_open)
        self._title.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self._title.setAutoRaise(True)
        self._title.toggled.connect(self._fold)
        self.content = content
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 2, 0, 0)
        column.setSpacing(2)
        column.addWidget(self._title)
        column.addWidget(content)
        self._fold(is_open)

    @property
    def is_open(self) -> bool:
        """Whether the content is shown."""
        return bool(self._title.isChecked())

    def unfold(self, is_open: bool = True) -> None:
        """Show or hide the content."""
        self._title.setChecked(is_open)

    def set_title(self, title: str) -> None:
        """Change the title."""
        self._title.setText(title)

    def _fold(self, is_open: bool) -> None:
        self._title.setArrowType(Qt.ArrowType.DownArrow if is_open else Qt.ArrowType.RightArrow)
        self.content.setVisible(is_open)
