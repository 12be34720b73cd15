"""`mxsplicer simulate`: a synthetic tissue with known truth."""

from pathlib import Path
from typing import Annotated

import typer

from mxsplicer.cli.options import Overwrite, Seed, register
from mxsplicer.cli.outputs import Output
from mxsplicer.system import progress


def add_simulate(app: typer.Typer) -> None:
    """Add the command `mxsplicer simulate`."""
    register(app, simulate_command)


def simulate_command(
    out: Annotated[Path, typer.Option(metavar="SLIDE.ome.tiff", help="Image to write.", show_default=False)],
    size_px: Annotated[int, typer.Option("--size-px", help="Height and width of the slide.")] = 2048,
    seed: Seed = 0,
    slide_number: Annotated[int, typer.Option(help="Number of the slide in the cohort of this seed.")] = 0,
    pixel_size_um: Annotated[float, typer.Option("--pixel-size-um", help="Micrometres per pixel.")] = 0.5,
    panel: Annotated[
        str, typer.Option(help="orion-crc, or arrangements: states that only the arrangement shows.")
    ] = "orion-crc",
    overwrite: Overwrite = False,
) -> None:
    """Simulate a multiplex slide, and write its mask and the true type of every cell next to it."""
    stem = out.name.partition(".ome.tif")[0]
    output = Output(out, also=[out.with_name(f"{stem}_truth.csv")])
    if output.is_complete(overwrite=overwrite):
        return
    from mxsplicer.simulation import simulate_slide

    with progress.shown():
        made = simulate_slide(
            out,
            size_px=size_px,
            seed=seed,
            slide_number=slide_number,
            pixel_size_um=pixel_size_um,
            panel=panel,
            overwrite=overwrite,
        )
    output.record()
    for file in (made.image, made.mask, made.truth):
        typer.echo(file)
