"""`mxsplicer extract`: the patches of a slide's cells."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from mxsplicer.cells import MIN_AREA_UM2
from mxsplicer.cli.options import (
    Dask,
    Drop,
    Executor,
    Markers,
    MaskPage,
    MaxMemory,
    MinArea,
    NucleiMask,
    Overwrite,
    PatchSize,
    PixelSize,
    Plan,
    Rename,
    Roi,
    Seed,
    SlidePath,
    Workers,
)
from mxsplicer.patches import PATCH_SIZE_UM
from mxsplicer.system import progress


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(extract)


def extract(
    slide: SlidePath,
    out: Annotated[Path, typer.Argument(metavar="PATCHES.zarr", help="Store to write.", show_default=False)],
    mask: Annotated[Path, typer.Option(help="Label image of the slide.", show_default=False)],
    mask_page: MaskPage = None,
    nuclei: NucleiMask = None,
    markers: Markers = None,
    rename: Rename = None,
    drop: Drop = None,
    pixel_size_um: PixelSize = None,
    patch_size_um: PatchSize = PATCH_SIZE_UM,
    min_area_um2: MinArea = MIN_AREA_UM2,
    roi: Roi = None,
    cells: Annotated[
        int | None,
        typer.Option(
            min=1, help="At most this many, spread over the tissue, rare bright cells among them; all by default."
        ),
    ] = None,
    cells_from: Annotated[
        Path | None,
        typer.Option(
            "--cells-from", metavar="FILE", help="These only: ids, one per line, or the column cell_id of a CSV."
        ),
    ] = None,
    workers: Workers = None,
    executor: Executor = "threads",
    dask: Dask = None,
    max_memory: MaxMemory = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    plan: Plan = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --plan: say it as JSON.")] = False,
) -> None:
    """Cut a square patch around every cell and write them to a zarr store."""
    from mxsplicer.cells.measure import measure_cells
    from mxsplicer.cells.selection import keep_inside
    from mxsplicer.images.markers import parse_renames
    from mxsplicer.images.readers import open_slide
    from mxsplicer.masks.files import open_mask, open_nuclei
    from mxsplicer.patches.extraction import extract_patches
    from mxsplicer.patches.planning import plan_extraction
    from mxsplicer.patches.sampling import read_ids
    from mxsplicer.result.outcomes import record_output
    from mxsplicer.system.memory import parse_bytes

    max_bytes = parse_bytes(max_memory) if max_memory else None
    listed = read_ids(cells_from) if cells_from else None
    opened = open_slide(
        slide, markers=markers, rename=parse_renames(rename or []), drop=drop or [], pixel_size_um=pixel_size_um
    )
    labels = open_mask(mask, page=mask_page, slide=opened)
    how: dict[str, Any] = {
        "patch_size_um": patch_size_um,
        "workers": workers,
        "max_bytes": max_bytes,
        "executor": dask or executor,
    }
    if plan:
        n_listed = None if listed is None else len(listed)
        planned = plan_extraction(opened, labels, max_cells=cells or n_listed, min_area_um2=min_area_um2, **how)
        typer.echo(json.dumps(asdict(planned), indent=1) if as_json else planned)
        return
    with progress.shown():
        measured = measure_cells(
            opened,
            labels,
            min_area_um2=min_area_um2,
            workers=workers,
            executor=dask or executor,
            max_bytes=max_bytes,
        )
        store = extract_patches(
            opened,
            labels,
            out,
            nuclei=open_nuclei(nuclei, opened) if nuclei else None,
            cells=keep_inside(measured, roi, opened) if roi else measured,
            max_cells=cells,
            cell_ids=listed,
            seed=seed,
            overwrite=overwrite,
            **how,
        )
    record_output(out)
    fates = ", ".join(f"{count:,} {fate}" for fate, count in store.ledger.items())
    typer.echo(
        f"{out}: {store.n_cells:,} patches of {len(store.markers)} x {store.patch_px} x {store.patch_px} ({fates})"
    )
