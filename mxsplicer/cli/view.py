"""`mxsplicer view`: open a result in napari."""

import gc
import os
import re
import socket
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mxsplicer.cli.options import register
from mxsplicer.errors import InputError

_PATIENCE_MS = 5_000
_SCREENS = ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")


def add_view(app: typer.Typer) -> None:
    """Add the command `mxsplicer view`."""
    register(app, view_command)


def view_command(
    result: Annotated[
        Path, typer.Argument(metavar="RESULT", help="Folder that embed wrote, or an .h5ad.", show_default=False)
    ],
    slide: Annotated[
        str | None, typer.Option(help="Slide to show, where the result has several.", show_default=False)
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="Label image of an .h5ad that is not part of a result.", show_default=False)
    ] = None,
) -> None:
    """Open a result in napari, with a panel to name clusters and cells, and to explore features and markers."""
    from napari_mxsplicer.opening import add_to, read_layers

    layers = read_layers(result, slide=slide, mask=mask)  # before napari, which takes seconds to start
    _check_viewer()
    import napari
    from qtpy.QtCore import QThreadPool

    viewer = napari.Viewer(title=f"{result.name} - mxsplicer", show=False)
    add_to(viewer, layers)
    viewer.show()
    gc.freeze()  # to look for garbage among all that was imported holds the window for 0.2 s at a time
    napari.run()
    QThreadPool.globalInstance().waitForDone(_PATIENCE_MS)  # what still runs would end in a traceback without Qt


def _check_viewer() -> None:
    """Raise if the viewer of `mxsplicer view` is not installed or has no screen."""
    try:
        import napari  # noqa: F401
        import pyqtgraph  # noqa: F401
        import qtpy.QtWidgets  # noqa: F401
    except (ImportError, RuntimeError) as error:  # qtpy raises errors of both kinds where Qt is missing
        msg = f"The viewer is not installed ({error})."
        raise InputError(msg, "Install it with: pip install 'mxsplicer[gui]'.") from error
    if sys.platform == "linux" and not any(os.environ.get(name) for name in _SCREENS):  # Qt would end the process
        msg = "No screen found (DISPLAY is not set)."
        raise InputError(msg, "Log in with `ssh -X`, or copy the result to your computer.")
    display = os.environ.get("DISPLAY", "")
    needs_x = not os.environ.get("WAYLAND_DISPLAY") and not os.environ.get("QT_QPA_PLATFORM")
    if sys.platform == "linux" and needs_x and not _answers(display):
        msg = f"The screen {display!r} (DISPLAY) does not answer: it was closed, or belongs to an earlier login."
        raise InputError(msg, "Log in again with `ssh -X`, or copy the result to your computer.")


def _answers(display: str) -> bool:
    """Return whether there is a screen to view on: an X server at a display such as ``:0`` or ``localhost:10.0``."""
    found = re.fullmatch(r"(?:unix)?(.*):(\d+)(?:\.\d+)?", display)
    if found is None:
        return True  # Qt knows better
    host, number = found[1], int(found[2])
    local = f"/tmp/.X11-unix/X{number}"
    places: list[tuple[socket.AddressFamily, Any]] = [(socket.AF_UNIX, local), (socket.AF_UNIX, f"\0{local}")]
    if host:
        places = [(socket.AF_INET, (host, 6000 + number)), (socket.AF_INET6, (host, 6000 + number))]
    for family, place in places:
        with socket.socket(family) as connection:
            connection.settimeout(_PATIENCE_MS / 1000)
            try:
                connection.connect(place)
            except OSError:
                continue
            return True
    return False
