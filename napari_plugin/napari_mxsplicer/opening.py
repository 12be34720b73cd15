"""A result in a viewer with its panel: what `mxsplicer view` does, for scripts and notebooks."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import mxsplicer
from mxsplicer import InputError
from napari_mxsplicer.layers import MARKER, LayerData, join, layers_of, map_layer, open_slide
from napari_mxsplicer.study import Study, open_study
from napari_mxsplicer.views import label_levels

PANEL = "Marker-correlation map"


def open_in(
    viewer: Any,
    path: str | Path,
    *,
    slide: str | None = None,
    labels: str | Path | None = None,
    at_once: bool = True,
) -> Any:
    """Show a result, or an ``.h5ad`` over a label image, in a viewer of napari, and return the panel beside it.

    Parameters
    ----------
    viewer
        A ``napari.Viewer``.
    path
        Folder of a finished result, its ``mxsplicer.json``, or an AnnData file.
    slide
        Which slide of several; the first by default.
    labels
        Label image of the cells of an AnnData file, in whatever form :func:`mxsplicer.open_mask` takes.
    at_once
        Add a layer for every channel before returning. Otherwise a channel that is hidden at first becomes a layer when
        its marker is clicked, or all do by a button of the panel.

    Raises
    ------
    InputError
        If there is no such result or slide, its image was moved, or a label image is missing.

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
    elif labels is not None:
        tuples = _over_labels(study, name, labels)
    else:
        msg = f"{study.name} is a table without a picture: give its label image by --labels."
        raise InputError(msg)
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


def over_layer(path: str | Path, layer: Any) -> list[LayerData]:
    """Return the painted cells of an AnnData file over a layer of labels, joined by the ids of the cells.

    Raises
    ------
    InputError
        If the table has no ids, or none of them is in the label image.
    """
    study = open_study(path)
    levels = list(layer.data) if layer.multiscale else [layer.data]
    name = study.slide_names[0]
    if layer.name in study.slide_names:
        name = layer.name
    place = {"scale": layer.scale[-2:], "translate": layer.translate[-2:], "units": layer.units[-2:]}
    opened = join(study, name, [level if level.ndim == 2 else level[0] for level in levels])
    if not np.asarray(opened.numbers[-1][:, :]).any():
        msg = f"none of the {len(opened.rows):,} ids of {study.name} is in the labels {layer.name!r}; are they of it?"
        raise InputError(msg)
    return [map_layer(study, opened, place)]


def add(viewer: Any, tuples: list[LayerData]) -> None:
    """Add layers to a viewer."""
    adding = Adding(viewer, tuples)
    while adding.add_next():
        pass


class Adding:
    """Adds layers one after the other, first those that are seen; they lie in the order they are given in.

    napari takes up to a tenth of a second for each layer, and a slide may have forty.
    """

    def __init__(self, viewer: Any, tuples: list[LayerData], *, below: Any = None) -> None:
        self._viewer, self._tuples, self._below = viewer, tuples, below
        self._left = sorted(range(len(tuples)), key=lambda place: not _is_seen(tuples[place]))
        self._added: list[Any] = [None] * len(tuples)

    def add_seen(self) -> None:
        """Add those that are seen."""
        while self._left and _is_seen(self._tuples[self._left[0]]):
            self.add_next()

    def add_next(self) -> bool:
        """Add the next one, if there is one and the user has not removed the layers that were there; say whether."""
        layers, there = self._viewer.layers, [one for one in self._added if one is not None]
        if not self._left or any(one not in layers for one in there[-1:]):
            return False
        place = self._left.pop(0)
        above = next((one for one in [*self._added[place + 1 :], self._below] if one in layers), None)
        self._added[place] = insert(self._viewer, self._tuples[place], below=above)
        return True

    @property
    def left(self) -> list[LayerData]:
        """Those that are not added yet."""
        return [self._tuples[place] for place in self._left]


def insert(viewer: Any, one: LayerData, *, below: Any = None, selected: bool | None = None) -> Any:
    """Add a layer below another one or on top, and return it; by default it is selected where it is seen."""
    from napari.layers import Layer

    layers, added = viewer.layers, Layer.create(*one)
    place = len(layers) if below is None else layers.index(below)
    if selected is None:
        selected = _is_seen(one) or not layers.selection
    if selected:
        layers.insert(place, added)
    else:
        with selection_kept(viewer):
            layers.insert(place, added)
    return added


@contextmanager
def selection_kept(viewer: Any) -> Iterator[None]:
    """Leave the same layers selected after a layer is added, which napari selects.

    Nobody hears of a selection that comes and goes: to show the controls of one layer, and those of another again, is a
    quarter of what adding takes.
    """
    selection = viewer.layers.selection
    chosen = set(selection)
    with selection.events.blocker_all():
        yield
        selection.clear()
        selection.update(chosen)


def when_asked_for(tuples: list[LayerData]) -> tuple[list[LayerData], dict[str, LayerData]]:
    """Return the layers of a slide to begin with, and its other channels by marker, which can wait until asked for.

    napari looks at every layer whenever it draws, seen or not: each makes all others slower.
    """
    can_wait = [MARKER in one[1]["metadata"] and not _is_seen(one) for one in tuples]
    others = {one[1]["metadata"][MARKER]: one for one, later in zip(tuples, can_wait, strict=True) if later}
    return [one for one, later in zip(tuples, can_wait, strict=True) if not later], others


def as_before(tuples: list[LayerData], seen: Mapping[str, Any]) -> list[LayerData]:
    """Return the layers of a further slide, the same channels visible as of the one before, in the same colormaps.

    ``seen`` are the colormaps of the channels that are visible, by marker.
    """
    out = []
    for data, options, kind in tuples:
        marker = options["metadata"].get(MARKER)
        look = {} if marker is None else {"visible": marker in seen, "colormap": seen.get(marker, "gray")}
        out.append((data, options | look, kind))
    return out


def _is_seen(one: LayerData) -> bool:
    return bool(one[1].get("visible", True))


def _over_labels(study: Study, slide: str, labels: str | Path) -> list[LayerData]:
    levels = label_levels(mxsplicer.open_mask(labels))
    return [map_layer(study, join(study, slide, levels), {})]
