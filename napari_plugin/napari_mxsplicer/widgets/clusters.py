"""The table of clusters: colour, name, count, verdict and example cells; names are typed into it."""

from collections.abc import Callable
from typing import Any

import numpy as np
from qtpy.QtCore import QItemSelectionModel, QModelIndex, Qt
from qtpy.QtGui import QKeySequence
from qtpy.QtWidgets import QAbstractItemView, QHBoxLayout, QHeaderView, QLabel, QSizePolicy, QVBoxLayout

from napari_mxsplicer.clusters import (
    Cluster,
    cut_examples,
    draw_examples,
    judge_clusters,
    markers_in,
    read_clusters,
    shown_markers,
)
from napari_mxsplicer.exemplars import Strip, cut_images
from napari_mxsplicer.layers import OpenedSlide
from napari_mxsplicer.study import Study
from napari_mxsplicer.widgets.base import Context, PanelPart, button
from napari_mxsplicer.widgets.cluster_cells import CELL_PX, ClusterDelegate, ClusterTable
from napari_mxsplicer.widgets.cluster_model import COLOUR, COUNT, EXAMPLES, NAME, VERDICT, ClusterModel
from napari_mxsplicer.widgets.strip import PatchStrip
from napari_mxsplicer.widgets.theme import Theme

_IN_TABLE, _IN_DETAIL = 3, 12  # example cells
_LINE = 6  # of them in a line below the table
_HINT = "Click a name and type; Enter goes to the next cluster. Click a row to see its cells in the tissue."


