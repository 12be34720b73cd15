"""The panel: which feature follows which marker, and where; every part of it shows the same state."""

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QEvent, QSize, Qt, QTimer
from qtpy.QtWidgets import QHBoxLayout, QLabel, QLayout, QScrollArea, QVBoxLayout, QWidget

from napari_mxsplicer.canvas import Canvas
from napari_mxsplicer.layers import MARKER, SLIDE, LayerData
from napari_mxsplicer.opening import Adding, as_before, insert, slide_layers, when_asked_for
from napari_mxsplicer.state import Painted, State
from napari_mxsplicer.study import Study
from napari_mxsplicer.widgets.base import Context, Later, button, choice
from napari_mxsplicer.widgets.cells import CellsPart
from napari_mxsplicer.widgets.correlations import Correlations
from napari_mxsplicer.widgets.exemplars import CellPart, Exemplars
from napari_mxsplicer.widgets.naming import Naming
from napari_mxsplicer.widgets.opening import Opening
from napari_mxsplicer.widgets.partners import Partners
from napari_mxsplicer.widgets.section import Section
from napari_mxsplicer.widgets.taking import Taking
from napari_mxsplicer.widgets.theme import Theme
from napari_mxsplicer.widgets.work import Newest

if TYPE_CHECKING:
    import napari.viewer

_WIDTH_PX = 320  # at which everything can be used


