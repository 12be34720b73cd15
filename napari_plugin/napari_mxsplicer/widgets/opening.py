"""What an empty panel offers: a result, a sample, or a table over labels that are on the canvas."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from qtpy.QtWidgets import QFileDialog, QGridLayout, QLabel

from napari_mxsplicer.layers import LayerData
from napari_mxsplicer.opening import over_layer, result_layers
from napari_mxsplicer.sample import sample_layers
from napari_mxsplicer.widgets.base import Context, Part, button, choice


class Opening(Part):
    """Ways to open something."""

    def __init__(self, context: Context, viewer: Any, add: Callable[[list[LayerData]], None]) -> None:
        super().__init__(context)
        self._viewer, self._add_layers, self.work = viewer, add, self.newest()
        self.labels = choice("Layer of labels whose numbers are the ids of the table's cells")
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(4)
        grid.addWidget(button("Open result", "The folder that mxsplicer embed wrote", self.ask_result), 0, 0)
        grid.addWidget(button("Load sample", "A small simulated tissue, made now", self.load_sample), 0, 1)
        grid.addWidget(QLabel("Cells of an .h5ad over a labels layer:"), 1, 0, 1, 2)
        grid.addWidget(self.labels, 2, 0)
        grid.addWidget(button("Choose .h5ad", "Table of the cells of these labels", self.ask_table), 2, 1)
        viewer.layers.events.inserted.connect(self.layers_changed)
        viewer.layers.events.removed.connect(self.layers_changed)
        self.layers_changed()

    def ask_result(self) -> None:
        """Ask for a folder and open it."""
        path = QFileDialog.getExistingDirectory(self, "Result of mxsplicer embed")
        if path:
            self.open_result(path)

    def open_result(self, path: str) -> None:
        """Open a result beside the interface, and add its layers."""
        self.context.tell(f"Opening {Path(path).name} ...")
        self.work.start(result_layers, path, done=self._add)

    def load_sample(self) -> None:
        """Make the sample beside the interface, and add its layers."""
        self.context.tell("Simulating a tissue ...")
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
            self.context.tell("Open a label image first, as a layer of labels, and choose it here.")
            return
        self.context.tell(f"Joining {Path(path).name} with {name} ...")
        self.work.start(over_layer, path, self._viewer.layers[name], done=self._add)

    def _add(self, tuples: Any) -> None:
        self.context.tell("")
        self._add_layers(tuples)

    def layers_changed(self, event: Any = None) -> None:
        """Offer the layers of labels that there are."""
        before = self.labels.currentText()
        self.labels.clear()
        self.labels.addItems([layer.name for layer in self._viewer.layers if type(layer).__name__ == "Labels"])
        self.labels.setCurrentText(before)
