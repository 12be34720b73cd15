"""`mxsplicer report`: the page of a result."""

from pathlib import Path
from typing import Annotated

import typer

from mxsplicer.cli.options import Overwrite


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(report)


def report(
    result: Annotated[Path, typer.Argument(metavar="RESULT", help="Folder that embed wrote.", show_default=False)],
    overwrite: Overwrite = False,
) -> None:
    """Write report.html of a result folder from what lies in it."""
    from mxsplicer.pipeline import write_result_report

    typer.echo(write_result_report(result, overwrite=overwrite))
