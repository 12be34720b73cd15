"""`mxsplicer extract`: the patches of a slide's cells."""

from pathlib import Path
from typing import Annotated

import typer

from mxsplicer import progress
from mxsplicer.cli.options import (
    Markers,
    MaskPage,
    MinArea,
    Overwrite,
    PatchSize,
    PixelSize,
    Seed,
    SlidePath,
    Workers,
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(extract)


def extract(
    slide: SlidePath,
    out: Annotated[Path, typer.Argument(metavar="PATCHES.zarr", help="Store to write.", show_default=False)],
    mask: Annotated[Path, typer.Option(help="Label image of the slide.", show_default=False)],
    mask_page: MaskPage = None,
    markers: Markers = None,
    pixel_size_um: PixelSize = None,
    patch_size_um: PatchSize = 32.0,
    min_area_um2: MinArea = 5.0,
    cells: Annotated[
        int | None, typer.Option(min=1, help="At most this many, spread over the tissue; all by default.")
    ] = None,
    workers: Workers = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Cut a square patch around every cell and write them to a zarr store."""
    from mxsplicer.patches.extraction import extract_patches
    from mxsplicer.slides.cells import measure_cells
    from mxsplicer.slides.masks import open_mask
    from mxsplicer.slides.readers import open_slide

    opened = open_slide(slide, markers=markers, pixel_size_um=pixel_size_um)
    labels = open_mask(mask, page=mask_page)
    with progress.shown():
        store = extract_patches(
            opened,
            labels,
            out,
            patch_size_um=patch_size_um,
            cells=measure_cells(opened, labels, min_area_um2=min_area_um2),
            max_cells=cells,
            seed=seed,
            workers=workers,
            overwrite=overwrite,
        )
    fates = ", ".join(f"{count:,} {fate}" for fate, count in store.ledger.items())
    typer.echo(
        f"{out}: {store.n_cells:,} patches of {len(store.markers)} x {store.patch_px} x {store.patch_px} ({fates})"
    )
