"""Open a result in a viewer with the panel, as `mxsplicer view` does, and add layers without delays."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import mxsplicer
from mxsplicer import InputError
from napari_mxsplicer.layers import MARKER, LayerData, join, layers_of, open_slide, painted_layer
from napari_mxsplicer.lazy import label_levels
from napari_mxsplicer.study import Study, open_study

PANEL = "Marker correlations"


def open_in(
    viewer: Any,
    path: str | Path,
    *,
    slide: str | None = None,
    mask: str | Path | None = None,
    at_once: bool = True,
) -> Any:
    """Show a result, or an ``.h5ad`` with a label image, in a napari viewer, and return the panel.

    Parameters
    ----------
    viewer
        A ``napari.Viewer``.
    path
        Folder of a finished result, its ``mxsplicer.json``, or an AnnData file.
    slide
        Name of the slide to show; the first by default.
    mask
        Label image of the cells of an AnnData file, in any form that :func:`mxsplicer.open_mask` accepts.
    at_once
        Add a layer for every channel before returning. Otherwise a hidden channel is added when its marker is
        clicked, or all are by a button of the panel.

    Raises
    ------
    InputError
        If the result or slide does not exist, its image was moved, or the mask is missing.

    Examples
    --------
    >>> import napari  # doctest: +SKIP
    >>> viewer = napari.Viewer()  # doctest: +SKIP
    >>> panel = open_in(viewer, "slide.mxs")  # doctest: +SKIP
    """
    study = open_study(path)
    name = slide or study.slide_names[0]
    if study.folder is not None:
        tuples = slide_layers(study, name)
    elif mask is not None:
        tuples = _painted_over_mask(study, name, mask)
    else:
        msg = f"{study.name} is a table without an image."
        raise InputError(msg, "Pass its label image as `mask`.")
    _, panel = viewer.window.add_plugin_dock_widget("mxsplicer", PANEL, tabify=False)
    panel.add_layers(tuples, at_once=at_once)
    return panel


def result_layers(path: str | Path) -> list[LayerData]:
    """Return the layers of the first slide of a result."""
    study = open_study(path)
    return slide_layers(study, study.slide_names[0])


def slide_layers(study: Study, slide: str) -> list[LayerData]:
    """Return the layers of one slide of a result."""
    return layers_of(study, open_slide(study, slide))


def join_layer(path: str | Path, layer: Any) -> list[LayerData]:
    """Return the painted cells of an AnnData file for a labels layer, joined by the ids of the cells.

    Raises
    ------
    InputError
        If the table has no ids, or none of them occurs in the label image.
    """
    study = open_study(path)
    levels = list(layer.data) if layer.multiscale else [layer.data]
    name = study.slide_names[0]
    if layer.name in study.slide_names:
        name = layer.name
    place = {"scale": layer.scale[-2:], "translate": layer.translate[-2:], "units": layer.units[-2:]}
    opened = join(study, name, [level if level.ndim == 2 else level[0] for level in levels])
    if not np.asarray(opened.numbers[-1][:, :]).any():
        msg = f"none of the {len(opened.rows):,} cell ids of {study.name} occurs in the labels layer {layer.name!r}."
        raise InputError(msg, "Choose the label image of these cells.")
    return [painted_layer(study, opened, place)]


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
        self._left = sorted(range(len(tuples)), key=lambda place: not _is_visible(tuples[place]))
        self._added: list[Any] = [None] * len(tuples)

    def add_visible(self) -> None:
        """Add all visible layers."""
        while self._left and _is_visible(self._tuples[self._left[0]]):
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
        selected = _is_visible(one) or not layers.selection
    if selected:
        layers.insert(place, added)
    else:
        with keep_layer_selection(viewer):
            layers.insert(place, added)
    return added


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


def split_hidden_channels(tuples: list[LayerData]) -> tuple[list[LayerData], dict[str, LayerData]]:
    """Split the layers of a slide into those to add now and the hidden channels by marker, to add on demand.

    napari visits every layer whenever it draws, visible or not: each slows down all others.
    """
    hidden = {
        one[1]["metadata"][MARKER]: one for one in tuples if MARKER in one[1]["metadata"] and not _is_visible(one)
    }
    return [one for one in tuples if not any(one is other for other in hidden.values())], hidden


def keep_look(tuples: list[LayerData], colormaps: Mapping[str, Any]) -> list[LayerData]:
    """Return the layers of another slide with the same channels visible, in the same colormaps.

    ``colormaps`` are those of the visible channels, by marker.
    """
    out = []
    for data, options, kind in tuples:
        marker = options["metadata"].get(MARKER)
        look = {} if marker is None else {"visible": marker in colormaps, "colormap": colormaps.get(marker, "gray")}
        out.append((data, options | look, kind))
    return out


def _is_visible(one: LayerData) -> bool:
    return bool(one[1].get("visible", True))


def _painted_over_mask(study: Study, slide: str, mask: str | Path) -> list[LayerData]:
    levels = label_levels(mxsplicer.open_mask(mask))
    return [painted_layer(study, join(study, slide, levels), {})]
