"""`mxsplicer status`: what is done, what runs, what failed, what is stale."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mxsplicer.cli.options import AsJson, register


def add_status(app: typer.Typer) -> None:
    """Add the command `mxsplicer status`."""
    register(app, status_command)


def status_command(
    folder: Annotated[
        Path, typer.Argument(metavar="RESULT", help="Result folder, or the folder of a workflow.", show_default=False)
    ],
    as_json: AsJson = False,
) -> None:
    """Show what is done in a folder, what runs, what failed and why, and what is stale."""
    from mxsplicer.result.status import status_of

    found = status_of(folder)
    typer.echo(json.dumps(asdict(found), indent=1, ensure_ascii=False) if as_json else found)
