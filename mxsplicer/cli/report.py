"""`mxsplicer report`: the HTML report of a result."""

from pathlib import Path
from typing import Annotated

import typer

from mxsplicer.cli.options import Overwrite, register
from mxsplicer.cli.outputs import Output
from mxsplicer.result.folder import Result


def add_report(app: typer.Typer) -> None:
    """Add the command `mxsplicer report`."""
    register(app, report_command)


def report_command(
    result: Annotated[Path, typer.Argument(metavar="RESULT", help="Folder that embed wrote.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PAGE.html",
            help="Page to write; report.html in the result by default, report_tumour.html with --roi tumour.geojson.",
            show_default=False,
        ),
    ] = None,
    *,
    roi: Path | None,
    overwrite: Overwrite = False,
) -> None:
    """Write the HTML report of a finished result."""
    found = Result(result)
    output = Output(out or (found.report if roi is None else found.report_of(roi)))
    if output.is_complete(overwrite=overwrite):
        return
    if output.path == found.report and not overwrite and _is_newer(found.report, found.cells):  # embed wrote it
        typer.echo(f"{output.path} is complete")
        return
    from mxsplicer.result.reporting import write_result_report

    typer.echo(write_result_report(result, out=output.path, roi=roi, overwrite=overwrite))
    output.record()


def _is_newer(page: Path, cells: Path) -> bool:
    return page.is_file() and cells.is_file() and page.stat().st_mtime >= cells.stat().st_mtime
