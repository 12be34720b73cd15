"""`mxsplicer info`: what a slide is and what embedding it would take; without a slide, versions and the machine."""

import json
import os
import platform
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mxsplicer.cli.options import SLIDE, AsJson, register
from mxsplicer.errors import InputError
from mxsplicer.patches import PATCH_SIZE_UM

if TYPE_CHECKING:
    from mxsplicer.images.slide import Slide

_PIXELS_PER_SECOND = 100e6  # of one channel, decoded and measured by one core: docs/performance.md


def add_info(app: typer.Typer) -> None:
    """Add the command `mxsplicer info`."""
    register(app, info_command)


def info_command(
    slide: Annotated[Path | None, SLIDE] = None,
    *,
    markers: Path | None,
    rename: tuple[str, ...],
    drop: tuple[str, ...],
    pixel_size_um: float | None,
    image: str | None,
    nuclear_marker: str | None,
    patch_size_um: float | None,
    as_json: AsJson = False,
) -> None:
    """Show size, scale and markers of a slide, about how many cells it has, and what patches of them take.

    Of the pixels a coarse level and a few windows are read, so it takes a moment for any size. Without a slide, the
    versions of mxsplicer and its packages are shown, and the machine: for bug reports.
    """
    if slide is None:
        _show(_machine(), _rows_of_machine, as_json=as_json)
        return
    from mxsplicer.images.markers import parse_renames
    from mxsplicer.images.opening import IncompleteError, open_slide

    renames = parse_renames(rename)
    size_known = True
    try:
        opened = open_slide(slide, markers=markers, rename=renames, drop=drop, pixel_size_um=pixel_size_um, image=image)
    except IncompleteError as error:  # the rest of the file can be shown all the same
        size_known = error.pixel_size
        numbers = [f"channel {number}" for number in range(1, error.n_channels + 1)]
        opened = open_slide(
            slide,
            markers=markers if error.names else numbers,
            rename=renames,
            drop=drop,
            pixel_size_um=pixel_size_um if error.pixel_size else 1.0,
            image=image,
        )
        if not error.names:
            opened = replace(opened, markers_from="no names; pass them by --markers")
    facts = _facts(opened, nuclear_marker, patch_size_um or PATCH_SIZE_UM, size_known=size_known)
    _show(facts, _rows, as_json=as_json)


def _show(facts: dict[str, Any], rows: Callable[[dict[str, Any]], Iterator[tuple[str, str]]], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(facts, ensure_ascii=False, indent=1))
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, text in rows(facts):
        table.add_row(name, Text(text))
    Console(highlight=False, soft_wrap=True).print(table)


