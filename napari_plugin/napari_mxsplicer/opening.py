"""Open a result in a viewer with the panel, as `mxsplicer view` does."""

from pathlib import Path
from typing import Any

import mxsplicer
from mxsplicer import InputError
from napari_mxsplicer.layers import LayerData, painted_over_mask, slide_layers
from napari_mxsplicer.study import open_study

PANEL = "Explore and name cells"


def read_layers(path: str | Path, *, slide: str | None = None, mask: str | Path | None = None) -> list[LayerData]:
    """Read what :func:`open_in` shows, without napari, so that errors come before a window does.

    Parameters
    ----------
    path, slide, mask
        As of :func:`open_in`.

    Raises
    ------
    InputError
        As :func:`open_in`.
    """
    study = open_study(path)
    name = slide or study.slide_names[0]
    if study.folder is not None:
        return slide_layers(study, name)
    if mask is None:
        msg = f"{study.name} is a table without an image."
        folder = mxsplicer.find_result(Path(path).parent)
        instead = "Pass" if folder is None else f"Open its result, {folder}, or pass"
        raise InputError(msg, f"{instead} its label image as `mask`.")
    return painted_over_mask(study, name, mask)


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
    return add_to(viewer, read_layers(path, slide=slide, mask=mask), at_once=at_once)


def add_to(viewer: Any, layers: list[LayerData], *, at_once: bool = False) -> Any:
    """Open the panel in a viewer, add the layers of :func:`read_layers` to it, and return the panel."""
    _, panel = viewer.window.add_plugin_dock_widget("mxsplicer", PANEL, tabify=False)
    panel.add_layers(layers, at_once=at_once)
    return panel
