"""Cells to name next, as outlined images, with a key for each class; what they teach is extended to all cells."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtGui import QKeySequence, QShortcut
from qtpy.QtWidgets import (
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
)

from mxsplicer import InputError
from mxsplicer.tl import OTHER, CellClassifier, Predictions, Proposal, load_classifier, save_classifier
from napari_mxsplicer.clusters import read_clusters
from napari_mxsplicer.exemplars import Strip
from napari_mxsplicer.naming_session import Answered, CellView, NamingSession, classifier_path, key_markers
from napari_mxsplicer.state import Painted
from napari_mxsplicer.widgets.base import Context, FixedLabel, PanelPart, button
from napari_mxsplicer.widgets.cell_view import CellImages
from napari_mxsplicer.widgets.strip import PatchStrip
from napari_mxsplicer.widgets.theme import Theme

_AHEAD = 9  # cells that are proposed at once
_COLUMNS, _TOOL_COLUMNS, _MOST_KEYS = 3, 2, 9
_OTHER_KEY, _SKIP_KEY = Qt.Key.Key_O, Qt.Key.Key_S
_EMPTY = "Type the name of this cell below, such as T cell. Later cells of the class are named by its key."
PREDICTED = "predicted"  # column of obs


class QueuePart(PanelPart):
    """The part of the panel with the queue of cells to name next, and the classifier."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.proposing, self.cutting, self.predicting = self.worker(self._failed), self.worker(), self.worker()
        self.session: NamingSession | None = None
        self.answered: Answered | None = None
        self.predictions: Predictions | None = None
        self._loaded: CellClassifier | None = None  # from a file, used until a class has three named cells
        self.proposals: list[Proposal] = []
        self._views: dict[int, CellView] = {}
        self._markers: list[str] = []
        self._is_answering = False
        self.why, self.progress, self.note = FixedLabel(3), QLabel(), QLabel()
        self.images, self.ahead = CellImages(), PatchStrip()
        self.new_name, self.class_buttons = QLineEdit(), list[QPushButton]()
        self.buttons = (
            button("O  other", "None of the classes", partial(self.answer, OTHER)),
            button("S  skip", "Leave it without a name", self.skip),
        )
        self._shortcuts = list[QShortcut]()  # while this part is visible
        self._grid = QGridLayout()
        self._arrange()
        self.state.names_changed.connect(self._names_changed)
        self.state.study_changed.connect(self._study_changed)

    def _arrange(self) -> None:
        for label, lines in ((self.progress, 1), (self.note, 4)):
            label.setWordWrap(True)
            label.setAlignment(Qt.AlignmentFlag.AlignTop)
            label.setMinimumHeight(lines * label.fontMetrics().lineSpacing() + 6)
        self.ahead.reserve(1, _AHEAD - 1)
        self.new_name.setPlaceholderText("Name of another class, then Enter")
        self.new_name.returnPressed.connect(self._new_class)
        self._grid.setSpacing(4)
        for place in range(_COLUMNS):
            self._grid.setColumnStretch(place, 1)  # a new class makes no other button narrower
        tools = QGridLayout()
        tools.setSpacing(4)
        for place, one in enumerate(
            (
                button("Predict all", "Extend the names to all cells of the result", self.predict),
                button(
                    "Show confidence",
                    "Colour the cells by the confidence of their predicted names",
                    self.show_confidence,
                ),
                button(
                    "Write predictions",
                    f"Write obs columns {PREDICTED} and {PREDICTED}_confidence into the .h5ad",
                    self.write,
                ),
                button("Save classifier", "Save what was learned, to apply it to other results", self.ask_save),
                button("Load classifier", "Use a classifier.json instead of the names given here", self.ask_load),
            )
        ):
            tools.addWidget(one, *divmod(place, _TOOL_COLUMNS))
        below = QHBoxLayout()
        below.setSpacing(4)
        below.addWidget(self.new_name, 1)
        for one in (*self.buttons, button("Undo", "Take back the last name (Ctrl+Z)", self.undo)):
            one.setFocusPolicy(Qt.FocusPolicy.NoFocus)  # keys stay with the queue
            below.addWidget(one)
        column = QVBoxLayout(self)
        column.setContentsMargins(6, 6, 6, 6)
        column.setSpacing(4)
        for one in (self.why, self.images, self.ahead):
            column.addWidget(one)
        column.addLayout(below)
        column.addLayout(self._grid)  # below what a new class must not move
        column.addWidget(self.progress)
        column.addStretch(1)
        column.addWidget(self.note)
        column.addLayout(tools)
        self.ahead.chosen.connect(self._chosen)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        for key in (*(Qt.Key(Qt.Key.Key_1 + number) for number in range(_MOST_KEYS)), _OTHER_KEY, _SKIP_KEY):
            shortcut = QShortcut(QKeySequence(key), self)  # for when the image has the focus
            shortcut.activated.connect(partial(self._press, key))
            shortcut.setEnabled(False)
            self._shortcuts.append(shortcut)

    def set_theme(self, theme: Theme) -> None:
        """Use the colours of napari's theme."""
        self.images.set_theme(theme)
        self.ahead.set_theme(theme)

    def showEvent(self, event: Any) -> None:  # noqa: N802
        """Propose cells when this part becomes visible."""
        super().showEvent(event)
        self.setFocus()
        for one in self._shortcuts:
            one.setEnabled(True)
        if self.session is None:
            self._begin()

    def hideEvent(self, event: Any) -> None:  # noqa: N802
        """Leave the keys to napari."""
        super().hideEvent(event)
        for one in self._shortcuts:
            one.setEnabled(False)

    @property
    def current(self) -> Proposal | None:
        """The cell to name now."""
        return self.proposals[0] if self.proposals else None

    @property
    def classes(self) -> list[str]:
        """The classes with keys 1 to 9 and without, but not "other"."""
        names = self.state.names
        return [] if names is None else [name for name in names.classes if name != OTHER]

    def action_of(self, key: Any) -> Callable[[], Any] | None:
        """Return what a key does: a digit names the cell, as do "O" (other) and "S" (skip)."""
        if key.matches(QKeySequence.StandardKey.Undo):
            return self.undo
        if key.matches(QKeySequence.StandardKey.Redo):
            return self.redo
        is_plain = not key.modifiers() & ~Qt.KeyboardModifier.KeypadModifier
        return self._actions.get(key.key()) if is_plain else None

    @property
    def _actions(self) -> dict[int, Callable[[], Any]]:
        """What the keys without modifiers do."""
        actions: dict[int, Callable[[], Any]] = {_OTHER_KEY: partial(self.answer, OTHER), _SKIP_KEY: self.skip}
        for number, name in enumerate(self.classes[:_MOST_KEYS]):
            actions[Qt.Key.Key_1 + number] = partial(self.answer, name)
        return actions

    def _press(self, key: int) -> None:
        action = self._actions.get(key)
        if action is not None:
            action()

    def answer(self, name: str) -> None:
        """Name the current cell, and go to the next one."""
        names, current = self.state.names, self.current
        if names is None or self.session is None or current is None:
            return
        self._is_answering = True
        try:
            self.session.answer(current.row, name)
            names.name_cells(np.array([current.row]), name)
        except InputError as error:
            self.context.notify(str(error))
            return
        finally:
            self._is_answering = False
        self.context.notify("")
        self._advance()

    def skip(self) -> None:
        """Go to the next cell without a name; this one is not proposed again."""
        if self.session is not None and self.current is not None:
            self.session.skip(self.current.row)
            self._advance()

    def undo(self) -> None:
        """Take back the last name, and show its cell again."""
        names = self.state.names
        step = None if names is None else names.undo()
        if step is None:
            self.context.notify("Nothing to undo.")
        elif step.rows is not None and len(step.rows) == 1:
            row = int(step.rows[0])
            self.proposals = [
                Proposal(row, "named before, taken back"),
                *(one for one in self.proposals if one.row != row),
            ]
            self._show_current()

    def redo(self) -> None:
        """Give the name again that was taken back."""
        if self.state.names is not None and self.state.names.redo() is None:
            self.context.notify("Nothing to redo.")

    def predict(self) -> None:
        """Predict the names of all cells in a thread, and colour the cells by them."""
        classifier = self._classifier()
        if classifier is None or self.session is None:
            self.context.notify("Name three cells of a class first, or load a classifier.")
            return
        self.predicting.start(
            self.session.predict,
            classifier,
            done=lambda found: self._predicted(classifier, found),
            progress=lambda done, of: self.context.notify(f"Predicting: {100 * done // of} %"),
        )

    def show_confidence(self) -> None:
        """Colour the cells by the confidence of their predicted names."""
        if self.predictions is None:
            self.context.notify("Predict all cells first.")
            return
        self.state.paint(Painted("values", "confidence of predicted names", self.predictions.confidence, (0.5, 1.0)))

    def write(self) -> None:
        """Write names and predictions to the table in a thread."""
        names = self.state.names
        if names is None or self.predictions is None:
            self.context.notify("Predict all cells first.")
            return
        self.context.notify(f"Writing {names.study.cells.name} ...")
        self.predicting.start(names.write_to_table, self.predictions.columns(PREDICTED), done=self._written)

    def ask_save(self) -> None:
        """Ask for a path, and save the classifier."""
        if self._classifier() is None or self.state.study is None:
            self.context.notify("Name three cells of a class first.")
            return
        path, _ = QFileDialog.getSaveFileName(
            self, "Classifier", str(classifier_path(self.state.study)), "Classifier (*.json)"
        )
        if path:
            self.save(path)

    def save(self, path: str | Path) -> None:
        """Save the classifier; a file that exists was replaced with the user's consent by the dialog."""
        classifier = self._classifier()
        assert classifier is not None
        save_classifier(classifier, path, overwrite=True)
        self.note.setText(f"Saved {Path(path).name}. Apply it to other results with mxsplicer annotate --apply.")

    def ask_load(self) -> None:
        """Ask for a classifier, and use it."""
        start = "" if self.state.study is None else str(classifier_path(self.state.study).parent)
        path, _ = QFileDialog.getOpenFileName(self, "Classifier", start, "Classifier (*.json)")
        if path:
            self.load(path)

    def load(self, path: str | Path) -> None:
        """Use a classifier from a file to predict all cells."""
        try:
            self._loaded = load_classifier(path)
        except InputError as error:
            self.context.notify(str(error))
            return
        self.note.setText(f"{Path(path).name}: {self._loaded.describe()}")
        self.predict()

    def _classifier(self) -> CellClassifier | None:
        return self._loaded or (None if self.answered is None else self.answered.classifier)

    def _predicted(self, classifier: CellClassifier, found: Predictions) -> None:
        self.predictions = found
        self.context.notify("")
        is_own = self.answered is not None and classifier is self.answered.classifier
        about = self.answered.describe() if is_own and self.answered else classifier.describe()
        self.note.setText(f"{100 * found.share_unknown:.0f} % of the cells are unknown. {about}")
        names = found.names
        classes = tuple(str(name) for name in names.categories)
        self.state.paint(
            Painted("values", "predicted names", np.asarray(names.codes, dtype=np.float32), categories=classes)
        )

    def _written(self, columns: list[str]) -> None:
        assert self.state.study is not None
        self.context.notify(f"Wrote {', '.join(columns)} to obs of {self.state.study.cells.name}.")
        self.state.columns_changed.emit()

    def _study_changed(self) -> None:
        if self.session is not None and self.isVisible():
            self._show_current()

    def _names_changed(self) -> None:
        names = self.state.names
        if names is None:
            for work in self.works:
                work.stop()
            self.session = self.answered = self.predictions = self._loaded = None
            self.proposals, self._views = [], {}
            self.note.setText("")
        elif self.session is None:
            if self.isVisible():
                self._begin()
        elif not self._is_answering:
            self.session.take_names()
            self._propose()
        self._fill_buttons()

    def _begin(self) -> None:
        """Start the queue in a thread: features of some cells are read for it."""
        study, names = self.state.study, self.state.names
        if study is None or names is None:
            return
        if not study.n_features:
            self.why.setText("The table has no features, so no cells are proposed.")
            return
        self.session = NamingSession(study, names)
        self.why.setText("Reading features of the cells ...")
        self._markers = key_markers(read_clusters(study)[0], study)
        self._propose()

    def _propose(self) -> None:
        if self.session is not None:
            self.proposing.start(self.session.propose, _AHEAD + 3, done=self._proposed)

    def _proposed(self, answered: Answered) -> None:
        self.answered = answered
        self._loaded = self._loaded if answered.classifier is None else None
        self.progress.setText(answered.progress)
        first = self.proposals[:1] if self._is_current_open() else []
        known = {one.row for one in first}  # proposed again, perhaps with another guess
        self.proposals = [*first, *(one for one in answered.proposals if one.row not in known)][:_AHEAD]
        if answered.classifier is not None and self.predictions is None:
            self.note.setText(answered.describe())
        self._show_current()

    def _is_current_open(self) -> bool:
        """Whether the user looks at a cell already, which a refresh must not replace."""
        return bool(self.proposals) and self.proposals[0].row in self._views

    def _failed(self, message: str) -> None:
        self.why.setText(message)

    def _advance(self) -> None:
        """Show the next cell at once, and refresh the queue behind it in a thread."""
        self.proposals = self.proposals[1:]
        self._show_current()
        self._propose()

    def _chosen(self, row: int) -> None:
        """Name another of the proposed cells first."""
        self.proposals.sort(key=lambda one: one.row != row)
        self._show_current()

    def _show_current(self) -> None:
        current, study, opened = self.current, self.state.study, self.canvas.opened
        if current is None or study is None:
            self.why.setText("No more cells are proposed." if self.answered else self.why.text())
            self.images.show_view(None)
            self.ahead.show_strip(None)
            return
        guess = ""
        if current.confidence and self._classifier() is not None:
            guess = f" The classifier calls it {current.guess} ({current.confidence:.0%})."
        text = f"Proposed because: {current.why}.{guess}"
        self.why.setText(text if self.classes else f"{text} {_EMPTY}")
        self.state.pick(current.row)
        if self.isVisible():
            self.canvas.show_closely(current.row)
        missing = [one.row for one in self.proposals if one.row not in self._views]
        self._show_views()
        if missing and opened is not None and self.session is not None:
            self.cutting.start(
                self.session.view, missing, opened, self._markers, done=lambda _: None, progress=self._viewed
            )

    def _viewed(self, row: int, view: CellView) -> None:
        self._views[row] = view
        self._show_views()

    def _show_views(self) -> None:
        self.images.show_view(None if self.current is None else self._views.get(self.current.row))
        rows = [one.row for one in self.proposals[1:] if one.row in self._views]
        if not rows:
            self.ahead.show_strip(None)
            return
        images = np.stack([self._views[row].composite for row in rows])[None]
        self.ahead.show_strip(Strip(images, np.array([rows]), ()), ("Next",))

    def _new_class(self) -> None:
        name = self.new_name.text().strip()
        if name:
            self.new_name.clear()
            self.setFocus()
            self.answer(name)

    def _fill_buttons(self) -> None:
        """Make a button for each class, with its key."""
        classes = self.classes
        keyed = [f"{number + 1}  {name}" for number, name in enumerate(classes[:_MOST_KEYS])]
        wanted = [*keyed, *classes[_MOST_KEYS:]]
        if wanted == [one.text() for one in self.class_buttons]:
            return
        for one in self.class_buttons:
            self._grid.removeWidget(one)
            one.hide()
            one.deleteLater()
        self.class_buttons = [
            button(text, f"Name this cell {name}", partial(self.answer, name))
            for text, name in zip(wanted, classes, strict=True)
        ]
        for place, one in enumerate(self.class_buttons):
            one.setFocusPolicy(Qt.FocusPolicy.NoFocus)  # keys stay with the queue
            one.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)  # long names widen nothing
            self._grid.addWidget(one, *divmod(place, _COLUMNS))
