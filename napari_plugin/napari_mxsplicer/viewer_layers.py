"""The layers in a viewer that belong to the slide on the canvas: finding them, adding to them, and their positions."""

from typing import Any

import numpy as np

from napari_mxsplicer.layers import MARKER, ROLE, SLIDE, STUDY, OpenedSlide
from napari_mxsplicer.opening import keep_layer_selection
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
