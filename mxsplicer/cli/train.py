"""`mxsplicer train`: an encoder from patches."""

from pathlib import Path
from typing import Annotated

import typer

from mxsplicer import progress
from mxsplicer.cli.options import (
    BatchSize,
    ChunkWidth,
    ComponentWidth,
    Device,
    Encoder,
    EncoderWidth,
    Epochs,
    LearningRate,
    LossName,
    Method,
    Overwrite,
    RedundancyWeight,
    Seed,
    Surroundings,
    ViewPlan,
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(train)


def train(
    stores: Annotated[
        list[Path], typer.Argument(metavar="PATCHES.zarr", help="Stores of one panel.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Run folder to write.", show_default=False)],
    method: Method = "splicer",
    loss: LossName = "vicreg",
    encoder: Encoder = "resnet18",
    encoder_width: EncoderWidth = 64,
    component_width: ComponentWidth = 8,
    chunk_width: ChunkWidth = 32,
    redundancy_weight: RedundancyWeight = 0.1,
    views: ViewPlan = "independent",
    surroundings: Surroundings = "hide",
    epochs: Epochs = None,
    batch_size: BatchSize = 256,
    learning_rate: LearningRate = 3e-3,
    seed: Seed = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Train an encoder on the patches of one or more slides. Interrupted, the same command goes on."""
    from mxsplicer.patches.store import PatchStore
    from mxsplicer.splicer import training
    from mxsplicer.splicer.views import plan_views

    with progress.shown():
        run = training.train(
            [PatchStore.open(path) for path in stores],
            out,
            method=method,
            loss=loss,
            encoder=encoder,
            encoder_width=encoder_width,
            component_width=component_width,
            chunk_width=chunk_width,
            redundancy_weight=redundancy_weight,
            views=plan_views(views),
            surroundings=surroundings,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            seed=seed,
            device=device,
            overwrite=overwrite,
        )
    typer.echo(f"{out}: {run.features} features per cell, {run.settings['steps']:,} steps")
