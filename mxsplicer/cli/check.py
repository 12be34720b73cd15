"""`mxsplicer check`: whether a mask is sound and fits its slide."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mxsplicer.cli.errors import as_options
from mxsplicer.cli.options import AsJson, NucleiMask, SlidePath, register
from mxsplicer.system import progress

if TYPE_CHECKING:
    from mxsplicer.masks.doctor import Diagnosis

_OPTIONS = ("--nuclear-marker", "--pixel-size-um")  # that remedies name


def add_check(app: typer.Typer) -> None:
    """Add the command `mxsplicer check`."""
    register(app, check_command)


def check_command(
    slide: SlidePath,
    mask: Annotated[
        str, typer.Argument(metavar="MASK", help="Label image, OME-Zarr labels or GeoJSON.", show_default=False)
    ],
    *,
    nuclear_marker: str | None,
    nuclei: NucleiMask = None,
    mask_page: int | None,
    nuclei_page: int | None,
    markers: Path | None,
    rename: tuple[str, ...],
    drop: tuple[str, ...],
    pixel_size_um: float | None,
    image: str | None,
    as_json: AsJson = False,
) -> None:
    """Find faults of a mask: another level, transposed, shifted, ids that wrapped around, seams, and more.

    The exit code is 0 if nothing is wrong, 1 if something is, and 2 if a file cannot be read.
    """
    from mxsplicer.images.markers import parse_renames
    from mxsplicer.images.opening import open_slide
    from mxsplicer.masks.doctor import examine
    from mxsplicer.masks.files import open_mask, open_nuclei

    opened = open_slide(
        slide,
        markers=markers,
        rename=parse_renames(rename),
        drop=drop,
        pixel_size_um=pixel_size_um,
        image=image,
    )
    labels = open_mask(mask, page=mask_page, slide=opened, must_fit=False)
    of_nuclei = None if nuclei is None else open_nuclei(nuclei, opened, page=nuclei_page, must_fit=False)
    with progress.shown():
        diagnosis = examine(opened, labels, nuclear_marker=nuclear_marker, nuclei=of_nuclei)
    if as_json:
        answer = json.dumps({"slide": opened.name, "mask": str(mask), **diagnosis.to_dict()}, ensure_ascii=False)
        typer.echo(as_options(answer, _OPTIONS))
    else:
        _show(f"mask {Path(mask).name} of slide {opened.name}", diagnosis)
    raise typer.Exit(0 if diagnosis.healthy else 1)


def _show(subject: str, diagnosis: "Diagnosis") -> None:
    console = Console(highlight=False, soft_wrap=not Console().is_terminal)
    size = f", half of them above {diagnosis.median_diameter_um:.3g} µm across" if diagnosis.median_diameter_um else ""
    wrong = sum(finding.wrong for finding in diagnosis.findings)
    verdict = f"{wrong} {'thing is' if wrong == 1 else 'things are'} wrong" if wrong else "nothing is wrong"
    console.print(f"{subject}: {diagnosis.n_cells:,} cells{size}; {verdict}", markup=False)
    for finding in sorted(diagnosis.findings, key=lambda one: not one.wrong):
        table = Table(show_header=False, box=None, pad_edge=False)
        table.add_row(
            Text("WRONG" if finding.wrong else "note", style="bold red" if finding.wrong else "dim"), Text(finding.name)
        )
        for word in ("found", "cause", "fix"):
            if getattr(finding, word):
                table.add_row(Text(word, style="dim"), Text(as_options(getattr(finding, word), _OPTIONS)))
        console.print()
        console.print(table)
