"""`mxsplicer push`: a trained model to the Hugging Face hub."""

from pathlib import Path
from typing import Annotated

import typer

from mxsplicer.cli.options import OwnEncoder


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(push)


def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, or a result.", show_default=False)],
    repository: Annotated[
        str, typer.Argument(metavar="USER/NAME", help="Repository of the hub; made if need be.", show_default=False)
    ],
    public: Annotated[
        bool, typer.Option("--public", help="Make a new repository visible to everyone, not to you alone.")
    ] = False,
    encoder: OwnEncoder = "",
) -> None:
    """Upload a trained model to the Hugging Face hub. Its model card names the slides it was trained on."""
    from mxsplicer.splicer import hub

    hub.push(run, repository, public=public, encoder=encoder)
    typer.echo(f"{run}: uploaded to {repository}")
