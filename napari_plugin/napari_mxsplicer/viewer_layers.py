"""The layers in a viewer that belong to the slide on the canvas: finding them, adding to them, and their positions."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from napari_mxsplicer.layers import MARKER, ROLE, SLIDE, STUDY, LayerData, OpenedSlide, is_visible
from napari_mxsplicer.state import State


class ViewerLayers:
    """The layers of one viewer that show the slide of a state; layers from elsewhere are never touched."""

    def __init__(self, viewer: Any, state: State) -> None:
        self.viewer, self._state = viewer, state
        self.opened: OpenedSlide | None = None  # the slide on the canvas

    def find(self, role: str, marker: str | None = None) -> Any:
        """Return the layer with this role for the slide on the canvas, or None."""
        for layer in self.viewer.layers:
            about = layer.metadata
            if about.get(ROLE) == role and self._is_of_slide(about) and (marker is None or about.get(MARKER) == marker):
                return layer
        return None

    def visible_channels(self) -> dict[str, Any]:
        """Return the colormaps of the channels of this slide that are visible, by marker."""
        return {
            layer.metadata[MARKER]: layer.colormap
            for layer in self.viewer.layers
            if layer.metadata.get(ROLE) == "marker" and layer.visible and self._is_of_slide(layer.metadata)
        }

    def set_channels(self, colormaps: dict[str, Any]) -> None:
        """Show the channels of these markers of this slide in these colormaps, and hide its other channels."""
        for layer in self.viewer.layers:
            about = layer.metadata
            if about.get(ROLE) == "marker" and self._is_of_slide(about):
                set_visible(layer, about[MARKER] in colormaps)
                if about[MARKER] in colormaps:
                    layer.colormap = colormaps[about[MARKER]]

    def add(self, method: str, data: Any, *, role: str, **options: Any) -> Any:
        """Add a layer aligned with the painted cells, by a method of the viewer, and keep the layer selection."""
        place = self.find("painted")
        with keep_layer_selection(self.viewer):
            return getattr(self.viewer, method)(
                data,
                scale=place.scale[-2:],
                translate=place.translate[-2:],
                units=place.units[-2:],
                metadata={ROLE: role, STUDY: self._state.study, SLIDE: self._state.slide},
                **options,
            )

    def positions(self, rows: np.ndarray) -> np.ndarray:
        """Return the world coordinates (n, 2), y then x, of cells by their rows."""
        place = self.find("painted")
        xy = self._state.study.xy_px if self._state.study else None
        if place is None or xy is None:
            return np.zeros((0, 2))
        return np.asarray(xy[rows][:, ::-1] * np.asarray(place.scale[-2:]) + np.asarray(place.translate[-2:]))

    def _is_of_slide(self, about: Any) -> bool:
        return about.get(STUDY) is self._state.study and about.get(SLIDE) == self._state.slide


def set_visible(layer: Any, visible: bool) -> None:
    """Show or hide a layer, if that changes anything: napari redraws even where nothing changes."""
    if layer.visible != visible:
        layer.visible = visible


def add(viewer: Any, tuples: list[LayerData]) -> None:
    """Add layers to a viewer."""
    queue = LayerQueue(viewer, tuples)
    while queue.add_next():
        pass


class LayerQueue:
    """Layers to add one at a time, visible ones first; in the viewer they have the order in which they were given.

    napari takes up to a tenth of a second per layer, and a slide may have forty.
    """

    def __init__(self, viewer: Any, tuples: list[LayerData], *, below: Any = None) -> None:
        self._viewer, self._tuples, self._below = viewer, tuples, below
        self._left = sorted(range(len(tuples)), key=lambda place: not is_visible(tuples[place]))
        self._added: list[Any] = [None] * len(tuples)

    def add_visible(self) -> None:
        """Add all visible layers."""
        while self._left and is_visible(self._tuples[self._left[0]]):
            self.add_next()

    def add_next(self) -> bool:
        """Add the next layer unless the user removed the previous ones; return whether a layer was added."""
        layers, added = self._viewer.layers, [one for one in self._added if one is not None]
        if not self._left or any(one not in layers for one in added[-1:]):
            return False
        place = self._left.pop(0)
        above = next((one for one in [*self._added[place + 1 :], self._below] if one in layers), None)
        self._added[place] = insert(self._viewer, self._tuples[place], below=above)
        return True

    @property
    def remaining(self) -> list[LayerData]:
        """The layers that are not added yet."""
        return [self._tuples[place] for place in self._left]


def insert(viewer: Any, one: LayerData, *, below: Any = None, selected: bool | None = None) -> Any:
    """Add a layer below another one or on top, and return it; by default it is selected if it is visible."""
    from napari.layers import Layer

    layers, added = viewer.layers, Layer.create(*one)
    place = len(layers) if below is None else layers.index(below)
    if selected is None:
        selected = is_visible(one) or not layers.selection
    if selected:
        layers.insert(place, added)
    else:
        with keep_layer_selection(viewer):
            layers.insert(place, added)
    return added


def show_scale_bar(viewer: Any, layer: Any) -> None:
    """Show napari's scale bar if a layer is in micrometres."""
    if str(layer.units[-1]) != "micrometer":
        return
    if hasattr(viewer, "canvas"):  # of napari 0.9 or newer
        viewer.canvas.overlays.scale_bar.visible = True
    else:
        viewer.scale_bar.unit = "um"
        viewer.scale_bar.visible = True


@contextmanager
def keep_layer_selection(viewer: Any) -> Iterator[None]:
    """Keep the selected layers selected while a layer is added, which napari would select.

    Events are blocked meanwhile: switching the layer controls back and forth takes a quarter of the time.
    """
    selection = viewer.layers.selection
    selected = set(selection)
    with selection.events.blocker_all():
        yield
        selection.clear()
        selection.update(selected)
