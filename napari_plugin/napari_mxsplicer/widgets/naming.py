"""Names for the selected cells, and a quick classifier that carries them to all."""

import numpy as np
from qtpy.QtWidgets import QGridLayout, QLabel, QLineEdit, QVBoxLayout

from mxsplicer.errors import InputError
from napari_mxsplicer.annotations import Annotations, Calls, classify
from napari_mxsplicer.state import Painted
from napari_mxsplicer.widgets.base import Context, Part, button


class Naming(Part):
    """Give the selected cells a name in a column of their own."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.column, self.name, self.note = QLineEdit("annotation"), QLineEdit(), QLabel()
        self.column.setToolTip("Column of obs that the names belong to")
        self.name.setPlaceholderText("Name of the selected cells")
        self.note.setWordWrap(True)
        self.work = self.newest()
        self.annotations: Annotations | None = None
        self.calls: Calls | None = None
        grid = QGridLayout()
        grid.setSpacing(4)
        grid.addWidget(self.column, 0, 0)
        grid.addWidget(self.name, 0, 1)
        grid.addWidget(button("Name selected", "Give the selected cells this name, and save", self.give), 1, 0)
        grid.addWidget(button("Show names", "Paint the names", self.show_names), 1, 1)
        grid.addWidget(button("Train classifier", "Carry the names to all cells by their features", self.train), 2, 0)
        grid.addWidget(button("Its confidence", "Paint how sure the classifier is", self.show_confidence), 2, 1)
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
        if self.annotations is None or rows is None or not name:
            self.context.tell("Select cells by the lasso or a region, and type their name.")
            return
        try:
            self.annotations.give(self.column.text().strip(), rows, name)
        except (InputError, OSError) as error:
            self.context.tell(str(error))
            return
        self.context.tell("")
        self.note.setText(f"{len(rows):,} cells are {name}; saved in {self.annotations.path.name}.")
        self.show_names()

    def show_names(self) -> None:
        """Paint the names."""
        column = self.column.text().strip()
        if self.annotations is None or column not in self.annotations.columns:
            self.context.tell("No cell has a name in this column yet.")
            return
        names = self.annotations.categories(column)
        self._paint(column, names.codes, tuple(str(name) for name in names.categories))

    def train(self) -> None:
        """Train the classifier beside the interface, and paint its calls."""
        column, study = self.column.text().strip(), self.state.study
        if study is None or self.annotations is None or column not in self.annotations.columns:
            self.context.tell("Name some cells first: a classifier needs two names with five cells each.")
            return
        self.work.start(
            classify,
            study,
            self.annotations.categories(column),
            done=self._trained,
            progress=lambda done, of: self.context.tell(f"Classifier: {100 * done // of} %"),
        )

    def show_confidence(self) -> None:
        """Paint how sure the classifier is."""
        if self.calls is None:
            self.context.tell("Train the classifier first.")
            return
        lowest = 1 / len(self.calls.classes)
        self.state.paint(Painted("values", "confidence of the classifier", self.calls.confidence, (lowest, 1.0)))

    def _trained(self, calls: Calls) -> None:
        self.calls = calls
        self.context.tell("")
        self.note.setText(
            f"Trained on {calls.n_named:,} cells. Balanced accuracy on named cells that it had not seen: "
            f"{calls.accuracy:.2f} (chance {1 / len(calls.classes):.2f}). Named cells lie close together, so cells "
            "elsewhere are called less well."
        )
        self._paint("calls of the classifier", calls.codes, calls.classes)

    def _paint(self, name: str, codes: np.ndarray, classes: tuple[str, ...]) -> None:
        values = np.asarray(codes, dtype=np.float32)
        values[values < 0] = np.nan
        self.state.paint(Painted("values", name, values, categories=classes))

    def _study_changed(self) -> None:
        self.work.stop()
        study = self.state.study
        if study is None:
            self.annotations = self.calls = None
        elif self.annotations is None or self.annotations.study is not study:
            self.annotations, self.calls = Annotations(study), None
            self.note.setText("")
            if self.annotations.columns:
                self.column.setText(next(iter(self.annotations.columns)))
