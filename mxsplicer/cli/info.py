"""`mxsplicer info`: what a slide is."""

import typer
from rich.console import Console
from rich.table import Table

from mxsplicer.cli.options import Markers, PixelSize, SlidePath


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(info)


def info(slide: SlidePath, markers: Markers = None, pixel_size_um: PixelSize = None) -> None:
    """Show the size, scale and markers of a slide without reading its pixels."""
    from mxsplicer.slides.panel import find_nuclear_marker
    from mxsplicer.slides.readers import open_slide

    opened = open_slide(slide, markers=markers, pixel_size_um=pixel_size_um)
    height, width = opened.shape_px
    um = opened.pixel_size_um
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("slide", opened.name)
    table.add_row(
        "image", f"{len(opened.markers)} channels, {height:,} x {width:,} pixels (Y, X), {opened.image.dtype}"
    )
    table.add_row("stored as", opened.storage)
    table.add_row(
        "levels", ", ".join(f"{one.shape[1]:,} x {one.shape[2]:,}" for one in (opened.image, *opened.pyramid))
    )
    table.add_row("pixel size", f"{um:g} µm ({opened.pixel_size_from})")
    table.add_row("tissue field", f"{height * um / 1000:.2f} x {width * um / 1000:.2f} mm")
    table.add_row("markers", f"{', '.join(opened.markers)} ({opened.markers_from})")
    table.add_row(
        "nuclear marker", find_nuclear_marker(opened.markers) or "none known; give --nuclear-marker or --mask"
    )
    Console(highlight=False, soft_wrap=True).print(table)
