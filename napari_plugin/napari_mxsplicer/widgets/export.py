"""Export a table, a figure or code."""

from collections.abc import Callable
from copy import copy
from pathlib import Path

from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import QFileDialog, QGridLayout

from napari_mxsplicer.export import notebook_code, write_correlations, write_figure
from napari_mxsplicer.state import State
from napari_mxsplicer.widgets.base import Context, PanelPart, button


class ExportPart(PanelPart):
    """The part of the panel with buttons that export the current view."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.work = self.worker()
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(4)
        grid.addWidget(button("Correlations", "Write the correlations shown as CSV", self.save_correlations), 0, 0)
        grid.addWidget(button("Figure", "Draw the heatmap and the tissue as PNG, SVG or PDF", self.save_figure), 0, 1)
        grid.addWidget(button("Copy code", "Copy Python code that shows the same in a notebook", self.copy_code), 0, 2)

    def save_correlations(self) -> None:
        """Ask for a path, and write the correlations."""
        if not self.state.r.size:
            self.context.notify("Nothing to export yet.")
            return
        path, _ = QFileDialog.getSaveFileName(self, "Correlations as CSV", "correlations.csv", "CSV (*.csv)")
        if path:
            self._write(write_correlations, Path(path))

    def save_figure(self) -> None:
        """Ask for a path, and write the figure."""
        path, _ = QFileDialog.getSaveFileName(self, "Figure", "correlations.png", "Figures (*.png *.svg *.pdf)")
        if path:
            self._write(write_figure, Path(path))

    def copy_code(self) -> None:
        """Copy the code to the clipboard."""
        QGuiApplication.clipboard().setText(notebook_code(self.state, *self.canvas.colours()))
        self.context.notify("Code copied to the clipboard.")

    def _write(self, write: Callable[[State, Path], None], path: Path) -> None:
        """Write the current view in a thread; later changes of the state do not affect it."""
        self.context.notify(f"Writing {path.name} ...")
        self.work.start(write, copy(self.state), path, done=lambda _: self.context.notify(f"Wrote {path.name}."))
