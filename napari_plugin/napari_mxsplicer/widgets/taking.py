"""What can be taken along: a table, a picture, code."""

from collections.abc import Callable
from copy import copy
from pathlib import Path

from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import QFileDialog, QGridLayout

from napari_mxsplicer.export import code, write_map, write_picture
from napari_mxsplicer.state import State
from napari_mxsplicer.widgets.base import Context, Part, button


class Taking(Part):
    """Buttons that export what is shown."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.work = self.newest()
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(4)
        grid.addWidget(button("Map as CSV", "Write the correlations that are shown", self.save_map), 0, 0)
        grid.addWidget(button("Picture", "Draw the map and the tissue as PNG, SVG or PDF", self.save_picture), 0, 1)
        grid.addWidget(button("Copy code", "Python that shows the same in a notebook", self.copy_code), 0, 2)

    def save_map(self) -> None:
        """Ask where, and write the map."""
        if not self.state.r.size:
            self.context.tell("There is no map yet.")
            return
        path, _ = QFileDialog.getSaveFileName(self, "Map as CSV", "map.csv", "CSV (*.csv)")
        if path:
            self._write(write_map, Path(path))

    def save_picture(self) -> None:
        """Ask where, and draw the picture."""
        path, _ = QFileDialog.getSaveFileName(self, "Picture", "map.png", "Pictures (*.png *.svg *.pdf)")
        if path:
            self._write(write_picture, Path(path))

    def copy_code(self) -> None:
        """Put the code on the clipboard."""
        QGuiApplication.clipboard().setText(code(self.state, *self.canvas.colours()))
        self.context.tell("The code is on the clipboard.")

    def _write(self, write: Callable[[State, Path], None], path: Path) -> None:
        """Write beside the interface what is shown now, whatever is chosen meanwhile."""
        self.context.tell(f"Writing {path.name} ...")
        self.work.start(write, copy(self.state), path, done=lambda _: self.context.tell(f"Wrote {path.name}."))