class Panel(QWidget):
    """The marker-correlation map of the study on the canvas."""

    def __init__(self, viewer: "napari.viewer.Viewer", parent: Any = None) -> None:
        self._docked = False
        super().__init__(parent)
        self.viewer, self.state = viewer, State()
        self._regions = Newest(self.tell)
        self.canvas = Canvas(viewer, self.state, run=self._regions.start)
        self.sentence, self.told = QLabel(), QLabel()
        self.slides, self.paint = choice("Slide on the canvas"), choice("What the cells are painted by")
        self.channels = button(
            "All channels", "Add a layer for every marker; one alone is added when it is clicked", self.add_channels
        )
        context = Context(self.state, self.canvas, self.tell)
        self.correlations, self.cells = Correlations(context), CellsPart(context)
        self.partners, self.exemplars, self.cell = Partners(context), Exemplars(context), CellPart(context)
        self.naming, self.taking = Naming(context), Taking(context)
        self.opening = Opening(context, viewer, self.add_layers)
        self.parts = (
            self.correlations,
            self.cells,
            self.partners,
            self.exemplars,
            self.cell,
            self.naming,
            self.taking,
            self.opening,
        )
        self._arrange()
        for signal in (
            self.state.painted_changed,
            self.state.marker_changed,
            self.state.map_changed,
            self.state.selection_changed,
        ):
            signal.connect(self._say)
        self.state.study_changed.connect(self._study_changed)
        self.state.painted_changed.connect(self._show_painted)
        self.state.marker_changed.connect(self._add_channel)
        self.slides.activated.connect(self._slide_chosen)
        self.paint.activated.connect(self._paint_chosen)
        self.naming.columns_changed.connect(self._fill_paint)
        self.viewer.events.theme.connect(self._themed)
        self._warming = Newest(self.tell)
        self._adding: Adding | None = None
        self._studied: Study | None = None
        self._others: dict[str, dict[str, LayerData]] = {}  # channels by slide and marker that are not added yet
        self._next_layer = Later(self, 0, self._add_next)
        self._prepare = Later(self, 300, self.canvas.prepare)  # when the first picture is there
        self._opening_slide = Newest(self._slide_failed)
        works = [
            self._warming,
            self._regions,
            self._opening_slide,
            *(work for part in self.parts for work in part.works),
        ]
        self._ending = Ending(
            viewer, self.canvas, works, self._themed, self.opening.layers_changed, self.naming.save_now
        )
        self.destroyed.connect(self._ending)
        self._themed()
        self._study_changed()
        self.canvas.begin()

    def add_layers(self, tuples: list[LayerData], *, at_once: bool = False) -> None:
        """Add the layers of a slide: those that are seen, hidden channels as they are asked for, or all ``at_once``."""
        for one in self._adding.left if self._adding is not None else []:  # of a slide that was left before all came
            about = one[1]["metadata"]
            if MARKER in about:
                self._others.setdefault(about[SLIDE], {})[about[MARKER]] = one
        now, others = (tuples, {}) if at_once else when_asked_for(tuples)
        self._adding = Adding(self.viewer, now)
        self._adding.add_seen()
        if others and self.state.slide is not None:
            self._others[self.state.slide] = others
        if at_once:
            while self._adding.add_next():
                pass
        self._next_layer.start()
        self._add_channel()

    def add_channels(self) -> None:
        """Add the channels of the slide that are no layers yet, one after the other while the viewer runs."""
        others = self._others.pop(self.state.slide or "", {})
        self._adding = Adding(self.viewer, list(others.values()), below=self._above_channels())
        self._next_layer.start()
        self._offer_channels()

    def _add_next(self) -> None:
        if self._adding is not None and self._adding.add_next():
            self._next_layer.start()

    def _add_channel(self) -> None:
        """Add the channel of the marker that is looked at, where its slide was opened without."""
        found = self._others.get(self.state.slide or "", {}).pop(self.state.marker or "", None)
        if found is not None:
            data, options, kind = found
            seen = (data, options | {"visible": True}, kind)
            insert(self.viewer, seen, below=self._above_channels(), selected=False)
        self._offer_channels()

    def _above_channels(self) -> Any:
        return self.canvas.layer("cells") or self.canvas.layer("map")

    def _offer_channels(self) -> None:
        self.channels.setVisible(bool(self._others.get(self.state.slide or "")))

    def sizeHint(self) -> QSize:  # noqa: N802
        """Leave most of the window to the tissue."""
        return QSize(_WIDTH_PX + 30, 900)

    def tell(self, message: str) -> None:
        """Say something below the state line; "" takes it back."""
        self.told.setText(message)
        self.told.setVisible(bool(message))

    def event(self, event: Any) -> bool:
        """Leave the viewer alone when the dock that the panel was in is gone."""
        if event.type() == QEvent.Type.ParentChange:
            if self.parent() is None and self._docked:
                self.disconnect_all()
            self._docked = self.parent() is not None
        return bool(super().event(event))

    def disconnect_all(self) -> None:
        """Leave the viewer alone: no callback stays, nothing put off comes, and nothing that runs is waited for."""
        for timer in self.findChildren(QTimer):
            timer.stop()
        self._ending()

    def _arrange(self) -> None:
        self.sentence.setWordWrap(True)
        self.sentence.setAccessibleName("What is shown")
        self.told.setWordWrap(True)
        self.tell("")
        inner = QWidget()
        column = QVBoxLayout(inner)
        column.setContentsMargins(6, 0, 6, 6)
        column.setSpacing(4)
        examples = Section("Pictures of cells", self.exemplars)
        examples.opened.connect(self.exemplars.refresh)
        self._opening = Section("Open", self.opening)
        self._sections = [
            Section("Markers and features", self.correlations),
            Section("Map of the cells", self.cells),
            Section("Best partners", self.partners),
            examples,
            Section("Cell", self.cell),
            Section("Name cells", self.naming, is_open=False),
            Section("Take along", self.taking, is_open=False),
        ]
        for section in (*self._sections, self._opening):
            column.addWidget(section)
        column.addStretch(1)
        column.setSizeConstraint(QLayout.SizeConstraint.SetMinimumSize)  # at once, before what grew is squeezed
        area = QScrollArea()
        area.setWidget(inner)
        area.setWidgetResizable(True)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        above = QVBoxLayout()  # always seen, wherever the rest is scrolled to
        above.setContentsMargins(6, 6, 6, 2)
        above.setSpacing(4)
        for one in (self.sentence, self.told, self.slides):
            above.addWidget(one)
        beside = QHBoxLayout()
        beside.addWidget(self.paint, 1)
        beside.addWidget(self.channels)
        above.addLayout(beside)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.setSpacing(0)
        outer.addLayout(above)
        outer.addWidget(area, 1)
        self.setMinimumWidth(_WIDTH_PX)

    def _themed(self, event: Any = None) -> None:
        theme = Theme.of(self.viewer.theme)
        for part in self.parts:
            part.set_theme(theme)

    def _study_changed(self) -> None:
        study = self.state.study
        if study is not self._studied:
            self._studied, self._others = study, {}
        self._offer_channels()
        for section in self._sections:
            section.setVisible(study is not None)
        self._opening.unfold(study is None)
        self.slides.clear()
        self.slides.setVisible(study is not None and len(study.slide_names) > 1)
        self.paint.setVisible(study is not None)
        self._fill_paint()
        if study is not None:
            self.slides.addItems(study.slide_names)
            self.slides.setCurrentText(self.state.slide or "")
            self._warming.start(study.warm, done=lambda _: None)
            self._prepare.start()
        self._say()

    def _fill_paint(self) -> None:
        """Offer what the study has: columns of obs and markers, which are few, before the features."""
        study = self.state.study
        self.paint.clear()
        if study is None:
            return
        self.paint.addItem("Paint by ...", None)
        for name in study.paintable_columns:
            self.paint.addItem(name, Painted("column", name))
        for name in study.markers:
            self.paint.addItem(name, Painted("marker", name))
        for number in range(study.n_features):
            self.paint.addItem(f"feature {number}", Painted("feature", str(number)))
        self._show_painted()

    def _show_painted(self) -> None:
        painted = self.state.painted
        place = self.paint.findText(painted.title) if painted is not None else 0
        self.paint.setCurrentIndex(max(place, 0))

    def _say(self) -> None:
        self.sentence.setText(self.state.sentence())

    def _paint_chosen(self, place: int) -> None:
        painted = self.paint.itemData(place)
        if painted is not None:
            if painted.kind == "marker":
                self.state.look_at(painted.name)
            self.state.paint(painted)

    def _slide_chosen(self) -> None:
        """Bring another slide of the result onto the canvas; its layers are added once, and the others hidden."""
        study, name = self.state.study, self.slides.currentText()
        if study is None or name == self.state.slide:
            return
        if not self.canvas.show_slide(name):
            self.tell(f"Opening {name} ...")
            self._opening_slide.start(slide_layers, study, name, done=self._slide_opened)

    def _slide_opened(self, tuples: list[LayerData]) -> None:
        self.tell("")
        self.add_layers(as_before(tuples, self.canvas.channels_seen()))

    def _slide_failed(self, message: str) -> None:
        self.tell(message)
        self.slides.setCurrentText(self.state.slide or "")


class Ending:
    """Lets go of a viewer, once; it outlives the panel, so that it can be called when Qt has deleted it."""

    def __init__(
        self, viewer: Any, canvas: Canvas, works: list[Newest], themed: Any, layers_changed: Any, save: Any
    ) -> None:
        self._viewer, self._canvas, self._works, self._save = viewer, canvas, works, save
        self._themed, self._layers_changed = themed, layers_changed
        self._ended = False

    def __call__(self, _deleted: Any = None) -> None:
        """Disconnect every callback, and drop what runs."""
        if self._ended:
            return
        self._ended = True
        self._save()
        for work in self._works:
            work.stop()
        self._canvas.disconnect()
        self._viewer.events.theme.disconnect(self._themed)
        self._viewer.layers.events.inserted.disconnect(self._layers_changed)
        self._viewer.layers.events.removed.disconnect(self._layers_changed)
