"""`mxsplicer segment`: a mask for a slide that has none."""

from pathlib import Path
from typing import Annotated

import typer

from mxsplicer.cli.help_pages import CELLS
from mxsplicer.cli.options import Overwrite, SlidePath, register
from mxsplicer.cli.outputs import Output
from mxsplicer.system import progress

# Options of this command alone.
_NucleiOut = Annotated[
    Path | None,
    typer.Option(
        metavar="NUCLEI.zarr",
        help="Also write the mask of the nuclei, each with the id of its cell.",
        show_default=False,
        rich_help_panel=CELLS,
    ),
]


def add_segment(app: typer.Typer) -> None:
    """Add the command `mxsplicer segment`."""
    register(app, segment_command)


def segment_command(
    slide: SlidePath,
    out: Annotated[Path, typer.Option(metavar="MASK.zarr", help="Mask to write.", show_default=False)],
    *,
    markers: Path | None,
    rename: tuple[str, ...],
    drop: tuple[str, ...],
    pixel_size_um: float | None,
    image: str | None,
    segmenter: str | None,
    nuclear_marker: str | None,
    membrane_marker: str | None,
    nucleus_diameter_um: float,
    expansion_um: float,
    nuclei_out: _NucleiOut = None,
    roi: Path | None,
    workers: int | None,
    executor: str,
    max_memory: int | None,
    overwrite: Overwrite = False,
) -> None:
    """Find the nuclei of a slide, tile by tile, and grow them into cells."""
    output = Output(out, also=[nuclei_out] if nuclei_out else [])
    if output.is_complete(overwrite=overwrite):
        return
    from mxsplicer.images.markers import parse_renames
    from mxsplicer.images.opening import open_slide
    from mxsplicer.segmentation import segment as segmentation

    opened = open_slide(
        slide,
        markers=markers,
        rename=parse_renames(rename),
        drop=drop,
        pixel_size_um=pixel_size_um,
        image=image,
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
            nuclei_path=nuclei_out,
            roi=roi,
            workers=workers,
            executor=executor,
            max_bytes=max_memory,
            overwrite=overwrite,
        )
    output.record()
    typer.echo(out)