def _machine() -> dict[str, Any]:
    import psutil

    names = sorted({re.split(r"[^\w.-]", one)[0] for one in requires("mxsplicer") or ()}, key=str.lower)
    return {
        "mxsplicer": version("mxsplicer"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "processors": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "devices": _devices(),
        "packages": {name: found for name in names if name != "mxsplicer" and (found := _version(name))},
    }


def _devices() -> str:
    try:
        import torch
    except (ImportError, OSError) as error:  # a library of the system is missing, or of another version
        return f"PyTorch cannot be imported ({error})"
    gpus = [f"cuda:{n} ({torch.cuda.get_device_name(n)})" for n in range(torch.cuda.device_count())]
    return ", ".join(["cpu", *gpus, *(["mps"] if torch.backends.mps.is_available() else [])])


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _rows_of_machine(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    from mxsplicer.system.memory import format_bytes

    yield "mxsplicer", facts["mxsplicer"]
    yield "Python", facts["python"]
    yield "system", f"{facts['system']}, {facts['processors']} processors, {format_bytes(facts['memory_bytes'])} memory"
    yield "devices", facts["devices"]
    yield "packages", ", ".join(f"{name} {found}" for name, found in facts["packages"].items())
    yield "more", "mxsplicer info SLIDE"


def _facts(slide: "Slide", nuclear_marker: str | None, patch_size_um: float, *, size_known: bool) -> dict[str, Any]:
    from mxsplicer.images.markers import find_nuclear_marker

    if nuclear_marker is not None:
        slide.channels_of([nuclear_marker])
    n_markers, height, width = slide.image.shape
    n_bytes = n_markers * height * width * slide.image.dtype.itemsize
    facts = {
        "slide": slide.name,
        "path": str(slide.path),
        "file_bytes": slide.path.stat().st_size if isinstance(slide.path, Path) and slide.path.is_file() else None,
        "image_bytes": n_bytes,
        "shape": [n_markers, height, width],
        "dtype": str(slide.image.dtype),
        "storage": slide.storage,
        "images_in_file": slide.images_in_file or None,
        "tile_px": list(slide.tile_px),
        "levels": [list(level.shape[1:]) for level in (slide.image, *slide.pyramid)],
        "pixel_size_um": slide.pixel_size_um if size_known else None,
        "pixel_size_from": slide.pixel_size_from if size_known else None,
        "markers": list(slide.markers),
        "markers_in_file": list(slide.markers_in_file) or None,
        "markers_from": slide.markers_from,
        "nuclear_marker": nuclear_marker or find_nuclear_marker(slide.markers),
        "cells": None,
        "patches": None,
        "seconds_to_read": round(n_markers * height * width / _PIXELS_PER_SECOND, 1),
    }
    return facts | (_plan(slide, nuclear_marker, patch_size_um) if size_known else {})


def _plan(slide: "Slide", nuclear_marker: str | None, patch_size_um: float) -> dict[str, Any]:
    from mxsplicer.cells.estimate import estimate_cells
    from mxsplicer.patches.geometry import PatchGeometry

    cells = estimate_cells(slide, nuclear_marker=nuclear_marker)
    plan: dict[str, Any] = {
        "cells": {"n": cells.n_cells, "tissue_mm2": round(cells.tissue_mm2, 4), "from": cells.basis},
    }
    try:
        patch_px = PatchGeometry.of(slide, patch_size_um).patch_px
    except InputError:  # a field smaller than a patch
        return plan
    each = patch_px**2 * (len(slide.markers) * slide.image.dtype.itemsize + 1)  # and a byte for the region
    return plan | {
        "patches": {
            "side_um": patch_size_um,
            "side_px": patch_px,
            "bytes_each": each,
            "bytes_all": cells.n_cells * each,
        }
    }


def _rows(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    from mxsplicer.system.durations import format_duration
    from mxsplicer.system.memory import format_bytes

    n_markers, height, width = facts["shape"]
    um, cells, patches = facts["pixel_size_um"], facts["cells"], facts["patches"]
    of_file = f", {format_bytes(facts['file_bytes'])} on the disk" if facts["file_bytes"] else ""
    yield "slide", facts["slide"]
    yield "image", f"{n_markers} channels, {height:,} x {width:,} pixels (Y, X), {facts['dtype']}"
    yield "stored as", facts["storage"]
    if facts["images_in_file"]:
        yield "in the file", f"{facts['images_in_file']}; pass --image for another"
    yield "size", f"{format_bytes(facts['image_bytes'])} of pixels{of_file}"
    yield "levels", ", ".join(f"{level[0]:,} x {level[1]:,}" for level in facts["levels"])
    yield "pixel size", f"{um:g} µm ({facts['pixel_size_from']})" if um else "unknown; pass --pixel-size-um"
    if um:
        yield "tissue field", f"{height * um / 1000:.2f} x {width * um / 1000:.2f} mm"
    yield "markers", f"{', '.join(facts['markers'])} ({facts['markers_from']})"
    pairs = zip(facts["markers_in_file"] or facts["markers"], facts["markers"], strict=True)
    renamed = [f"{old} → {new}" for old, new in pairs if old != new]
    if renamed:
        yield "renamed", ", ".join(renamed)
    yield "nuclear marker", facts["nuclear_marker"] or "not recognised; pass --nuclear-marker or --mask"
    if cells:
        yield "cells", f"about {cells['n']:,} ({cells['from']})"
    if patches:
        size = f"of {patches['side_um']:g} µm are {patches['side_px']} px, {format_bytes(patches['bytes_each'])} each"
        yield "patches", f"{size}; of all cells {format_bytes(patches['bytes_all'])} before compression"
    elif um:
        yield "patches", "do not fit on the slide; pass a smaller --patch-size-um"
    yield "reading it once", f"about {format_duration(facts['seconds_to_read'])} on one core"
    yield "more", "mxsplicer embed SLIDE --plan"
