"""`mxsplicer report`: the page of a result."""

from pathlib import Path
from typing import Annotated

import typer

from mxsplicer.cli.options import Overwrite, Roi


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(report)


def report(
    result: Annotated[Path, typer.Argument(metavar="RESULT", help="Folder that embed wrote.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PAGE.html",
            help="Page to write; report.html in the result by default, report_tumour.html with --roi tumour.geojson.",
            show_default=False,
        ),
    ] = None,
    roi: Roi = None,
    overwrite: Overwrite = False,
) -> None:
    """Write the page of a result folder from what lies in it."""
    from mxsplicer.result.reporting import write_result_report

    typer.echo(write_result_report(result, out=out, roi=roi, overwrite=overwrite))
