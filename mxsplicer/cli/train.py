"""`mxsplicer train`: an encoder from patches."""

from pathlib import Path
from typing import Annotated

import typer

from mxsplicer import progress
from mxsplicer.cli.options import Device, Overwrite, takes_recipe
from mxsplicer.splicer.recipe import Recipe


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(takes_recipe(train))


def train(
    stores: Annotated[
        list[Path], typer.Argument(metavar="PATCHES.zarr", help="Stores of one panel.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Run folder to write.", show_default=False)],
    *,
    recipe: Recipe,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Train an encoder on the patches of one or more slides. Interrupted, the same command goes on."""
    from mxsplicer.patches.store import PatchStore
    from mxsplicer.splicer import training

    with progress.shown():
        run = training.train(
            [PatchStore.open(path) for path in stores],
            out,
            recipe=recipe,
            device=device,
            overwrite=overwrite,
        )
    typer.echo(f"{out}: {run.features} features per cell, {run.settings['steps']:,} steps")
