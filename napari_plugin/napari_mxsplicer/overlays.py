"""Layers over the painted cells: the selection, rings around single cells, and outlines that the user draws."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from napari_mxsplicer.lasso import rows_inside
from napari_mxsplicer.painting import Paint, PaintedLevel
from napari_mxsplicer.state import State
from napari_mxsplicer.viewer_layers import ViewerLayers, set_visible

SELECTION, MARKS, OUTLINE = "mxsplicer selection", "mxsplicer marked cells", "mxsplicer outline"
_DIM = 0.65  # opacity of the cover over cells that are not selected
_MARK_UM = 14.0  # diameter of the ring around a cell
_PICKED, _HOVERED, _MARKED = "white", "yellow", "cyan"
_FINISHED = ("added", "changed", "removed")  # napari's names for finished edits of a shape


class Run(Protocol):
    """How an overlay calls a function: at once or in a thread, with the result passed on."""

    def __call__(self, function: Callable[..., Any], *arguments: Any, done: Callable[[Any], Any]) -> Any:
        """Call ``function``, then ``done`` with its result."""


class SelectionOverlay:
    """Dims everything but the selected cells: the others, and the channels between them."""

    def __init__(self, layers: ViewerLayers, state: State) -> None:
        self._layers, self._state = layers, state
        self._cover: Paint | None = None  # 1 where it is dimmed, NaN elsewhere

    def reset(self) -> None:
        """Start again for another slide."""
        self._cover = None

    def show(self) -> None:
        """Show the selection of the state."""
        state, layer = self._state, self._layers.find("selection")
        if self._layers.opened is None or (state.selection is None and layer is None):
            return
        layer = self.prepare()
        assert self._cover is not None
        cover = np.full(len(state.is_on_slide), np.float32(np.nan if state.selection is None else 1))
        if state.selection is not None:
            cover[state.selection] = np.nan
        self._cover.set(state.on_slide(cover), background=None if state.selection is None else 1)
        layer.refresh(extent=False, thumbnail=False, highlight=False)
        if state.selection is not None:  # the user may have hidden it
            set_visible(layer, True)

    def prepare(self) -> Any:
        """Return the layer, added where it is missing."""
        opened, layer = self._layers.opened, self._layers.find("selection")
        assert opened is not None
        if layer is not None and self._cover is not None:
            return layer
        self._cover = Paint(opened.paint.index)
        levels = [PaintedLevel(numbers, self._cover) for numbers in opened.numbers]
        data = levels if len(levels) > 1 else levels[0]
        if layer is not None:  # from a study that was closed and is shown again
            layer.data = data
            return layer
        return self._layers.add(
            "add_image",
            data,
            role="selection",
            name=SELECTION,
            multiscale=len(levels) > 1,
            colormap="gray_r",  # 1 is black
            contrast_limits=(0, 1),
            opacity=_DIM,
            interpolation2d="nearest",
            blending="translucent",  # visible from the start: showing it takes napari longer than drawing it empty
        )


class CellMarks:
    """An overlay of rings around the picked cell, the hovered cell and the marked cells."""

    def __init__(self, layers: ViewerLayers, state: State) -> None:
        self._layers, self._state = layers, state
        self._colors: list[str] = []

    def show(self) -> None:
        """Draw rings around the cells of the state that lie on this slide."""
        state, layer = self._state, self._layers.find("marks")
        single = [row for row in (state.picked, state.hovered) if row is not None]
        rows = np.array([*state.marked, *single], dtype=np.int64)
        colors = [_MARKED] * len(state.marked) + [_PICKED if row == state.picked else _HOVERED for row in single]
        on_slide = state.is_on_slide[rows]
        at = self._layers.positions(rows[on_slide])
        if self._layers.opened is None or (layer is None and not len(at)):
            return
        layer = self.prepare()
        layer.data = at / np.asarray(layer.scale[-2:])
        colors = [color for color, here in zip(colors, on_slide, strict=True) if here]
        if colors and colors != self._colors:  # while the pointer moves, only the position changes
            layer.border_color = colors
        self._colors = colors
        if layer.selected_data:
            layer.selected_data = set()

    def prepare(self) -> Any:
        """Return the layer, added where it is missing."""
        layer = self._layers.find("marks")
        if layer is not None:
            return layer
        self._colors = []
        return self._layers.add(
            "add_points",
            np.zeros((0, 2)),
            role="marks",
            ndim=2,
            name=MARKS,
            size=_MARK_UM / self._layers.find("painted").scale[-1],
            face_color="transparent",
            border_width=0.12,
        )


class OutlineTool:
    """An overlay in which the user draws outlines; the cells inside them are selected."""

    def __init__(self, layers: ViewerLayers, state: State, run: Run) -> None:
        self._layers, self._state, self._run = layers, state, run
        self._rows: np.ndarray | None = None  # the cells inside the outlines

    def start(self) -> None:
        """Add a layer of shapes where it is missing, and switch it to drawing."""
        layer = self._layers.find("outline")
        if layer is None and self._layers.find("painted") is not None:
            layer = self._layers.add(
                "add_shapes",
                None,
                role="outline",
                name=OUTLINE,
                ndim=2,
                face_color="transparent",
                edge_color="yellow",
                edge_width=2,
            )
            layer.events.data.connect(self._drawn)
        if layer is not None:
            self._layers.viewer.layers.selection.active = layer
            layer.mode = "add_polygon_lasso"

    def clear_if_stale(self) -> None:
        """Remove the outlines if the selection is no longer the cells inside them."""
        layer, selection, rows = self._layers.find("outline"), self._state.selection, self._rows
        if rows is None or layer is None or (selection is not None and np.array_equal(selection, rows)):
            return
        self._rows = None
        layer.data = []

    def _drawn(self, event: Any) -> None:
        """Find the cells inside all outlines together."""
        layer, state = event.source, self._state
        xy = state.study.xy_px if state.study is not None else None
        if layer is not self._layers.find("outline") or xy is None or event.action not in _FINISHED:
            return
        if not len(layer.data) and event.action != "removed":
            return
        if event.action != "removed" and any(len(np.unique(corners, axis=0)) < 3 for corners in layer.data):
            return  # only the first corner of an outline that is being drawn
        rows, polygons = state.rows, [np.asarray(corners)[:, -2:][:, ::-1] for corners in layer.data]
        self._run(lambda: rows[rows_inside(xy[rows], polygons)], done=self._found)

    def _found(self, rows: np.ndarray) -> None:
        """Select the cells, and make the mouse move the image again."""
        layer = self._layers.find("outline")
        self._rows = rows
        self._state.select(rows)
        if layer is not None and layer.mode.startswith("add") and len(layer.data):
            layer.mode = "pan_zoom"
            self._layers.viewer.layers.selection.active = self._layers.find("painted")
