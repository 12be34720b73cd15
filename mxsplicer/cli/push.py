"""`mxsplicer push`: a trained model to the Hugging Face hub."""

from pathlib import Path
from typing import Annotated

import typer

from mxsplicer.cli.options import EncoderClass, register


def add_push(app: typer.Typer) -> None:
    """Add the command `mxsplicer push`."""
    register(app, push_command)


def push_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, or a result.", show_default=False)],
    repository: Annotated[
        str, typer.Argument(metavar="USER/NAME", help="Repository of the hub; created if needed.", show_default=False)
    ],
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public; private by default.")] = False,
    encoder_class: EncoderClass = "",
) -> None:
    """Upload a trained model to the Hugging Face hub. Its model card names the slides it was trained on."""
    from mxsplicer.splicer import hub

    hub.push(run, repository, public=public, encoder=encoder_class)
    typer.echo(f"{run}: uploaded to {repository}")
