"""Name the selected cells."""

from qtpy.QtWidgets import QGridLayout, QLabel, QLineEdit, QVBoxLayout

from mxsplicer import InputError
from napari_mxsplicer.widgets.base import Context, PanelPart, button


class NamingPart(PanelPart):
    """The part of the panel that gives the selected cells a name in an annotation column."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.column, self.name, self.note = QLineEdit(), QLineEdit(), QLabel()
        self.column.setToolTip("Column of obs for the names")
        self.name.setPlaceholderText("Name of the selected cells")
        self.note.setWordWrap(True)
        grid = QGridLayout()
        grid.setSpacing(4)
        grid.addWidget(self.column, 0, 0)
        grid.addWidget(self.name, 0, 1)
        grid.addWidget(button("Name selected", "Give the selected cells this name, and save it", self.assign), 1, 0)
        grid.addWidget(button("Show names", "Colour the cells by their names", self.show_names), 1, 1)
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

    def _names_changed(self) -> None:
        names = self.state.names
        if names is None:
            self.note.setText("")
        else:
            self.column.setText(names.column)
