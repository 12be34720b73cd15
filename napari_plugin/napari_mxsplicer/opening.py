"""Open a result in a viewer with the panel, as `mxsplicer view` does."""

from pathlib import Path
from typing import Any

from mxsplicer import InputError
from napari_mxsplicer.layers import (
    painted_over_mask,
    slide_layers,
)
from napari_mxsplicer.study import open_study

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
        tuples = painted_over_mask(study, name, mask)
    else:
        msg = f"{study.name} is a table without an image."
        raise InputError(msg, "Pass its label image as `mask`.")
    _, panel = viewer.window.add_plugin_dock_widget("mxsplicer", PANEL, tabify=False)
    panel.add_layers(tuples, at_once=at_once)
    return panel
