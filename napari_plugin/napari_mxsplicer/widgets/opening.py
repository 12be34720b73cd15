"""Open a result, a sample, or a table for a labels layer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from qtpy.QtWidgets import QFileDialog, QGridLayout, QLabel

from napari_mxsplicer.layers import LayerData, join_layer, result_layers
from napari_mxsplicer.sample import sample_layers
from napari_mxsplicer.widgets.base import Context, PanelPart, button, choice


class OpeningPart(PanelPart):
    """The part of the panel with buttons that open data, shown first while the panel is empty."""

    def __init__(self, context: Context, viewer: Any, add: Callable[[list[LayerData]], None]) -> None:
        super().__init__(context)
        self._viewer, self._add_layers, self.work = viewer, add, self.worker()
        self.labels = choice("Labels layer with the cell ids of the table")
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(4)
        grid.addWidget(button("Open result", "Open the folder that mxsplicer embed wrote", self.ask_result), 0, 0)
        grid.addWidget(button("Load sample", "Simulate a small tissue", self.load_sample), 0, 1)
        grid.addWidget(QLabel("Show the cells of an .h5ad on a labels layer:"), 1, 0, 1, 2)
        grid.addWidget(self.labels, 2, 0)
        grid.addWidget(button("Choose .h5ad", "Choose the table of these cells", self.ask_table), 2, 1)
        viewer.layers.events.inserted.connect(self.layers_changed)
        viewer.layers.events.removed.connect(self.layers_changed)
        self.layers_changed()

    def ask_result(self) -> None:
        """Ask for a folder and open it."""
        path = QFileDialog.getExistingDirectory(self, "Result of mxsplicer embed")
        if path:
            self.open_result(path)

    def open_result(self, path: str) -> None:
        """Open a result in a thread, and add its layers."""
        self.context.notify(f"Opening {Path(path).name} ...")
        self.work.start(result_layers, path, done=self._add)

    def load_sample(self) -> None:
        """Simulate the sample in a thread, and add its layers."""
        self.context.notify("Simulating a tissue ...")
        self.work.start(sample_layers, done=self._add)

    def ask_table(self) -> None:
        """Ask for a table and join it with the chosen layer."""
        path, _ = QFileDialog.getOpenFileName(self, "Cells", "", "AnnData (*.h5ad)")
        if path:
            self.join_table(path)

    def join_table(self, path: str) -> None:
        """Join a table with the chosen layer by the ids of its cells."""
        name = self.labels.currentText()
        if name not in self._viewer.layers:
            self.context.notify("Open a label image as a labels layer first, and choose it here.")
            return
        self.context.notify(f"Joining {Path(path).name} with {name} ...")
        self.work.start(join_layer, path, self._viewer.layers[name], done=self._add)

    def _add(self, tuples: Any) -> None:
        self.context.notify("")
        self._add_layers(tuples)

    def layers_changed(self, event: Any = None) -> None:
        """List the labels layers of the viewer."""
        before = self.labels.currentText()
        self.labels.clear()
        self.labels.addItems([layer.name for layer in self._viewer.layers if type(layer).__name__ == "Labels"])
        self.labels.setCurrentText(before)
