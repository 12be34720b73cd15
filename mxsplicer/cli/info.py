"""`mxsplicer info`: what a slide is, and what embedding it would take."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mxsplicer.cli.options import AsJson, Drop, Markers, NuclearMarker, PatchSize, PixelSize, Rename, SlidePath
from mxsplicer.errors import InputError

if TYPE_CHECKING:
    from mxsplicer.slides.slide import Slide

_PIXELS_PER_SECOND = 100e6  # of one channel, decoded and measured by one core: docs/performance.md


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(info)


def info(
    slide: SlidePath,
    markers: Markers = None,
    rename: Rename = None,
    drop: Drop = None,
    pixel_size_um: PixelSize = None,
    nuclear_marker: NuclearMarker = None,
    patch_size_um: PatchSize = 32.0,
    as_json: AsJson = False,
) -> None:
    """Show size, scale and markers of a slide, about how many cells it has, and what patches of them take.

    Of the pixels a coarse level and a few windows are read, so it takes a moment for any size.
    """
    from mxsplicer.slides.panel import parse_renames
    from mxsplicer.slides.readers import open_slide

    opened = open_slide(
        slide, markers=markers, rename=parse_renames(rename or []), drop=drop or [], pixel_size_um=pixel_size_um
    )
    facts = _facts(opened, nuclear_marker, patch_size_um)
    if as_json:
        typer.echo(json.dumps(facts, ensure_ascii=False, indent=1))
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, text in _told(facts):
        table.add_row(name, Text(text))
    Console(highlight=False, soft_wrap=True).print(table)


def _facts(slide: "Slide", nuclear_marker: str | None, patch_size_um: float) -> dict[str, Any]:
    from mxsplicer.patches.extraction import choose_patch_px
    from mxsplicer.slides.estimate import estimate_cells
    from mxsplicer.slides.panel import find_nuclear_marker

    if nuclear_marker is not None:
        slide.channels_of([nuclear_marker])
    cells = estimate_cells(slide, nuclear_marker=nuclear_marker)
    n_markers, height, width = slide.image.shape
    item = slide.image.dtype.itemsize
    try:
        patch_px = choose_patch_px(slide, patch_size_um)
    except InputError:  # a field smaller than a patch
        patch_px = 0
    path = Path(slide.path) if slide.path is not None else None
    in_file = slide.markers_in_file or [None] * n_markers
    return {
        "slide": slide.name,
        "path": str(slide.path),
        "file_bytes": path.stat().st_size if path is not None and path.is_file() else None,
        "image_bytes": n_markers * height * width * item,
        "shape": [n_markers, height, width],
        "dtype": str(slide.image.dtype),
        "storage": slide.storage,
        "tile_px": list(slide.tile_px),
        "levels": [list(level.shape[1:]) for level in (slide.image, *slide.pyramid)],
        "pixel_size_um": slide.pixel_size_um,
        "pixel_size_from": slide.pixel_size_from,
        "markers": list(slide.markers),
        "markers_in_file": list(in_file),
        "markers_from": slide.markers_from,
        "nuclear_marker": nuclear_marker or find_nuclear_marker(slide.markers),
        "cells": {"n": cells.n_cells, "tissue_mm2": round(cells.tissue_mm2, 4), "from": cells.basis},
        "patches": {
            "side_um": patch_size_um,
            "side_px": patch_px,
            "bytes_each": patch_px**2 * (n_markers * item + 1),
            "bytes_all": cells.n_cells * patch_px**2 * (n_markers * item + 1),
        },
        "seconds_to_read": round(n_markers * height * width / _PIXELS_PER_SECOND, 1),
    }


def _told(facts: dict[str, Any]) -> list[tuple[str, str]]:
    from mxsplicer.memory import said_bytes

    n_markers, height, width = facts["shape"]
    um, patches = facts["pixel_size_um"], facts["patches"]
    of_file = f", {said_bytes(facts['file_bytes'])} on the disk" if facts["file_bytes"] else ""
    renamed = [
        f"{old} → {new}"
        for old, new in zip(facts["markers_in_file"], facts["markers"], strict=True)
        if old not in (None, new)
    ]
    said_patches = f"of {patches['side_um']:g} µm do not fit on the slide; give a smaller --patch-size-um"
    if patches["side_px"]:
        said_patches = (
            f"of {patches['side_um']:g} µm are {patches['side_px']} px, {said_bytes(patches['bytes_each'])} each; of "
            f"all cells {said_bytes(patches['bytes_all'])} before compression"
        )
    rows = [
        ("slide", facts["slide"]),
        ("image", f"{n_markers} channels, {height:,} x {width:,} pixels (Y, X), {facts['dtype']}"),
        ("stored as", facts["storage"]),
        ("size", f"{said_bytes(facts['image_bytes'])} of pixels{of_file}"),
        ("levels", ", ".join(f"{level[0]:,} x {level[1]:,}" for level in facts["levels"])),
        ("pixel size", f"{um:g} µm ({facts['pixel_size_from']})"),
        ("tissue field", f"{height * um / 1000:.2f} x {width * um / 1000:.2f} mm"),
        ("markers", f"{', '.join(facts['markers'])} ({facts['markers_from']})"),
        ("nuclear marker", facts["nuclear_marker"] or "none known; give --nuclear-marker or --mask"),
        ("cells", f"about {facts['cells']['n']:,} ({facts['cells']['from']})"),
        ("patches", said_patches),
        ("reading it once", f"about {_duration(facts['seconds_to_read'])} on one core"),
    ]
    if renamed:
        rows.insert(8, ("in the file", ", ".join(renamed)))
    return rows


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
