"""`mxsplicer segment`: a mask for a slide that has none."""

from pathlib import Path
from typing import Annotated

import typer

from mxsplicer import progress
from mxsplicer.cli.options import Expansion, Markers, NuclearMarker, NucleusDiameter, Overwrite, PixelSize, SlidePath


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(segment)


def segment(
    slide: SlidePath,
    out: Annotated[Path, typer.Argument(metavar="MASK.zarr", help="Mask to write.", show_default=False)],
    markers: Markers = None,
    pixel_size_um: PixelSize = None,
    nuclear_marker: NuclearMarker = None,
    nucleus_diameter_um: NucleusDiameter = 7.0,
    expansion_um: Expansion = 3.0,
    overwrite: Overwrite = False,
) -> None:
    """Find the nuclei of a slide, tile by tile, and grow them into cells."""
    from mxsplicer.slides import segmentation
    from mxsplicer.slides.readers import open_slide

    opened = open_slide(slide, markers=markers, pixel_size_um=pixel_size_um)
    with progress.shown():
        segmentation.segment(
            opened,
            out,
            nuclear_marker=nuclear_marker,
            nucleus_diameter_um=nucleus_diameter_um,
            expansion_um=expansion_um,
            overwrite=overwrite,
        )
    typer.echo(out)
