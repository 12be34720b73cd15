"""`mxsplicer segment`: a mask for a slide that has none."""

from pathlib import Path
from typing import Annotated

import typer

from mxsplicer.cli.options import (
    CELLS,
    Dask,
    Drop,
    Expansion,
    Markers,
    MaxMemory,
    MembraneMarker,
    NuclearMarker,
    NucleusDiameter,
    Overwrite,
    PixelSize,
    Rename,
    Roi,
    SegmenterName,
    SlidePath,
    Workers,
)
from mxsplicer.segmentation import EXPANSION_UM, NUCLEUS_DIAMETER_UM
from mxsplicer.system import progress


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(segment)


def segment(
    slide: SlidePath,
    out: Annotated[Path, typer.Argument(metavar="MASK.zarr", help="Mask to write.", show_default=False)],
    markers: Markers = None,
    rename: Rename = None,
    drop: Drop = None,
    pixel_size_um: PixelSize = None,
    segmenter: SegmenterName = None,
    nuclear_marker: NuclearMarker = None,
    membrane_marker: MembraneMarker = None,
    nucleus_diameter_um: NucleusDiameter = NUCLEUS_DIAMETER_UM,
    expansion_um: Expansion = EXPANSION_UM,
    nuclei: Annotated[
        Path | None,
        typer.Option(
            metavar="NUCLEI.zarr",
            help="Write the mask of the nuclei too, each with the number of its cell.",
            show_default=False,
            rich_help_panel=CELLS,
        ),
    ] = None,
    roi: Roi = None,
    workers: Workers = None,
    dask: Dask = None,
    max_memory: MaxMemory = None,
    overwrite: Overwrite = False,
) -> None:
    """Find the nuclei of a slide, tile by tile, and grow them into cells."""
    from mxsplicer.images.markers import parse_renames
    from mxsplicer.images.readers import open_slide
    from mxsplicer.result.outcomes import record_output
    from mxsplicer.segmentation import segment as segmentation
    from mxsplicer.system.memory import parse_bytes

    opened = open_slide(
        slide, markers=markers, rename=parse_renames(rename or []), drop=drop or [], pixel_size_um=pixel_size_um
    )
    with progress.shown():
        segmentation.segment(
            opened,
            out,
            segmenter=segmenter,
            nuclear_marker=nuclear_marker,
            membrane_marker=membrane_marker,
            nucleus_diameter_um=nucleus_diameter_um,
            expansion_um=expansion_um,
            nuclei_path=nuclei,
            roi=roi,
            workers=workers,
            executor=dask or "threads",
            max_bytes=None if max_memory is None else parse_bytes(max_memory),
            overwrite=overwrite,
        )
    record_output(out)
    typer.echo(out)
