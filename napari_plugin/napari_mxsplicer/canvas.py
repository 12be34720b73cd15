"""The link between the state and napari: the state is painted into layers, and mouse events change the state.

Layers from elsewhere are never touched. A viewer without a window works, too.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mxsplicer import find_nuclear_marker
from napari_mxsplicer.layers import PAINT, ROLE, SLIDE, STUDY, OpenedSlide, first_painted, limits_of, limits_of_codes
from napari_mxsplicer.overlays import CellMarks, OutlineTool, Run, SelectionOverlay
from napari_mxsplicer.palettes import CATEGORIES, SIGNED, categorical_colormap, signed_colormap
from napari_mxsplicer.state import State
from napari_mxsplicer.viewer_layers import ViewerLayers, set_visible, show_scale_bar


def run_now(function: Callable[..., Any], *arguments: Any, done: Callable[[Any], Any]) -> Any:
    """Call a function of the canvas at once, and ``done`` with its result."""
    return done(function(*arguments))


_CLOSE = 2.5  # pixels of the screen for a micrometre


class Canvas:
    """Connect a viewer and a state until :meth:`disconnect`."""

    def __init__(self, viewer: Any, state: State, *, run: Run = run_now) -> None:
        """Listen to both; slow work is passed to ``run``."""
        self._viewer, self._state = viewer, state
        self._layers = ViewerLayers(viewer, state)
        self._selection = SelectionOverlay(self._layers, state)
        self._marks = CellMarks(self._layers, state)
        self._outline = OutlineTool(self._layers, state, run)
        self.layer, self.visible_channels = self._layers.find, self._layers.visible_channels
        self.set_channels, self.last_channels = self._layers.set_channels, dict[str, Any]()  # those visible before
        self.draw_outline = self._outline.start
        self._connected_layer: Any = None  # whose colours are listened to
        self._numeric_colormap: Any = "viridis"  # restored after categories were painted
        self._is_painting = self._is_opening = self._has_scale_bar = False
        self._shown_marker: str | None = None
        self._on_view: list[Callable[[], Any]] = []
        self._on_colours: list[Callable[[], Any]] = []
        self._connect()

    def _connect(self) -> None:
        viewer, state = self._viewer, self._state
        viewer.layers.events.inserted.connect(self._layers_changed)
        viewer.layers.events.removed.connect(self._layers_changed)
        viewer.layers.selection.events.active.connect(self._activated)
        viewer.mouse_move_callbacks.append(self._moved)
        viewer.mouse_drag_callbacks.append(self._pressed)
        state.painted_changed.connect(self._paint)
        state.marker_changed.connect(self._show_marker)
        state.selection_changed.connect(self._selection.show)
        state.selection_changed.connect(self._outline.clear_if_stale)
        for signal in (state.picked_changed, state.hovered_changed, state.marked_changed):
            signal.connect(self._marks.show)
        camera_of(viewer).events.connect(self._view_changed)

    def disconnect(self) -> None:
        """Stop listening to the viewer, which stays as it is."""
        camera_of(self._viewer).events.disconnect(self._view_changed)
        self._listen_to_colours(None)
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

    @property
    def opened(self) -> OpenedSlide | None:
        """The slide on the canvas."""
        return self._layers.opened

    def open_existing(self) -> None:
        """Open the study whose layers are in the viewer already."""
        self._layers_changed()

    def on_view_changed(self, call: Callable[[], Any]) -> None:
        """Call a function when the camera moves."""
        self._on_view.append(call)

    def on_colours_changed(self, call: Callable[[], Any]) -> None:
        """Call a function when the user changes the colormap or the contrast of the painted cells."""
        self._on_colours.append(call)

    def prepare(self) -> None:
        """Add the layers of the selection and the marks before they are needed: napari takes long to add each."""
        if self.opened is not None:
            self._selection.prepare()
            self._marks.prepare()

    def show_slide(self, name: str) -> bool:
        """Show a slide that has layers and hide the other slides of the study; return False if it has no layers."""
        study = self._state.study
        layers = [one for one in self._viewer.layers if one.metadata.get(STUDY) is study and study is not None]
        painted = [one for one in layers if one.metadata.get(SLIDE) == name and one.metadata.get(ROLE) == "painted"]
        if painted:
            for layer in layers:
                set_visible(layer, layer is painted[-1])
            self._open_slide_of(painted[-1])
            self._state.marker_changed.emit()
        return bool(painted)

    def remember_channels(self) -> None:
        """Keep the channels that are visible now as the last ones."""
        self.last_channels = self.visible_channels() or self.last_channels

    def centre_on(self, row: int) -> None:
        """Move a cell to the middle of the canvas."""
        at = self._layers.positions(np.array([row]))
        if len(at):
            camera_of(self._viewer).center = tuple(at[0])

    def show_closely(self, row: int) -> None:
        """Move a cell to the middle of the canvas, and zoom in where cells would be too small to see."""
        self.centre_on(row)
        camera = camera_of(self._viewer)
        camera.zoom = max(camera.zoom, _CLOSE)

    def find_in_view(self) -> Callable[[], np.ndarray]:
        """Return a function that finds the rows of the cells in the current field of view."""
        layer, rows = self.layer("painted"), self._state.rows
        xy = self._state.study.xy_px if self._state.study else None
        if layer is None or xy is None:
            return lambda: rows
        (top, left), (bottom, right) = np.asarray(layer.corner_pixels)[:, -2:] * _downsampling(layer)

        def find() -> np.ndarray:
            x, y = xy[rows].T
            return np.asarray(rows[(x >= left) & (x <= right) & (y >= top) & (y <= bottom)])

        return find

    def colours(self) -> tuple[np.ndarray, tuple[float, float]]:
        """Return the colours (256, 4) uint8 of the painted cells, and the limits of their values."""
        layer = self.layer("painted")
        if layer is None:
            return np.zeros((1, 4), dtype=np.uint8), (0.0, 1.0)
        low, high = layer.contrast_limits
        table = layer.colormap.map(np.linspace(0, 1, 256))
        return (np.asarray(table) * 255).astype(np.uint8), (float(low), float(high))

    def row_at(self, position: Any) -> int | None:
        """Return the row in the study of the cell at a world position, or None."""
        layer = self.layer("painted")
        if layer is None or self.opened is None or self._viewer.dims.ndisplay != 2:
            return None
        y, x = layer.world_to_data(position)[-2:]
        row = self.opened.numbers[0].row_at(y, x)
        return None if row is None else int(self.opened.rows[row])

    def _layers_changed(self, event: Any = None) -> None:
        """Open the study whose painted cells were added last; close a study whose layers were removed."""
        painted = [layer for layer in self._viewer.layers if layer.metadata.get(ROLE) == "painted"]
        if not painted:
            self._layers.opened = None
            self._state.close()
            return
        added = getattr(event, "value", None)
        if hasattr(added, "metadata") and added is self.layer("marker", self._state.marker or ""):
            self._show_marker()  # it was requested before it was added
        about = painted[-1].metadata
        if about[PAINT] is self.opened and about[STUDY] is self._state.study:
            return
        for layer in self._viewer.layers:  # of the slide shown before
            if layer.metadata.get(STUDY) is about[STUDY] and layer.metadata.get(SLIDE) != about[SLIDE]:
                set_visible(layer, False)
        self._open_slide_of(painted[-1])

    def _activated(self, event: Any = None) -> None:
        """Open the study of the layer that the user activates, if it is another one."""
        layer = self._viewer.layers.selection.active
        about = {} if layer is None else layer.metadata
        if about.get(STUDY) is None or about[STUDY] is self._state.study or about.get(SLIDE) is None:
            return
        for one in reversed(self._viewer.layers):
            same = one.metadata.get(STUDY) is about[STUDY] and one.metadata.get(SLIDE) == about[SLIDE]
            if same and one.metadata.get(ROLE) == "painted":
                self._open_slide_of(one)
                return

    def _open_slide_of(self, layer: Any) -> None:
        """Show the study and the slide of a painted layer."""
        about = layer.metadata
        self._layers.opened = about[PAINT]
        self._selection.reset()
        if not self._has_scale_bar:  # only once: the user may hide it
            show_scale_bar(self._viewer, layer)
            self._has_scale_bar = True
        self._listen_to_colours(layer)
        study = about[STUDY]
        self._state.open(study, about[SLIDE], about[PAINT].rows)
        first = first_painted(study)
        if self._state.painted is None and first is not None:
            if first.feature is not None and study.correlations:
                self._is_opening = True  # the channel is visible already, together with the nuclei
                self._state.show_marker(study.markers[study.strongest()[0]])
                self._is_opening = False
            self._state.paint(first)

    def _paint(self) -> None:
        layer, state = self.layer("painted"), self._state
        if layer is None or self.opened is None or state.painted is None:
            return
        values = state.on_slide(state.values)
        self.opened.paint.set(values)
        self._is_painting = True
        if not _is_ours(layer.colormap):  # chosen by the user: restored later
            self._numeric_colormap = layer.colormap
        # Before the colours change, since that redraws the thumbnail.
        layer.refresh(extent=False, thumbnail=False)
        if state.categories:
            layer.colormap = categorical_colormap(len(state.categories))
            layer.contrast_limits = limits_of_codes(len(state.categories))
        elif state.painted.signed:
            layer.colormap = signed_colormap()
            layer.contrast_limits = (-1, 1)
        else:
            if _is_ours(layer.colormap):
                layer.colormap = self._numeric_colormap
            layer.contrast_limits = state.painted.limits or limits_of(values)
        self._is_painting = False

    def _show_marker(self) -> None:
        """Show only the channel of the marker; if there is none any more, the nuclei instead of its channel."""
        before, marker, study = self._shown_marker, self._state.marker, self._state.study
        self._shown_marker = marker
        wanted = self.layer("marker", marker) if marker else None
        shown = self.layer("marker", before) if before and marker is None else None
        if not self._is_opening and (wanted is not None or shown is not None):
            self.remember_channels()
        if shown is not None and study is not None:
            set_visible(shown, False)
            nuclei = self.layer("marker", find_nuclear_marker(study.markers) or "")
            if nuclei is not None:
                set_visible(nuclei, True)
        if wanted is None or self._is_opening:
            return
        for layer in self._viewer.layers:
            about = layer.metadata
            if about.get(ROLE) == "marker" and about.get(STUDY) is self._state.study:
                set_visible(layer, layer is wanted)

    def _view_changed(self, event: Any = None) -> None:
        for call in self._on_view:
            call()

    def _colours_changed(self, event: Any = None) -> None:
        if self._is_painting:  # a change by the state, not by the user
            return
        for call in self._on_colours:
            call()

    def _listen_to_colours(self, layer: Any) -> None:
        """Listen to the colours of this painted layer and of no other."""
        if self._connected_layer is not None:
            for event in (self._connected_layer.events.contrast_limits, self._connected_layer.events.colormap):
                event.disconnect(self._colours_changed)
        self._connected_layer = layer
        if layer is not None:
            for event in (layer.events.contrast_limits, layer.events.colormap):
                event.connect(self._colours_changed)

    def _moved(self, viewer: Any, event: Any) -> None:
        self._state.hover(self.row_at(event.position))

    def _pressed(self, viewer: Any, event: Any) -> Iterator[None]:
        """Pick the cell under a click, unless the mouse was dragged or a shape is being drawn."""
        active = self._viewer.layers.selection.active
        drawing = active is not None and getattr(active, "mode", "pan_zoom") not in ("pan_zoom", "transform")
        dragged = False
        yield
        while event.type == "mouse_move":
            dragged = True
            yield
        if not dragged and not drawing and event.button == 1:
            self._state.pick(self.row_at(event.position))


def camera_of(viewer: Any) -> Any:
    """Return the camera of the canvas of a viewer, which napari 0.9 moved."""
    return viewer.scene.camera if hasattr(viewer, "scene") else viewer.camera


def _downsampling(layer: Any) -> np.ndarray:
    if not layer.multiscale:
        return np.ones(2)
    return np.asarray(layer.downsample_factors[layer.data_level][-2:], dtype=float)


def _is_ours(colormap: Any) -> bool:
    # napari appends a number to the name of a colormap if it knows another of that name.
    return str(colormap.name).startswith((CATEGORIES, SIGNED))
