"""Names for the selected cells, and a quick classifier that carries them to all."""

import numpy as np
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QGridLayout, QLabel, QLineEdit, QVBoxLayout

from mxsplicer import InputError
from napari_mxsplicer.annotations import Annotations, Calls, classify
from napari_mxsplicer.export import code_of_names
from napari_mxsplicer.state import Painted
from napari_mxsplicer.widgets.base import Context, Part, button


class Naming(Part):
    """Give the selected cells a name in a column of their own."""

    columns_changed = Signal()  # of obs

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.column, self.name, self.note = QLineEdit("annotation"), QLineEdit(), QLabel()
        self.column.setToolTip("Column of obs that the names belong to")
        self.name.setPlaceholderText("Name of the selected cells")
        self.note.setWordWrap(True)
        self.work, self.files = self.newest(), self.newest()
        self.annotations: Annotations | None = None
        self.calls: Calls | None = None
        self._called_after = ""  # the column of names that the classifier was trained on
        grid = QGridLayout()
        grid.setSpacing(4)
        grid.addWidget(self.column, 0, 0)
        grid.addWidget(self.name, 0, 1)
        grid.addWidget(button("Name selected", "Give the selected cells this name, and save", self.give), 1, 0)
        grid.addWidget(button("Show names", "Paint the names", self.show_names), 1, 1)
        grid.addWidget(button("Train classifier", "Carry the names to all cells by their features", self.train), 2, 0)
        grid.addWidget(button("Its confidence", "Paint how sure the classifier is", self.show_confidence), 2, 1)
        tip = (
            "Write all names, and what the classifier says, as columns of obs into the .h5ad, "
            "which is replaced when the new one is whole"
        )
        grid.addWidget(button("Put names into the .h5ad", tip, self.put_into_table), 3, 0, 1, 2)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addLayout(grid)
        column.addWidget(self.note)
        self.name.returnPressed.connect(self.give)
        self.state.study_changed.connect(self._study_changed)
        self._study_changed()

    def give(self) -> None:
        """Name the selected cells."""
        rows, name = self.state.selection, self.name.text().strip()
        if self.annotations is None:
            self.context.tell("The names that were given before are being read." if self.state.study else "")
            return
        if rows is None or not name:
            self.context.tell("Select cells by the lasso or a region, and type their name.")
            return
        try:
            self.annotations.give(self.column.text().strip(), rows, name)
        except InputError as error:
            self.context.tell(str(error))
            return
        self.context.tell("")
        self.files.start(
            self.annotations.save,
            done=lambda path: self.note.setText(f"{len(rows):,} cells are {name}; saved in {path.name}."),
        )
        self.show_names()

    def put_into_table(self) -> None:
        """Write the names into the table beside the interface."""
        if self.annotations is None or not self.annotations.columns:
            self.context.tell("Name some cells first.")
            return
        more = {} if self.calls is None else self.calls.columns(self._called_after)
        said = ", ".join([*self.annotations.columns, *more])
        self.context.tell(f"Writing {self.annotations.study.cells.name} anew ...")
        self.files.start(self.annotations.put_into_table, more, done=lambda path: self._put(path.name, said))

    def _put(self, name: str, columns: str) -> None:
        self.context.tell("")
        self.note.setText(f"obs of {name} has {columns} now.")
        self.columns_changed.emit()

    def save_now(self) -> None:
        """Save what is not saved yet; called when the panel is closed."""
        if self.annotations is not None and not self.annotations.is_saved:
            self.annotations.save()

    def show_names(self) -> None:
        """Paint the names."""
        column = self.column.text().strip()
        if self.annotations is None or column not in self.annotations.columns:
            self.context.tell("No cell has a name in this column yet.")
            return
        names = self.annotations.columns[column]
        classes = tuple(str(name) for name in names.categories)
        in_table = column in self.annotations.study.obs_names
        self._paint(column, names.codes, classes, "" if in_table else self._code(column, classes))

    def _code(self, column: str, names: tuple[str, ...]) -> str:
        assert self.annotations is not None
        return code_of_names(self.annotations.study, self.annotations.path, column, names)

    def train(self) -> None:
        """Train the classifier beside the interface, and paint its calls."""
        column, study = self.column.text().strip(), self.state.study
        if study is None or self.annotations is None or column not in self.annotations.columns:
            self.context.tell("Name some cells first: a classifier needs two names with five cells each.")
            return
        self.work.start(
            classify,
            study,
            self.annotations.columns[column],
            done=lambda calls: self._trained(column, calls),
            progress=lambda done, of: self.context.tell(f"Classifier: {100 * done // of} %"),
        )

    def show_confidence(self) -> None:
        """Paint how sure the classifier is."""
        if self.calls is None:
            self.context.tell("Train the classifier first.")
            return
        lowest = 1 / len(self.calls.classes)
        self.state.paint(Painted("values", "confidence of the classifier", self.calls.confidence, (lowest, 1.0)))

    def _trained(self, column: str, calls: Calls) -> None:
        self.calls, self._called_after = calls, column
        self.context.tell("")
        self.note.setText(
            f"Trained on {calls.n_named:,} cells. Balanced accuracy on named cells that it had not seen: "
            f"{calls.accuracy:.2f} (chance {1 / len(calls.classes):.2f}). Named cells lie close together, so cells "
            "elsewhere are called less well."
        )
        self._paint("calls of the classifier", calls.codes, calls.classes)

    def _paint(self, name: str, codes: np.ndarray, classes: tuple[str, ...], code: str = "") -> None:
        values = np.asarray(codes, dtype=np.float32)
        values[values < 0] = np.nan
        self.state.paint(Painted("values", name, values, categories=classes, code=code))

    def _study_changed(self) -> None:
        study = self.state.study
        if study is not None and self.annotations is not None and self.annotations.study is study:
            return
        self.save_now()
        for work in self.works:
            work.stop()
        self.annotations = self.calls = None
        self.note.setText("")
        if study is not None:
            self.files.start(Annotations, study, done=self._read)

    def _read(self, annotations: Annotations) -> None:
        self.annotations = annotations
        if annotations.columns:
            self.column.setText(next(iter(annotations.columns)))
