"""The side of napari: what the state says is painted into layers, and what the mouse does there goes into the state.

Layers of others are never touched. It runs on a viewer without a window too.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from napari_mxsplicer.layers import MARKER, PAINT, ROLE, SLIDE, STUDY, OpenedSlide, limits_of, strongest
from napari_mxsplicer.opening import selection_kept
from napari_mxsplicer.painting import Paint, PaintedLevel
from napari_mxsplicer.palettes import CATEGORIES, SIGNED, categorical_colormap, signed_colormap
from napari_mxsplicer.raster import rows_inside
from napari_mxsplicer.state import Painted, State

SELECTION, MARKS, REGION = "mxsplicer selection", "mxsplicer marked cells", "mxsplicer region"
_DIM = 0.65  # how much of a cell that is not chosen is covered
_MARK_UM = 14.0  # diameter of the ring around a cell


class Runs(Protocol):
    """Calls a function, now or beside the interface, and hands on what it returns."""

    def __call__(self, function: Callable[..., Any], *arguments: Any, done: Callable[[Any], Any]) -> Any:
        """Call ``function``, then ``done`` with what it returned."""


def run_now(function: Callable[..., Any], *arguments: Any, done: Callable[[Any], Any]) -> Any:
    """Call a function at once."""
    return done(function(*arguments))


class Canvas:
    """Ties a viewer to a state until :meth:`disconnect`."""

    def __init__(self, viewer: Any, state: State, *, run: Runs = run_now) -> None:
        """Listen to both; what takes time is handed to ``run``."""
        self._viewer, self._state, self._run = viewer, state, run
        self.opened: OpenedSlide | None = None
        self._chosen: Paint | None = None
        self._colors: list[str] = []  # of the rings
        self._of_region: np.ndarray | None = None  # rows inside what was drawn
        self._heard: Any = None
        self._of_numbers: Any = "viridis"  # the colours of numbers, where categories are painted
        self._painting = self._opening = False
        viewer.layers.events.inserted.connect(self._layers_changed)
        viewer.layers.events.removed.connect(self._layers_changed)
        viewer.layers.selection.events.active.connect(self._activated)
        viewer.mouse_move_callbacks.append(self._moved)
        viewer.mouse_drag_callbacks.append(self._pressed)
        state.painted_changed.connect(self._paint)
        state.marker_changed.connect(self._show_marker)
        state.selection_changed.connect(self._show_selection)
        state.selection_changed.connect(self._clear_region)
        for signal in (state.picked_changed, state.hovered_changed, state.marked_changed):
            signal.connect(self._show_marks)
        self._of_view: list[Callable[[], Any]] = []
        self._of_colours: list[Callable[[], Any]] = []
        camera_of(viewer).events.connect(self._view_changed)

    def begin(self) -> None:
        """Take up the study whose layers are there already."""
        self._layers_changed()

    def on_view_changed(self, call: Callable[[], Any]) -> None:
        """Call when another part of the slide comes into view."""
        self._of_view.append(call)

    def on_colours_changed(self, call: Callable[[], Any]) -> None:
        """Call when the user changes the colours or the contrast of the painted cells."""
        self._of_colours.append(call)

    def disconnect(self) -> None:
        """Leave the viewer as it is and no longer listen to it."""
        camera_of(self._viewer).events.disconnect(self._view_changed)
        self._listen_to(None)
        self._viewer.layers.events.inserted.disconnect(self._layers_changed)
        self._viewer.layers.events.removed.disconnect(self._layers_changed)
        self._viewer.layers.selection.events.active.disconnect(self._activated)
        for callbacks, callback in (
            (self._viewer.mouse_move_callbacks, self._moved),
            (self._viewer.mouse_drag_callbacks, self._pressed),
        ):
            if callback in callbacks:
                callbacks.remove(callback)
        self._state.disconnect()

    def layer(self, role: str, marker: str | None = None) -> Any:
        """Return the layer that plays a role for the slide on the canvas, or None."""
        for layer in self._viewer.layers:
            about = layer.metadata
            if (
                about.get(ROLE) == role
                and about.get(STUDY) is self._state.study
                and about.get(SLIDE) == self._state.slide
                and (marker is None or about.get(MARKER) == marker)
            ):
                return layer
        return None

    def channels_seen(self) -> dict[str, Any]:
        """Return the colormaps of the channels that are visible, by marker."""
        state = self._state
        mine = [one for one in self._viewer.layers if one.metadata.get(ROLE) == "marker" and one.visible]
        mine = [one for one in mine if (one.metadata[STUDY], one.metadata[SLIDE]) == (state.study, state.slide)]
        return {one.metadata[MARKER]: one.colormap for one in mine}

    def show_slide(self, name: str) -> bool:
        """Show a slide whose layers are there, and hide the others of the study; False where it has no layers."""
        study = self._state.study
        layers = [one for one in self._viewer.layers if one.metadata.get(STUDY) is study and study is not None]
        mine = [one for one in layers if one.metadata.get(SLIDE) == name and one.metadata.get(ROLE) == "map"]
        if mine:
            for layer in layers:
                _show(layer, layer is mine[-1])
            self._take_up(mine[-1])
            self._state.marker_changed.emit()
        return bool(mine)

    def centre_on(self, row: int) -> None:
        """Bring a cell into the middle of the canvas."""
        at = self._positions(np.array([row]))
        if len(at):
            camera_of(self._viewer).center = tuple(at[0])

    def in_view(self) -> Callable[[], np.ndarray]:
        """Return what finds the rows of the cells in the part of the slide that is on the canvas now."""
        layer, rows = self.layer("map"), self._state.rows
        xy = self._state.study.xy_px if self._state.study else None
        if layer is None or xy is None:
            return lambda: rows
        (top, left), (bottom, right) = np.asarray(layer.corner_pixels)[:, -2:] * self._factor(layer)

        def find() -> np.ndarray:
            x, y = xy[rows].T
            return np.asarray(rows[(x >= left) & (x <= right) & (y >= top) & (y <= bottom)])

        return find

    def draw_region(self) -> None:
        """Let the user draw around cells: a layer of shapes is added, and what is drawn in it chooses."""
        layer = self.layer("region")
        if layer is None and self.layer("map") is not None:
            layer = self._add(
                "add_shapes",
                None,
                name=REGION,
                ndim=2,
                face_color="transparent",
                edge_color="yellow",
                edge_width=2,
                metadata={ROLE: "region", STUDY: self._state.study, SLIDE: self._state.slide},
            )
            layer.events.data.connect(self._region_drawn)
        if layer is not None:
            self._viewer.layers.selection.active = layer
            layer.mode = "add_polygon_lasso"

    def _region_drawn(self, event: Any) -> None:
        """Choose the cells inside what was drawn, all shapes together."""
        layer, state = event.source, self._state
        xy = state.study.xy_px if state.study is not None else None
        if layer is not self.layer("region") or xy is None or event.action not in _DONE:
            return
        if not len(layer.data) and event.action != "removed":
            return
        if event.action != "removed" and any(len(np.unique(corners, axis=0)) < 3 for corners in layer.data):
            return  # the first corner of one that is being drawn
        rows, polygons = state.rows, [np.asarray(corners)[:, -2:][:, ::-1] for corners in layer.data]
        self._run(lambda: rows[rows_inside(xy[rows], polygons)], done=self._region_found)

    def _region_found(self, rows: np.ndarray) -> None:
        """Choose the cells in the region, and give the mouse back to the tissue."""
        layer, painted = self.layer("region"), self.layer("map")
        self._of_region = rows
        self._state.select(rows)
        if layer is not None and layer.mode.startswith("add") and len(layer.data):
            layer.mode = "pan_zoom"
            self._viewer.layers.selection.active = painted

    def _clear_region(self) -> None:
        """Take away what was drawn, where other cells are chosen now."""
        layer, chosen, drawn = self.layer("region"), self._state.selection, self._of_region
        if drawn is None or layer is None or (chosen is not None and np.array_equal(chosen, drawn)):
            return
        self._of_region = None
        layer.data = []

    def colours(self) -> tuple[np.ndarray, tuple[float, float]]:
        """Return the colours (256, 4) uint8 that cells are painted in, and the limits of their values."""
        layer = self.layer("map")
        if layer is None:
            return np.zeros((1, 4), dtype=np.uint8), (0.0, 1.0)
        low, high = layer.contrast_limits
        table = layer.colormap.map(np.linspace(0, 1, 256))
        return (np.asarray(table) * 255).astype(np.uint8), (float(low), float(high))

    def _factor(self, layer: Any) -> np.ndarray:
        if not layer.multiscale:
            return np.ones(2)
        return np.asarray(layer.downsample_factors[layer.data_level][-2:], dtype=float)

    def _layers_changed(self, event: Any = None) -> None:
        """Find the study whose painted cells were added last; let go of one whose layers are gone."""
        maps = [layer for layer in self._viewer.layers if layer.metadata.get(ROLE) == "map"]
        if not maps:
            self.opened = None
            self._state.close()
            return
        added = getattr(event, "value", None)
        if hasattr(added, "metadata") and added is self.layer("marker", self._state.marker or ""):
            self._show_marker()  # it was asked for before it was there
        about = maps[-1].metadata
        if about[PAINT] is self.opened and about[STUDY] is self._state.study:
            return
        for layer in self._viewer.layers:  # of the slide that was there before
            if layer.metadata.get(STUDY) is about[STUDY] and layer.metadata.get(SLIDE) != about[SLIDE]:
                _show(layer, False)
        self._take_up(maps[-1])

    def _activated(self, event: Any = None) -> None:
        """Take up the study of a layer that the user turns to, where it is another."""
        layer = self._viewer.layers.selection.active
        about = {} if layer is None else layer.metadata
        if about.get(STUDY) is None or about[STUDY] is self._state.study or about.get(SLIDE) is None:
            return
        for one in reversed(self._viewer.layers):
            same = one.metadata.get(STUDY) is about[STUDY] and one.metadata.get(SLIDE) == about[SLIDE]
            if same and one.metadata.get(ROLE) == "map":
                self._take_up(one)
                return

    def _take_up(self, layer: Any) -> None:
        """Show the study and the slide of a painted layer."""
        about = layer.metadata
        self.opened, self._chosen = about[PAINT], None
        self._listen_to(layer)
        study = about[STUDY]
        self._state.open(study, about[SLIDE], about[PAINT].rows)
        if self._state.painted is None and study.n_features:
            marker, feature = strongest(study)
            self._opening = True  # its channel is shown already, beside the nuclei
            self._state.look_at(study.markers[marker] if study.maps else None)
            self._opening = False
            self._state.paint(Painted("feature", str(feature)))

    def _view_changed(self, event: Any = None) -> None:
        for call in self._of_view:
            call()

    def _colours_changed(self, event: Any = None) -> None:
        if self._painting:  # not the user: who listens to the state hears of it
            return
        for call in self._of_colours:
            call()

    def _listen_to(self, layer: Any) -> None:
        """Hear of changes to the colours of a painted layer, and of no other's."""
        if self._heard is not None:
            for event in (self._heard.events.contrast_limits, self._heard.events.colormap):
                event.disconnect(self._colours_changed)
        self._heard = layer
        if layer is not None:
            for event in (layer.events.contrast_limits, layer.events.colormap):
                event.connect(self._colours_changed)

    def _paint(self) -> None:
        layer, state = self.layer("map"), self._state
        if layer is None or self.opened is None or state.painted is None:
            return
        values = state.on_slide(state.values)
        self.opened.paint.set(values)
        self._painting = True
        if not _is_ours(layer.colormap):  # the user's choice, to come back to
            self._of_numbers = layer.colormap
        # Before the colours, which draw the thumbnail.
        layer.refresh(extent=False, thumbnail=False)
        if state.categories:
            layer.colormap = categorical_colormap(len(state.categories))
            layer.contrast_limits = (-0.5, max(len(state.categories), 2) - 0.5)
        elif state.painted.signed:
            layer.colormap = signed_colormap()
            layer.contrast_limits = (-1, 1)
        else:
            if _is_ours(layer.colormap):
                layer.colormap = self._of_numbers
            layer.contrast_limits = state.painted.limits or limits_of(values)
        self._painting = False

    def _show_marker(self) -> None:
        """Show the channel of the marker alone; without a marker leave the channels as they are."""
        wanted = self.layer("marker", self._state.marker) if self._state.marker else None
        if wanted is None or self._opening:
            return
        for layer in self._viewer.layers:
            about = layer.metadata
            if about.get(ROLE) == "marker" and about.get(STUDY) is self._state.study:
                _show(layer, layer is wanted)

    def prepare(self) -> None:
        """Add the layers for selections and marks before the first is asked for: napari takes its time for each."""
        if self.opened is not None:
            self._selection_layer()
            self._marks_layer()

    def _show_selection(self) -> None:
        state, layer = self._state, self.layer("selection")
        if self.opened is None or (state.selection is None and layer is None):
            return
        layer = layer if layer is not None else self._selection_layer()
        assert self._chosen is not None
        covered = np.full(len(state.here), np.float32(np.nan if state.selection is None else 1))
        if state.selection is not None:
            covered[state.selection] = np.nan
        self._chosen.set(state.on_slide(covered))
        if layer.visible or state.selection is None:
            layer.refresh(extent=False, thumbnail=False, highlight=False)
        else:  # it stays visible then: to hide it again takes napari longer than to draw nothing
            _show(layer, True)

    def _selection_layer(self) -> Any:
        """Return the layer that covers cells that are not chosen; it is added where it is not there."""
        assert self.opened is not None
        layer = self.layer("selection")
        if layer is not None and self._chosen is not None:
            return layer
        self._chosen = Paint(self.opened.paint.index)
        levels = [PaintedLevel(numbers, self._chosen) for numbers in self.opened.numbers]
        data = levels if len(levels) > 1 else levels[0]
        if layer is not None:  # of a study that was closed, and is shown again
            layer.data = data
            return layer
        return self._add(
            "add_image",
            data,
            name=SELECTION,
            multiscale=len(levels) > 1,
            colormap="gray_r",  # 1 is black
            contrast_limits=(0, 1),
            opacity=_DIM,
            interpolation2d="nearest",
            blending="translucent",
            visible=False,
            metadata={ROLE: "selection", STUDY: self._state.study, SLIDE: self._state.slide},
        )

    def _show_marks(self) -> None:
        state, layer = self._state, self.layer("marks")
        single = [row for row in (state.picked, state.hovered) if row is not None]
        rows = np.array([*state.marked, *single], dtype=np.int64)
        colors = [_MARKED] * len(state.marked) + [_PICKED if row == state.picked else _HOVERED for row in single]
        on_slide = state.here[rows]
        at = self._positions(rows[on_slide])
        if self.opened is None or (layer is None and not len(at)):
            return
        layer = layer if layer is not None else self._marks_layer()
        layer.data = at / np.asarray(layer.scale[-2:])
        colors = [color for color, here in zip(colors, on_slide, strict=True) if here]
        if colors and colors != self._colors:  # as the pointer moves, only the place changes
            layer.border_color = colors
        self._colors = colors
        if layer.selected_data:
            layer.selected_data = set()

    def _marks_layer(self) -> Any:
        """Return the layer of rings around cells; it is added where it is not there."""
        layer = self.layer("marks")
        if layer is None:
            self._colors = []
            layer = self._add(
                "add_points",
                np.zeros((0, 2)),
                ndim=2,
                name=MARKS,
                size=_MARK_UM / self.layer("map").scale[-1],
                face_color="transparent",
                border_width=0.12,
                metadata={ROLE: "marks", STUDY: self._state.study, SLIDE: self._state.slide},
            )
        return layer

    def _add(self, method: str, data: Any, **options: Any) -> Any:
        """Add a layer where the painted cells lie, and leave selected what is selected."""
        place = self.layer("map")
        with selection_kept(self._viewer):
            return getattr(self._viewer, method)(
                data, scale=place.scale[-2:], translate=place.translate[-2:], units=place.units[-2:], **options
            )

    def _positions(self, rows: np.ndarray) -> np.ndarray:
        """Return where cells lie in the world, (n, 2) as (y, x)."""
        place = self.layer("map")
        xy = self._state.study.xy_px if self._state.study else None
        if place is None or xy is None:
            return np.zeros((0, 2))
        return np.asarray(xy[rows][:, ::-1] * np.asarray(place.scale[-2:]) + np.asarray(place.translate[-2:]))

    def row_at(self, position: Any) -> int | None:
        """Return the row of the study of the cell at a position of the world, or None."""
        layer = self.layer("map")
        if layer is None or self.opened is None or self._viewer.dims.ndisplay != 2:
            return None
        y, x = layer.world_to_data(position)[-2:]
        row = self.opened.numbers[0].row_at(y, x)
        return None if row is None else int(self.opened.rows[row])

    def _moved(self, viewer: Any, event: Any) -> None:
        self._state.hover(self.row_at(event.position))

    def _pressed(self, viewer: Any, event: Any) -> Iterator[None]:
        """Pick the cell under a click; what is dragged is no click, and a shape that is drawn none either."""
        active = self._viewer.layers.selection.active
        drawing = active is not None and getattr(active, "mode", "pan_zoom") not in ("pan_zoom", "transform")
        dragged = False
        yield
        while event.type == "mouse_move":
            dragged = True
            yield
        if not dragged and not drawing and event.button == 1:
            self._state.pick(self.row_at(event.position))


_DONE = ("added", "changed", "removed")  # to a shape, as napari calls it
_PICKED, _HOVERED, _MARKED = "white", "yellow", "cyan"


def _show(layer: Any, visible: bool) -> None:
    if layer.visible != visible:  # napari draws all anew for each layer that is told, though it be no news
        layer.visible = visible


def _is_ours(colormap: Any) -> bool:
    # napari numbers the name of a colormap where it knows another of that name.
    return str(colormap.name).startswith((CATEGORIES, SIGNED))


def camera_of(viewer: Any) -> Any:
    """Return what says which part of the world is seen; napari moved it in 0.9."""
    return viewer.scene.camera if hasattr(viewer, "scene") else viewer.camera
