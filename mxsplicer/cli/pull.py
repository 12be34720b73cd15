"""`mxsplicer pull`: a trained model from the Hugging Face hub."""

from pathlib import Path
from typing import Annotated

import typer

from mxsplicer.cli.options import EncoderClass, Overwrite, register
from mxsplicer.cli.outputs import Output


def add_pull(app: typer.Typer) -> None:
    """Add the command `mxsplicer pull`."""
    register(app, pull_command)


def pull_command(
    repository: Annotated[str, typer.Argument(metavar="USER/NAME", help="Repository of the hub.", show_default=False)],
    out: Annotated[Path, typer.Option(metavar="RUN", help="Run folder to write.", show_default=False)],
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit; the newest by default.", show_default=False)
    ] = None,
    overwrite: Overwrite = False,
    encoder_class: EncoderClass = "",
) -> None:
    """Download a trained model from the Hugging Face hub, for `embed --model`. It is checked, and no code is run."""
    output = Output(out)
    if output.is_complete(overwrite=overwrite):
        return
    from mxsplicer.splicer import hub

    run = hub.pull(repository, out, revision=revision, overwrite=overwrite, encoder=encoder_class)
    output.record()
    typer.echo(f"{out}: {len(run.markers)} markers, {run.features} features per cell, trained by {run.method}")
