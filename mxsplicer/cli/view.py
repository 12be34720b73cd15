"""`mxsplicer view`: a result in napari."""

import gc
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from mxsplicer.errors import InputError

_PATIENCE_MS = 5_000
_SCREENS = ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(view)


def view(
    result: Annotated[
        Path, typer.Argument(metavar="RESULT", help="Folder that embed wrote, or an .h5ad.", show_default=False)
    ],
    slide: Annotated[
        str | None, typer.Option(help="Slide to show, of a result of several.", show_default=False)
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Label image of an .h5ad that is no result.", show_default=False)
    ] = None,
) -> None:
    """Open a result in napari, beside the map of which feature follows which marker."""
    try:
        import napari
        import pyqtgraph  # noqa: F401
        import qtpy.QtWidgets  # noqa: F401
    except (ImportError, RuntimeError) as error:  # qtpy's own errors where there is no Qt are of both kinds
        msg = f"the viewer is not installed ({error}). Install it by: pip install 'mxsplicer[gui]'."
        raise InputError(msg) from error
    if sys.platform == "linux" and not any(os.environ.get(name) for name in _SCREENS):  # Qt would end the process
        msg = "there is no screen here (DISPLAY is not set). Log in with `ssh -X`, or copy the result to your computer."
        raise InputError(msg)
    from napari_mxsplicer.opening import open_in
    from qtpy.QtCore import QThreadPool

    viewer = napari.Viewer(title=f"{result.name} - mxsplicer", show=False)
    try:
        open_in(viewer, result, slide=slide, labels=labels, at_once=False)
    except InputError:
        viewer.close()
        raise
    viewer.show()
    gc.freeze()  # to look for garbage among all that was imported holds the window for 0.2 s at a time
    napari.run()
    QThreadPool.globalInstance().waitForDone(_PATIENCE_MS)  # what still runs would end in a traceback without Qt
