"""`mxsplicer pull`: a trained model from the Hugging Face hub."""

from pathlib import Path
from typing import Annotated

import typer

from mxsplicer.cli.options import Overwrite, OwnEncoder


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(pull)


def pull(
    repository: Annotated[str, typer.Argument(metavar="USER/NAME", help="Repository of the hub.", show_default=False)],
    out: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder to write.", show_default=False)],
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit; the newest by default.", show_default=False)
    ] = None,
    overwrite: Overwrite = False,
    encoder: OwnEncoder = "",
) -> None:
    """Download a trained model from the Hugging Face hub, for `embed --model`. It is checked, and runs no code."""
    from mxsplicer.splicer import hub

    run = hub.pull(repository, out, revision=revision, overwrite=overwrite, encoder=encoder)
    typer.echo(f"{out}: {len(run.markers)} markers, {run.features} features per cell, trained by {run.method}")
