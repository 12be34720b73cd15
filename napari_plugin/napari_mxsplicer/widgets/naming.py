"""Annotate the selected cells, and extend the names to all cells by a classifier."""

import numpy as np
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QGridLayout, QLabel, QLineEdit, QVBoxLayout

from mxsplicer import InputError
from napari_mxsplicer.annotations import Annotations
from napari_mxsplicer.classifier import Predictions, classify
from napari_mxsplicer.export import annotation_code
from napari_mxsplicer.state import Painted
from napari_mxsplicer.widgets.base import Context, PanelPart, button


class NamingPart(PanelPart):
    """The part of the panel that gives the selected cells a name in an annotation column."""

    columns_changed = Signal()  # of obs

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.column, self.name, self.note = QLineEdit("annotation"), QLineEdit(), QLabel()
        self.column.setToolTip("Column of obs for the names")
        self.name.setPlaceholderText("Name of the selected cells")
        self.note.setWordWrap(True)
        self.work, self.files = self.worker(), self.worker()
        self.annotations: Annotations | None = None
        self.predictions: Predictions | None = None
        self._trained_on = ""  # the column that the classifier was trained on
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
        tip = (
            "Write all names and predictions as columns of obs into the .h5ad, "
            "which is replaced when the new file is complete"
        )
        grid.addWidget(button("Write names to the .h5ad", tip, self.write_to_table), 3, 0, 1, 2)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addLayout(grid)
        column.addWidget(self.note)
        self.name.returnPressed.connect(self.assign)
        self.state.study_changed.connect(self._study_changed)
        self._study_changed()

    def assign(self) -> None:
        """Name the selected cells."""
        rows, name = self.state.selection, self.name.text().strip()
        if self.annotations is None:
            self.context.notify("The saved names are still being read." if self.state.study else "")
            return
        if rows is None or not name:
            self.context.notify("Select cells by a lasso or an outline, and type their name.")
            return
        try:
            self.annotations.assign(self.column.text().strip(), rows, name)
        except InputError as error:
            self.context.notify(str(error))
            return
        self.context.notify("")
        self.files.start(
            self.annotations.save,
            done=lambda path: self.note.setText(f"{len(rows):,} cells named {name}, saved in {path.name}."),
        )
        self.show_names()

    def write_to_table(self) -> None:
        """Write the names to the table in a thread."""
        if self.annotations is None or not self.annotations.columns:
            self.context.notify("Name some cells first.")
            return
        more = {} if self.predictions is None else self.predictions.columns(self._trained_on)
        columns = ", ".join([*self.annotations.columns, *more])
        self.context.notify(f"Writing {self.annotations.study.cells.name} ...")
        self.files.start(self.annotations.write_to_table, more, done=lambda path: self._written(path.name, columns))

    def _written(self, name: str, columns: str) -> None:
        self.context.notify("")
        self.note.setText(f"Wrote {columns} to obs of {name}.")
        self.columns_changed.emit()

    def save_now(self) -> None:
        """Save unsaved names; called when the panel is closed."""
        if self.annotations is not None and not self.annotations.is_saved:
            self.annotations.save()

    def show_names(self) -> None:
        """Paint the names."""
        column = self.column.text().strip()
        if self.annotations is None or column not in self.annotations.columns:
            self.context.notify("No cell has a name in this column yet.")
            return
        names = self.annotations.columns[column]
        classes = tuple(str(name) for name in names.categories)
        in_table = column in self.annotations.study.obs_names
        self._paint(column, names.codes, classes, "" if in_table else self._code(column, classes))

    def _code(self, column: str, names: tuple[str, ...]) -> str:
        assert self.annotations is not None
        return annotation_code(self.annotations.study, self.annotations.path, column, names)

    def train(self) -> None:
        """Train the classifier in a thread, and paint its predictions."""
        column, study = self.column.text().strip(), self.state.study
        if study is None or self.annotations is None or column not in self.annotations.columns:
            self.context.notify("Name some cells first: a classifier needs two names with five cells each.")
            return
        self.work.start(
            classify,
            study,
            self.annotations.columns[column],
            done=lambda predictions: self._trained(column, predictions),
            progress=lambda done, of: self.context.notify(f"Classifier: {100 * done // of} %"),
        )

    def show_confidence(self) -> None:
        """Colour the cells by the confidence of their predicted names."""
        if self.predictions is None:
            self.context.notify("Train the classifier first.")
            return
        lowest = 1 / len(self.predictions.classes)
        self.state.paint(Painted("values", "confidence of predicted names", self.predictions.confidence, (lowest, 1.0)))

    def _trained(self, column: str, predictions: Predictions) -> None:
        self.predictions, self._trained_on = predictions, column
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

    def _study_changed(self) -> None:
        study = self.state.study
        if study is not None and self.annotations is not None and self.annotations.study is study:
            return
        self.save_now()
        for work in self.works:
            work.stop()
        self.annotations = self.predictions = None
        self.note.setText("")
        if study is not None:
            self.files.start(Annotations, study, done=self._read)

    def _read(self, annotations: Annotations) -> None:
        self.annotations = annotations
        if annotations.columns:
            self.column.setText(next(iter(annotations.columns)))
