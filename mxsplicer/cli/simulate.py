"""`mxsplicer simulate`: a tissue whose truth is known."""

from pathlib import Path
from typing import Annotated

import typer

from mxsplicer.cli.options import Overwrite, Seed
from mxsplicer.system import progress


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(simulate)


def simulate(
    path: Annotated[Path, typer.Argument(metavar="SLIDE.ome.tiff", help="Image to write.", show_default=False)],
    size_px: Annotated[int, typer.Option("--size-px", help="Height and width of the slide.")] = 2048,
    seed: Seed = 0,
    slide_number: Annotated[int, typer.Option(help="Which slide of the cohort that the seed stands for.")] = 0,
    pixel_size_um: Annotated[float, typer.Option("--pixel-size-um", help="Micrometres per pixel.")] = 0.5,
    overwrite: Overwrite = False,
) -> None:
    """Make a multiplex slide of simulated tissue, with its mask and the truth of every cell beside it."""
    from mxsplicer.simulation import simulate_slide

    with progress.shown():
        made = simulate_slide(
            path,
            size_px=size_px,
            seed=seed,
            slide_number=slide_number,
            pixel_size_um=pixel_size_um,
            overwrite=overwrite,
        )
    for file in (made.image, made.mask, made.truth):
        typer.echo(file)
