"""`mxsplicer extract`: the patches of a slide's cells."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mxsplicer.cli.options import AsJson, NucleiMask, OneMask, Overwrite, Plan, Seed, SlidePath, register
from mxsplicer.cli.outputs import Output
from mxsplicer.patches import PATCH_SIZE_UM
from mxsplicer.system import progress

if TYPE_CHECKING:
    from mxsplicer.images.lazy_images import LazyImage
    from mxsplicer.images.slide import Slide

# Options of this command alone.
_Cells = Annotated[
    int | None,
    typer.Option(
        min=1, help="At most this many, spread over the tissue and including rare bright cells; all by default."
    ),
]
_CellsFrom = Annotated[
    Path | None,
    typer.Option("--cells-from", metavar="FILE", help="Only these: ids, one per line, or the column cell_id of a CSV."),
]


def add_extract(app: typer.Typer) -> None:
    """Add the command `mxsplicer extract`."""
    register(app, extract_command)


def extract_command(
    slide: SlidePath,
    mask: OneMask,
    out: Annotated[Path, typer.Option(metavar="PATCHES.zarr", help="Store to write.", show_default=False)],
    *,
    mask_page: int | None,
    nuclei_page: int | None,
    nuclei: NucleiMask = None,
    markers: Path | None,
    rename: tuple[str, ...],
    drop: tuple[str, ...],
    pixel_size_um: float | None,
    image: str | None,
    patch_size_um: float | None,
    min_area_um2: float,
    roi: Path | None,
    cells: _Cells = None,
    cells_from: _CellsFrom = None,
    workers: int | None,
    executor: str,
    max_memory: int | None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    plan: Plan = False,
    as_json: AsJson = False,
) -> None:
    """Cut a square patch around every cell and write them to a zarr store."""
    output = Output(out)
    if not plan and output.is_complete(overwrite=overwrite):
        return
    from mxsplicer.cells.selection import read_ids
    from mxsplicer.images.markers import parse_renames
    from mxsplicer.images.opening import open_slide
    from mxsplicer.masks.doctor import warn_of_faults
    from mxsplicer.masks.files import open_mask

    listed = read_ids(cells_from) if cells_from else None
    opened = open_slide(
        slide,
        markers=markers,
        rename=parse_renames(rename),
        drop=drop,
        pixel_size_um=pixel_size_um,
        image=image,
    )
    labels = open_mask(mask, page=mask_page, slide=opened)
    warn_of_faults(opened, labels)
    how: dict[str, Any] = {"workers": workers, "max_bytes": max_memory, "executor": executor}
    size = PATCH_SIZE_UM if patch_size_um is None else patch_size_um
    if plan:
        n_cells = cells or (None if listed is None else len(listed))
        _print_plan(opened, labels, n_cells, as_json=as_json, min_area_um2=min_area_um2, patch_size_um=size, **how)
        return
    from mxsplicer.cells.measure import measure_cells
    from mxsplicer.cells.selection import keep_inside
    from mxsplicer.masks.files import open_nuclei
    from mxsplicer.patches.extraction import extract_patches

    with progress.shown():
        measured = measure_cells(opened, labels, min_area_um2=min_area_um2, **how)
        store = extract_patches(
            opened,
            labels,
            out,
            patch_size_um=size,
            nuclei=open_nuclei(nuclei, opened, page=nuclei_page, mask=labels) if nuclei else None,
            cells=keep_inside(measured, roi, opened) if roi else measured,
            max_cells=cells,
            cell_ids=listed,
            seed=seed,
            overwrite=overwrite,
            **how,
        )
    output.record()
    outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in store.ledger.items())
    shape = f"{len(store.markers)} x {store.patch_px} x {store.patch_px}"
    typer.echo(f"{out}: {store.n_cells:,} patches of {shape} ({outcomes})")


def _print_plan(slide: "Slide", mask: "LazyImage", n_cells: int | None, *, as_json: bool, **how: Any) -> None:
    from mxsplicer.patches.extraction_plan import plan_extraction

    planned = plan_extraction(slide, mask, max_cells=n_cells, **how)
    typer.echo(json.dumps(asdict(planned), indent=1) if as_json else planned)
