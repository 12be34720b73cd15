"""The panel: clusters and cells to name, and features with their markers; all of its parts show one state."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QEvent, QSize, Qt, QTimer
from qtpy.QtWidgets import QHBoxLayout, QLayout, QScrollArea, QTabWidget, QVBoxLayout, QWidget

from napari_mxsplicer.canvas import Canvas
from napari_mxsplicer.layers import LayerData, keep_look, slide_layers
from napari_mxsplicer.names import Names
from napari_mxsplicer.state import Painted, State
from napari_mxsplicer.study import Study, feature_groups
from napari_mxsplicer.widgets.base import Context, FixedLabel, add_heading, button, choice
from napari_mxsplicer.widgets.channels import ChannelLoader
from napari_mxsplicer.widgets.clusters import ClustersPart
from napari_mxsplicer.widgets.correlations import CorrelationsPart
from napari_mxsplicer.widgets.exemplars import CellPart, ExemplarsPart
from napari_mxsplicer.widgets.export import ExportPart
from napari_mxsplicer.widgets.gating import GatingPart
from napari_mxsplicer.widgets.naming import NamingPart
from napari_mxsplicer.widgets.opening import OpeningPart
from napari_mxsplicer.widgets.partners import PartnersPart
from napari_mxsplicer.widgets.presets import PresetsPart
from napari_mxsplicer.widgets.queue import QueuePart
from napari_mxsplicer.widgets.section import Section
from napari_mxsplicer.widgets.shortcuts import Shortcuts
from napari_mxsplicer.widgets.theme import Theme
from napari_mxsplicer.widgets.umap import UmapPart
from napari_mxsplicer.widgets.work import Debounced, LatestWorker

if TYPE_CHECKING:
    import napari.viewer

NAMES = "names"  # what cells can be painted by: the names that the user gave
_WIDTH_PX, _PREFERRED_PX = 320, 460  # the least that shows everything; so that the table of clusters has room


class Panel(QWidget):
    """Explores and names the cells of the study on the canvas."""

    def __init__(self, viewer: "napari.viewer.Viewer", parent: Any = None) -> None:
        self._is_docked = False
        self._shown: Study | None = None
        super().__init__(parent)
        self.viewer, self.state = viewer, State()
        self._outline_worker, self._warming = LatestWorker(self.notify), LatestWorker(self.notify)
        self._slide_worker = LatestWorker(self._slide_failed)
        self._names_worker, self._saver, self._loading = (LatestWorker(self.notify) for _ in range(3))
        self.tabs = QTabWidget()
        self.canvas = Canvas(viewer, self.state, run=self._outline_worker.start)
        self.summary, self.message = FixedLabel(2), FixedLabel(3)  # of fixed height: no control moves
        self.slides, self.paint = choice("Slide on the canvas"), choice("What the cells are coloured by")
        self._loader = ChannelLoader(self, viewer, self.state, self.canvas)
        self.channels, self.add_layers = self._loader.button, self._loader.add_layers
        self._prepare = Debounced(self, 300, self._get_ready)  # after the first drawing
        self._make_parts()
        self._arrange()
        self._connect()
        works = [work for part in self.parts for work in part.works]
        self._cleanup = Cleanup(
            viewer,
            self.canvas,
            [self._warming, self._loading, self._outline_worker, self._slide_worker, self._names_worker, *works],
            self._themed,
            self.opening.layers_changed,
            self.shortcuts.disconnect,
            NamesKeeper(self.state, self.clusters.finish_typing),
        )
        self.destroyed.connect(self._cleanup)
        self._themed()
        self._study_changed()
        self.canvas.open_existing()

    def _make_parts(self) -> None:
        context = Context(self.state, self.canvas, self.notify)
        self.correlations, self.umap = CorrelationsPart(context), UmapPart(context)
        self.partners, self.exemplars, self.cell = PartnersPart(context), ExemplarsPart(context), CellPart(context)
        self.clusters, self.queue = ClustersPart(context), QueuePart(context)
        self.naming, self.export, self.gating = NamingPart(context), ExportPart(context), GatingPart(context)
        self.presets = PresetsPart(context, self._loader)
        self.opening = OpeningPart(context, self.viewer, self.add_layers)
        self.parts = (
            self.clusters,
            self.queue,
            self.correlations,
            self.umap,
            self.partners,
            self.exemplars,
            self.cell,
            self.naming,
            self.export,
            self.opening,
            self.gating,
            self.presets,
        )
        self.shortcuts = Shortcuts(self, self.viewer)
        for key, description, call in (
            ("L", "draw a lasso in the UMAP", self.umap.lasso.toggle),
            ("D", "draw an outline in the image", self.canvas.draw_outline),
            ("U", "undo the last selection", self.state.undo),
            ("X", "clear the selection", lambda: self.state.select(None)),
            ("F", "find cells similar to the clicked one", self.cell.find.click),
            ("R", "show the whole UMAP", self.umap.scatter.show_all),
            ("N", "show the nuclei only", self.presets.show_nuclei),
            ("M", "show the markers of the selected cluster", self.presets.show_markers_of_cluster),
            ("B", "show the channels that were visible before", self.presets.show_last),
            ("H", "hide or show the colours of the cells", self.presets.toggle_cells),
        ):
            self.shortcuts.add(key, description, call)

    def _connect(self) -> None:
        state = self.state
        for signal in (
            state.painted_changed,
            state.marker_changed,
            state.correlations_changed,
            state.selection_changed,
        ):
            signal.connect(self._summarize)
        state.study_changed.connect(self._study_changed)
        state.painted_changed.connect(self._show_painted)
        state.marker_changed.connect(self._loader.add_channel)
        self.slides.activated.connect(self._slide_chosen)
        self.paint.activated.connect(self._paint_chosen)
        state.columns_changed.connect(self._fill_paint)
        state.names_changed.connect(self._names_changed)
        self.viewer.events.theme.connect(self._themed)
        self.tabs.currentChanged.connect(self._tab_changed)

    def _arrange(self) -> None:
        self.summary.setAccessibleName("What is shown")
        self.message.setAccessibleName("Message")
        self.message.setContentsMargins(6, 4, 6, 4)
        self.notify("")
        self._umap_section = Section("UMAP", self.umap)
        self._partners_section = Section("Most correlated", self.partners)
        cells = [
            self._umap_section,
            Section("Gate by a marker", self.gating),
            Section("Cell", self.cell),
            Section("Name cells", self.naming),
        ]
        features = [
            Section("Markers and features", self.correlations),
            self._partners_section,
            Section("Images of cells", self.exemplars),
        ]
        files = [Section("Open", self.opening), Section("Export", self.export)]
        self._export_section = files[1]
        self.tabs.setDocumentMode(True)
        self.tabs.addTab(self.clusters, "Clusters")
        self.tabs.addTab(self.queue, "Queue")
        self.tabs.addTab(_scrolled(cells), "Cells")
        self.tabs.addTab(_scrolled(features), "Features")
        self.tabs.addTab(_scrolled(files), "Files")
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.setSpacing(0)
        outer.addLayout(self._header())
        outer.addWidget(self.tabs, 1)
        outer.addWidget(self.message)
        self.setMinimumWidth(_WIDTH_PX)

    def reveal(self, part: QWidget) -> None:
        """Show the tab of a part, and scroll to it."""
        for place in range(self.tabs.count()):
            page = self.tabs.widget(place)
            if page is part or page.isAncestorOf(part):
                self.tabs.setCurrentIndex(place)
                if isinstance(page, QScrollArea):
                    page.ensureWidgetVisible(part)

    def _tab_changed(self, _place: int) -> None:
        """Show all cells again where the queue follows a row of the table: it goes to cells that would be dimmed."""
        if self.tabs.currentWidget() is self.queue and self.clusters.current is not None:
            self.clusters.leave()

    def _header(self) -> QVBoxLayout:
        """Return the rows that stay visible while the rest is scrolled."""
        header = QVBoxLayout()
        header.setContentsMargins(6, 6, 6, 2)
        header.setSpacing(4)
        for one in (self.summary, self.slides):
            header.addWidget(one)
        row = QHBoxLayout()
        row.addWidget(self.paint, 1)
        row.addWidget(self.channels)
        header.addLayout(row)
        self.presets.row.addWidget(button("?", "List the shortcuts", self.shortcuts.show))
        header.addWidget(self.presets)
        return header

    def sizeHint(self) -> QSize:  # noqa: N802
        """Leave most of the window to the tissue."""
        return QSize(_PREFERRED_PX, 900)

    def notify(self, message: str) -> None:
        """Show a message at the bottom of the panel; "" removes it."""
        self.message.setText(message)

    def event(self, event: Any) -> bool:
        """Disconnect from the viewer when the dock of the panel is closed."""
        if event.type() == QEvent.Type.ParentChange:
            if self.parent() is None and self._is_docked:
                self.disconnect_all()
            self._is_docked = self.parent() is not None
        return bool(super().event(event))

    def disconnect_all(self) -> None:
        """Disconnect from the viewer, stop timers, and drop running work."""
        for timer in self.findChildren(QTimer):
            timer.stop()
        self._cleanup()

    def _themed(self, event: Any = None) -> None:
        theme = Theme.of(self.viewer.theme)
        for part in self.parts:
            part.set_theme(theme)

    def _study_changed(self) -> None:
        study = self.state.study
        self._loader.study_changed()
        for place in range(self.tabs.count() - 1):
            self.tabs.setTabVisible(place, study is not None)
        self._export_section.setVisible(study is not None)
        self._partners_section.setVisible(study is not None and not study.missing)
        self.slides.clear()
        self.slides.setVisible(study is not None and len(study.slide_names) > 1)
        self.paint.setVisible(study is not None)
        self.presets.setVisible(study is not None)
        self._fill_paint()
        if study is not None:
            self._umap_section.set_title(_EMBEDDINGS.get(study.umap_key, "UMAP"))
            self.slides.addItems(study.slide_names)
            self.slides.setCurrentText(self.state.slide or "")
            self._warming.start(study.warm, done=lambda _: None)
            self._prepare.start()
            self.notify(self.canvas.opened.note if self.canvas.opened is not None else "")
        if study is not self._shown:
            self._shown = study
            self.tabs.setCurrentIndex(self.tabs.count() - 1 if study is None else 0)
            if study is not None:
                self._names_worker.start(Names, study, done=self.state.use_names)
        self._summarize()

    def _get_ready(self) -> None:
        """Add layers that are needed later, and load libraries that the tabs Queue and Features need."""
        self.canvas.prepare()
        self._loading.start(_load_libraries, done=lambda _: None)

    def _names_changed(self) -> None:
        """List the names if there are any, and save those of cells in a thread."""
        names = self.state.names
        if names is not None and names.problem:
            self.notify(names.problem)
        if names is not None and not names.cells.is_saved:
            self._saver.start(names.cells.save, done=lambda _: None)
        if (names is not None and bool(names.classes)) != (self.paint.findData(NAMES) >= 0):
            self._fill_paint()

    def _fill_paint(self) -> None:
        """List what cells can be coloured by: clusters and names first, then markers, other columns, and features."""
        study, names = self.state.study, self.state.names
        self.paint.clear()
        if study is None:
            return
        self.paint.addItem("Colour by ...", None)
        groups: dict[str, list[tuple[str, Any]]] = {}
        first: list[tuple[str, Any]] = [(name, Painted("column", name)) for name in study.groupings]
        if names is not None and names.classes:
            first.insert(1 if first else 0, ("names", NAMES))
        groups["Clusters and names"] = first
        groups["Markers"] = [(name, Painted("marker", name)) for name in study.markers]
        others = [name for name in study.paintable_columns if name not in study.groupings]
        groups["Other columns"] = [(name, Painted("column", name)) for name in others]
        features = feature_groups(study)
        groups |= {
            heading or "Features": [(study.feature_names[one], Painted("feature", str(one))) for one in columns]
            for heading, columns in features
        }
        for heading, entries in groups.items():
            if entries:
                add_heading(self.paint, heading)
            for text, data in entries:
                self.paint.addItem(text, data)
        self._show_painted()

    def _show_painted(self) -> None:
        painted, names = self.state.painted, self.state.names
        wanted: Any = painted
        if painted is not None and names is not None and (painted.kind, painted.name) == ("values", names.column):
            wanted = NAMES
        listed = (place for place in range(1, self.paint.count()) if self.paint.itemData(place) == wanted)
        place = 0 if painted is None else next(listed, 0)
        self.paint.setItemText(0, "Colour by ..." if place or painted is None else self.state.title)
        self.paint.setCurrentIndex(place)

    def _summarize(self) -> None:
        self.summary.setText(self.state.summary())

    def _paint_chosen(self, place: int) -> None:
        painted = self.paint.itemData(place)
        if painted == NAMES:
            self.naming.show_names()
        elif painted is not None:
            if painted.kind == "marker":
                self.state.show_marker(painted.name)
            self.state.paint(painted)

    def _slide_chosen(self) -> None:
        """Show another slide of the result; its layers are added the first time, and the others hidden."""
        study, name = self.state.study, self.slides.currentText()
        if study is None or name == self.state.slide:
            return
        if not self.canvas.show_slide(name):
            self.notify(f"Opening {name} ...")
            self._slide_worker.start(slide_layers, study, name, done=self._slide_opened)

    def _slide_opened(self, tuples: list[LayerData]) -> None:
        self.notify("")
        self.add_layers(keep_look(tuples, self.canvas.visible_channels()))

    def _slide_failed(self, message: str) -> None:
        self.notify(message)
        self.slides.setCurrentText(self.state.slide or "")


class NamesKeeper:
    """Takes over the name that is being typed and saves all names, before the panel is closed."""

    def __init__(self, state: State, finish_typing: Callable[[], None]) -> None:
        self._state, self._finish_typing = state, finish_typing

    def __call__(self) -> None:
        """Save."""
        with suppress(RuntimeError):  # Qt deleted the widgets already
            self._finish_typing()
        names = self._state.names
        if names is not None and not names.cells.is_saved:
            names.cells.save()


def _load_libraries() -> None:
    for name in ("scipy.stats", "sklearn.linear_model"):  # half a second
        import_module(name)


def _scrolled(sections: Sequence[Section]) -> QScrollArea:
    """Return a page of sections that scrolls."""
    inner = QWidget()
    column = QVBoxLayout(inner)
    column.setContentsMargins(6, 0, 6, 6)
    column.setSpacing(4)
    for one in sections:
        column.addWidget(one)
    column.addStretch(1)
    column.setSizeConstraint(QLayout.SizeConstraint.SetMinimumSize)  # grow at once instead of squeezing widgets
    area = QScrollArea()
    area.setFrameShape(QScrollArea.Shape.NoFrame)
    area.setWidget(inner)
    area.setWidgetResizable(True)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    return area


class Cleanup:
    """Disconnects the panel from its viewer, once; it outlives the panel, so that Qt can call it after deletion."""

    def __init__(
        self,
        viewer: Any,
        canvas: Canvas,
        works: list[LatestWorker],
        themed: Any,
        layers_changed: Any,
        shortcuts: Any,
        save: Any,
    ) -> None:
        self._viewer, self._canvas, self._works, self._save = viewer, canvas, works, save
        self._shortcuts = shortcuts
        self._themed, self._layers_changed = themed, layers_changed
        self._is_done = False

    def __call__(self, _deleted: Any = None) -> None:
        """Disconnect every callback, and drop running work."""
        if self._is_done:
            return
        self._is_done = True
        self._save()
        for work in self._works:
            work.stop()
        self._canvas.disconnect()
        self._shortcuts()
        self._viewer.events.theme.disconnect(self._themed)
        self._viewer.layers.events.inserted.disconnect(self._layers_changed)
        self._viewer.layers.events.removed.disconnect(self._layers_changed)


_EMBEDDINGS = {"X_umap": "UMAP", "X_tsne": "t-SNE", "X_pca": "PCA"}