class ClustersPart(PanelPart):
    """The part of the panel with the table of clusters, and more cells of the current one below it."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.model, self.table, self.delegate = ClusterModel(), ClusterTable(), ClusterDelegate()
        self.reason, self.strip = QLabel(_HINT), PatchStrip("Here you see cells of the row that you click.")
        self.reading, self.judging, self.cutting, self.detail = (self.worker() for _ in range(4))
        self.files = self.worker()
        self._study: Study | None = None
        self._opened: OpenedSlide | None = None
        self._arrange_table()
        self._arrange()
        self.state.study_changed.connect(self._study_changed)
        self.state.names_changed.connect(self._names_changed)
        self._study_changed()

    def _arrange_table(self) -> None:
        table = self.table
        table.setModel(self.model)
        table.setItemDelegate(self.delegate)
        table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        table.setEditTriggers(
            QAbstractItemView.EditTrigger.EditKeyPressed | QAbstractItemView.EditTrigger.AnyKeyPressed
        )
        table.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        table.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        table.setShowGrid(False)
        table.setAccessibleName("Clusters")
        table.setMinimumHeight(3 * CELL_PX)
        table.verticalHeader().hide()
        table.verticalHeader().setDefaultSectionSize(CELL_PX)
        header = table.horizontalHeader()
        header.setMinimumSectionSize(8)
        header.setHighlightSections(False)
        for column, width in ((COLOUR, 12), (COUNT, 52), (VERDICT, 74), (EXAMPLES, _IN_TABLE * (CELL_PX - 2))):
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.Fixed)
            table.setColumnWidth(column, width)
        header.setSectionResizeMode(NAME, QHeaderView.ResizeMode.Stretch)
        table.clicked.connect(self._clicked)
        table.selectionModel().currentRowChanged.connect(self._moved)
        self.delegate.leave_for.connect(self._edit_further)
        self.delegate.undo.connect(self.undo)

    def _arrange(self) -> None:
        self.reason.setWordWrap(True)
        self.reason.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.strip.reserve(_IN_DETAIL // _LINE, _LINE)
        self.undo_button = button("Undo", "Take back the last name (Ctrl+Z)", self.undo)
        self.redo_button = button("Redo", "Give the name again that was taken back (Ctrl+Shift+Z)", self.redo)
        self.write = button(
            "Write names to the .h5ad",
            "Write all names into obs of the .h5ad, which is replaced when the new file is complete",
            self.write_to_table,
        )
        row = QHBoxLayout()
        row.setSpacing(4)
        for one, stretch in ((self.undo_button, 1), (self.redo_button, 1), (self.write, 2)):
            row.addWidget(one, stretch)
        for one in (self.undo_button, self.redo_button):
            one.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)  # the row fits a narrow panel
        column = QVBoxLayout(self)
        column.setContentsMargins(6, 4, 6, 6)
        column.setSpacing(4)
        column.addWidget(self.table, 1)
        column.addWidget(self.reason)
        column.addWidget(self.strip)
        column.addLayout(row)
        self.strip.chosen.connect(self._cell_chosen)

    def showEvent(self, event: Any) -> None:  # noqa: N802
        """Give the reason of a verdict three lines, in the font of napari, so that nothing below it moves."""
        super().showEvent(event)
        self.reason.setFixedHeight(self.reason.fontMetrics().lineSpacing() * 3 + 6)

    def hideEvent(self, event: Any) -> None:  # noqa: N802
        """Take over the name that is being typed, before another tab is shown or the window is closed."""
        self.finish_typing()
        super().hideEvent(event)

    def set_theme(self, theme: Theme) -> None:
        """Use the colours of napari's theme."""
        self.delegate.theme = theme
        self.strip.set_theme(theme)
        self.table.viewport().update()

    @property
    def current(self) -> Cluster | None:
        """The cluster of the current row."""
        index = self.table.currentIndex()
        return self.model.clusters[index.row()] if index.isValid() else None

    def action_of(self, key: Any) -> Callable[[], Any] | None:
        """Return what a key does: undo, redo, or leave the current row."""
        if key.key() == Qt.Key.Key_Escape:
            return self.leave
        return (
            self.undo
            if key.matches(QKeySequence.StandardKey.Undo)
            else (self.redo if key.matches(QKeySequence.StandardKey.Redo) else None)
        )

    def undo(self) -> None:
        """Take back the last name, and show its row."""
        self._step(back=True)

    def redo(self) -> None:
        """Give the name again that was taken back."""
        self._step(back=False)

    def leave(self) -> None:
        """Leave the current row, and clear the selection."""
        self.table.setCurrentIndex(QModelIndex())
        self.table.clearSelection()
        self.state.select(None)

    def write_to_table(self) -> None:
        """Write the names to the table in a thread."""
        self.finish_typing()
        names = self.state.names
        if names is None or not names.classes:
            self.context.notify("Name a cluster or some cells first.")
            return
        self.context.notify(f"Writing {names.study.cells.name} ...")
        self.files.start(names.write_to_table, done=self._written)

    def finish_typing(self) -> None:
        """Take over the name that is being typed; called before it could be lost."""
        self.delegate.finish()

    def _written(self, columns: list[str]) -> None:
        assert self.state.study is not None
        self.context.notify(f"Wrote {', '.join(columns)} to obs of {self.state.study.cells.name}.")
        self.state.columns_changed.emit()

    def _step(self, *, back: bool) -> None:
        names = self.state.names
        self.delegate.abandon()
        if names is None:
            return
        step = names.undo() if back else names.redo()
        if step is None:
            self.context.notify(f"Nothing to {'undo' if back else 'redo'}.")
        elif step.cluster is not None and step.cluster in self.model.row_of:
            self.table.setCurrentIndex(self.model.index(self.model.row_of[step.cluster], NAME))

    def _study_changed(self) -> None:
        study, opened = self.state.study, self.canvas.opened
        if study is self._study and opened is self._opened:
            return
        if study is not self._study:
            self.model.show_clusters([])
            self.strip.show_strip(None)
            for work in self.works:
                work.stop()
            if study is not None:
                self.reading.start(read_clusters, study, done=lambda found: self._read(*found))
        elif study is not None:
            self._cut()
        self._study, self._opened = study, opened
        has_image = opened is not None and opened.slide is not None
        self.strip.setVisible(has_image)
        self.table.setColumnHidden(EXAMPLES, not has_image)

    def _read(self, clusters: list[Cluster], are_judged: bool) -> None:
        self._show(clusters)
        if not clusters:
            self.reason.setText("The table has no clusters: run mxsplicer cluster on the result.")
        elif not are_judged and self._study is not None:
            self.reason.setText("Computing the verdicts ...")
            self.judging.start(judge_clusters, self._study, done=self._show)

    def _show(self, clusters: list[Cluster]) -> None:
        self.model.show_clusters(clusters)
        markers = self.state.study.markers if self.state.study is not None else []
        # those in the example cells first
        self.state.cluster_markers = {
            one.name: tuple(dict.fromkeys((*one.markers, *markers_in(one.suggested, markers)))) for one in clusters
        }
        self.reason.setText(self._hint())
        self._names_changed()
        self._cut()

    def _hint(self) -> str:
        """Return how many clusters are flagged, and how to name them."""
        flagged = [one for one in self.model.clusters if one.is_flagged]
        if not flagged:
            return _HINT
        n, of = sum(one.count for one in flagged), sum(one.count for one in self.model.clusters)
        return (
            f"{len(flagged)} of {len(self.model.clusters)} clusters look like artefacts: {n:,} cells "
            f"({100 * n / of:.0f} %). {_HINT}"
        )

    def _cut(self) -> None:
        """Cut the example cells of each cluster in a thread, and show them as they come."""
        study, opened = self.state.study, self.canvas.opened
        if study is None or opened is None or opened.slide is None or study.xy_px is None:
            return
        self.cutting.start(
            cut_examples,
            study,
            opened,
            list(self.model.clusters),
            _IN_TABLE,
            done=lambda _: None,
            progress=self.model.show_images,
        )

    def _names_changed(self) -> None:
        names = self.state.names
        self.model.show_names({} if names is None else names.of_clusters)
        self.undo_button.setEnabled(names is not None and names.can_undo)
        self.redo_button.setEnabled(names is not None and names.can_redo)
        self.model.name = None if names is None else names.name_cluster
        if names is not None and names.note:
            self.reason.setText(names.note)

    def _clicked(self, index: QModelIndex) -> None:
        self._select_cells()  # again, if the selection was changed elsewhere
        if index.column() == NAME:
            self.table.edit(index)

    def _edit_further(self, by: int) -> None:
        """Type the name of another row."""
        row = self.table.currentIndex().row() + by
        if 0 <= row < self.model.rowCount():
            index = self.model.index(row, NAME)
            self.table.setCurrentIndex(index)
            self.table.edit(index)
        else:
            self.table.setFocus()

    def _moved(self, index: QModelIndex, _before: QModelIndex) -> None:
        """Select the cells of the current cluster, and show more of them below the table."""
        study, opened, one = self.state.study, self.canvas.opened, self.current
        if one is None or study is None:
            self.reason.setText(self._hint())
            self.strip.show_strip(None)
            return
        if index.column() != NAME:  # so that a key begins a name
            self.table.selectionModel().setCurrentIndex(
                self.model.index(index.row(), NAME), QItemSelectionModel.SelectionFlag.NoUpdate
            )
        self.reason.setText(f"{one.verdict.capitalize()}. {one.reason}" if one.verdict else "")
        self.reason.setToolTip(self.reason.text())
        self._select_cells()
        if opened is not None and opened.slide is not None and study.xy_px is not None:
            self.detail.start(_cut_detail, study, opened, one, done=self._show_detail)

    def _select_cells(self) -> None:
        """Select the cells of the current cluster."""
        if self.state.study is not None and self.current is not None:
            self.state.select(np.flatnonzero(self.state.study.clusters.codes == self.current.code))

    def _show_detail(self, found: tuple[Strip, str]) -> None:
        strip, title = found
        self.strip.show_strip(strip, (title, *[""] * (len(strip.rows) - 1)))

    def _cell_chosen(self, row: int) -> None:
        self.state.pick(row)
        self.canvas.show_closely(row)


def _cut_detail(study: Study, opened: OpenedSlide, one: Cluster) -> tuple[Strip, str]:
    """Return images of more cells of a cluster, in lines, and their title."""
    rows = draw_examples(study, one.code, opened.rows, _IN_DETAIL)
    grid = np.full((-(-max(len(rows), 1) // _LINE), _LINE), -1, dtype=np.int64)
    grid.ravel()[: len(rows)] = rows
    markers = shown_markers(opened, one.markers)
    cut = cut_images(study, opened, rows, markers)
    images = np.zeros((*grid.shape, *cut.shape[1:]), dtype=np.uint8)
    images[grid >= 0] = cut
    on_slide = "" if len(rows) else f": none on {opened.name}"
    return Strip(images, grid, tuple(markers)), f"Cluster {one.name}, cells drawn at random{on_slide}"
