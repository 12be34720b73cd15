"""Open a result in a viewer with the panel, as `mxsplicer view` does, and add layers without delays."""

from pathlib import Path
from typing import Any

import numpy as np

import mxsplicer
from mxsplicer import InputError
from napari_mxsplicer.layers import LayerData, join, layers_of, open_slide, painted_layer
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


def _painted_over_mask(study: Study, slide: str, mask: str | Path) -> list[LayerData]:
    levels = label_levels(mxsplicer.open_mask(mask))
    return [painted_layer(study, join(study, slide, levels), {})]
