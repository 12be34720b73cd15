"""Add the layers of a slide: visible ones at once, hidden channels when they are needed."""

from typing import Any

from qtpy.QtWidgets import QPushButton, QWidget

from napari_mxsplicer.canvas import Canvas
from napari_mxsplicer.layers import MARKER, SLIDE, LayerData, is_visible
from napari_mxsplicer.state import State
from napari_mxsplicer.study import Study
from napari_mxsplicer.viewer_layers import LayerQueue, insert
from napari_mxsplicer.widgets.base import button
from napari_mxsplicer.widgets.work import Debounced


class ChannelLoader:
    """Adds the layers of slides to a viewer, one at a time while the viewer stays responsive."""

    def __init__(self, parent: QWidget, viewer: Any, state: State, canvas: Canvas) -> None:
        self._viewer, self._state, self._canvas = viewer, state, canvas
        self._queue: LayerQueue | None = None
        self._study: Study | None = None
        self._hidden: dict[str, dict[str, LayerData]] = {}  # channels that are not added yet, by slide and marker
        self._next = Debounced(parent, 0, self._add_next)
        self.button: QPushButton = button(
            "All channels", "Add a layer for every marker; clicking a marker adds only its own", self.add_all
        )

    def add_layers(self, tuples: list[LayerData], *, at_once: bool = False) -> None:
        """Add the layers of a slide: the visible ones now, hidden channels on demand, or all of them ``at_once``."""
        for one in self._queue.remaining if self._queue is not None else []:  # of a slide that was left early
            about = one[1]["metadata"]
            if MARKER in about:
                self._hidden.setdefault(about[SLIDE], {})[about[MARKER]] = one
        now, hidden = (tuples, {}) if at_once else split_hidden_channels(tuples)
        self._queue = LayerQueue(self._viewer, now)
        self._queue.add_visible()
        if hidden and self._state.slide is not None:
            self._hidden[self._state.slide] = hidden
        if at_once:
            while self._queue.add_next():
                pass
        self._next.start()
        self.add_channel()

    def add_channel(self) -> None:
        """Add the channel of the current marker if it is hidden."""
        found = self._hidden.get(self._state.slide or "", {}).pop(self._state.marker or "", None)
        if found is not None:
            data, options, kind = found
            visible = (data, options | {"visible": True}, kind)
            insert(self._viewer, visible, below=self._layer_above_channels(), selected=False)
        self.update_button()

    def show_channels(self, colormaps: dict[str, Any]) -> None:
        """Show the channels of these markers in these colormaps, added where they are missing, and hide the others."""
        hidden = self._hidden.get(self._state.slide or "", {})
        for marker in [one for one in colormaps if one in hidden]:
            insert(self._viewer, hidden.pop(marker), below=self._layer_above_channels(), selected=False)
        self._canvas.set_channels(colormaps)
        self.update_button()

    def add_all(self) -> None:
        """Add the hidden channels of the slide, one after the other."""
        hidden = self._hidden.pop(self._state.slide or "", {})
        self._queue = LayerQueue(self._viewer, list(hidden.values()), below=self._layer_above_channels())
        self._next.start()
        self.update_button()

    def study_changed(self) -> None:
        """Forget the hidden channels of another study."""
        if self._state.study is not self._study:
            self._study, self._hidden = self._state.study, {}
        self.update_button()

    def update_button(self) -> None:
        """Enable the button if the slide has hidden channels; hiding it would move the menu next to it."""
        self.button.setEnabled(bool(self._hidden.get(self._state.slide or "")))

    def _add_next(self) -> None:
        if self._queue is not None and self._queue.add_next():
            self._next.start()

    def _layer_above_channels(self) -> Any:
        return self._canvas.layer("cells") or self._canvas.layer("painted")


def split_hidden_channels(tuples: list[LayerData]) -> tuple[list[LayerData], dict[str, LayerData]]:
    """Split the layers of a slide into those to add now and the hidden channels by marker, to add on demand.

    napari visits every layer whenever it draws, visible or not: each slows down all others.
    """
    hidden = {one[1]["metadata"][MARKER]: one for one in tuples if MARKER in one[1]["metadata"] and not is_visible(one)}
    return [one for one in tuples if not any(one is other for other in hidden.values())], hidden
