"""Annotate the selected cells, and extend the names to all cells by a classifier."""

import numpy as np
from qtpy.QtWidgets import QGridLayout, QLabel, QLineEdit, QVBoxLayout

from mxsplicer import InputError
from napari_mxsplicer.classifier import Predictions, classify
from napari_mxsplicer.state import Painted
from napari_mxsplicer.widgets.base import Context, PanelPart, button


class NamingPart(PanelPart):
    """The part of the panel that gives the selected cells a name in an annotation column."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.column, self.name, self.note = QLineEdit(), QLineEdit(), QLabel()
        self.column.setToolTip("Column of obs for the names")
        self.name.setPlaceholderText("Name of the selected cells")
        self.note.setWordWrap(True)
        self.work = self.worker()
        self.predictions: Predictions | None = None
        grid = QGridLayout()
        grid.setSpacing(4)
        grid.addWidget(self.column, 0, 0)
        grid.addWidget(self.name, 0, 1)
        grid.addWidget(button("Name selected", "Give the selected cells this name, and save it", self.assign), 1, 0)
        grid.addWidget(button("Show names", "Colour the cells by their names", self.show_names), 1, 1)
        grid.addWidget(button("Train classifier", "Predict the names of all cells from features", self.train), 2, 0)
        grid.addWidget(
            button(
                "Show confidence", "Colour the cells by the confidence of their predicted names", self.show_confidence
            ),
            2,
            1,
        )
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addLayout(grid)
        column.addWidget(self.note)
        self.name.returnPressed.connect(self.assign)
        self.state.names_changed.connect(self._names_changed)

    def assign(self) -> None:
        """Name the selected cells."""
        rows, name, names = self.state.selection, self.name.text().strip(), self.state.names
        if names is None:
            self.context.notify("The saved names are still being read." if self.state.study else "")
            return
        if rows is None or not name:
            self.context.notify("Select cells by a lasso or an outline, and type their name.")
            return
        try:
            names.column = self.column.text().strip()
            names.name_cells(rows, name)
        except InputError as error:
            self.context.notify(str(error))
            return
        self.context.notify("")
        self.note.setText(f"{len(rows):,} cells named {name}, saved in {names.cells.path.name}.")
        self.show_names()

    def show_names(self) -> None:
        """Colour the cells by their names."""
        names = self.state.names
        if names is None or not names.classes:
            self.context.notify("No cluster or cell has a name yet.")
            return
        self.state.paint(names.painted())

    def train(self) -> None:
        """Train the classifier in a thread, and colour the cells by its predictions."""
        study, names = self.state.study, self.state.names
        if study is None or names is None or not names.classes:
            self.context.notify("Name some cells first: a classifier needs two names with five cells each.")
            return
        self.work.start(
            classify,
            study,
            names.of_cells(),
            done=self._trained,
            progress=lambda done, of: self.context.notify(f"Classifier: {100 * done // of} %"),
        )

    def show_confidence(self) -> None:
        """Colour the cells by the confidence of their predicted names."""
        if self.predictions is None:
            self.context.notify("Train the classifier first.")
            return
        lowest = 1 / len(self.predictions.classes)
        self.state.paint(Painted("values", "confidence of predicted names", self.predictions.confidence, (lowest, 1.0)))

    def _trained(self, predictions: Predictions) -> None:
        self.predictions = predictions
        self.context.notify("")
        self.note.setText(
            f"Trained on {predictions.n_named:,} cells. Cross-validated balanced accuracy: {predictions.accuracy:.2f} "
            f"(chance {1 / len(predictions.classes):.2f}). Named cells lie close together, so cells elsewhere are "
            "predicted less accurately."
        )
        self._paint("predicted names", predictions.codes, predictions.classes)

    def _paint(self, name: str, codes: np.ndarray, classes: tuple[str, ...], code: str = "") -> None:
        values = np.asarray(codes, dtype=np.float32)
        values[values < 0] = np.nan
        self.state.paint(Painted("values", name, values, categories=classes, code=code, missing="unnamed"))

    def _names_changed(self) -> None:
        names = self.state.names
        if names is None:
            self.predictions = None
            self.note.setText("")
            self.work.stop()
        else:
            self.column.setText(names.column)
