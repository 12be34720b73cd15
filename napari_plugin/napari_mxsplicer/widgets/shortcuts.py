"""Keyboard shortcuts of the panel, listed under `?`."""

from collections.abc import Callable
from html import escape
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtGui import QKeySequence
from qtpy.QtWidgets import QMessageBox, QShortcut, QWidget

from napari_mxsplicer.layers import ROLE

_ELSEWHERE = {  # handled where they are pressed
    "Enter, ↑ ↓": "next or previous name (in the table of clusters)",
    "1 to 9": "give the proposed cell the name of this number (in the queue)",
    "O": "call the proposed cell other (in the queue)",
    "S": "skip the proposed cell (in the queue)",
    "Ctrl+Z, Ctrl+Shift+Z": "take back or give again the last name",
    "Escape": "show all cells again (in the table of clusters)",
    "← →": "previous or next feature (in the heatmap)",
    "↑ ↓": "previous or next marker (in the heatmap)",
    "wheel": "zoom in the image, the heatmap or the UMAP",
    "double click": "show the whole UMAP",
}


class Shortcuts:
    """Keys that call functions of the panel, and the list of them.

    They work in the whole window of napari while a layer of the panel is active, so that keys of napari's tools keep
    their meaning for other layers; in the panel they always work.
    """

    def __init__(self, panel: QWidget, viewer: Any) -> None:
        self._panel, self._viewer = panel, viewer
        self._keys: dict[str, QShortcut] = {}
        self._described: dict[str, str] = {}
        self._box: QMessageBox | None = None
        self.add("?", "list the shortcuts", self.show)
        viewer.layers.selection.events.active.connect(self._activated)

    def add(self, key: str, description: str, call: Callable[[], Any]) -> None:
        """Call a function by a key, and list it under `?`."""
        shortcut = QShortcut(QKeySequence(key), self._panel)
        shortcut.activated.connect(call)
        self._keys[key], self._described[key] = shortcut, description
        self._activated()

    @property
    def listed(self) -> dict[str, str]:
        """What each key does."""
        return {**self._described, **_ELSEWHERE}

    def show(self) -> None:
        """Show the list."""
        rows = [
            f"<tr><td><b>{escape(key)}</b>&nbsp;&nbsp;</td><td>{what}</td></tr>" for key, what in self.listed.items()
        ]
        if self._box is not None:
            self._box.close()
        self._box = box = QMessageBox(self._panel)
        box.setWindowTitle("Shortcuts")
        box.setTextFormat(Qt.TextFormat.RichText)
        box.setText(f"<table>{''.join(rows)}</table>")
        box.setModal(False)
        box.finished.connect(self._closed)
        box.show()

    def _closed(self) -> None:
        if self._box is not None:
            self._box.deleteLater()
            self._box = None

    def disconnect(self) -> None:
        """Stop listening to the viewer."""
        self._viewer.layers.selection.events.active.disconnect(self._activated)

    def _activated(self, event: Any = None) -> None:
        layer = self._viewer.layers.selection.active
        own = layer is None or ROLE in layer.metadata
        context = Qt.ShortcutContext.WindowShortcut if own else Qt.ShortcutContext.WidgetWithChildrenShortcut
        for shortcut in self._keys.values():
            shortcut.setContext(context)
