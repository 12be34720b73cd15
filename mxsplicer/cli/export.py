"""`mxsplicer export`: a result for other programs."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mxsplicer.cli.options import Overwrite, Roi
from mxsplicer.system import progress


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(export)


def export(
    result: Annotated[Path, typer.Argument(metavar="RESULT", help="Folder that embed wrote.", show_default=False)],
    spatialdata: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A SpatialData store of slides, masks and cells.")
    ] = None,
    image: Annotated[bool, typer.Option("--image/--no-image", help="Copy the slides into the SpatialData.")] = True,
    geojson: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Outlines of the cells with their clusters as classes, for QuPath; of several slides, a folder.",
        ),
    ] = None,
    simplify_px: Annotated[
        float, typer.Option(min=0, help="How far outlines may leave the pixels' edges; 0.5 halves the file.")
    ] = 0.0,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="One row per cell in mcmicro's columns, .csv or .csv.gz.")
    ] = None,
    parquet: Annotated[Path | None, typer.Option(metavar="FILE", help="The same table as Parquet.")] = None,
    features: Annotated[
        bool, typer.Option("--features", help="Write the learned features into the table too.")
    ] = False,
    labels_zarr: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Cells and clusters as OME-Zarr labels; of several slides, a folder."),
    ] = None,
    groupby: Annotated[str, typer.Option(help="Column of obs that becomes classes.")] = "leiden",
    roi: Roi = None,
    overwrite: Overwrite = False,
) -> None:
    """Write cells, outlines and clusters of a result in the formats of other programs."""
    from mxsplicer import export
    from mxsplicer.embedding.h5ad import open_cells
    from mxsplicer.errors import InputError
    from mxsplicer.result.folder import find_cells, open_result
    from mxsplicer.result.slides import open_images
    from mxsplicer.tl.outlines import cells_inside
    from mxsplicer.tl.rows import learned_features

    if not any((spatialdata, geojson, csv, parquet, labels_zarr)):
        msg = "nothing is to be exported; give --spatialdata, --geojson, --csv, --parquet or --labels-zarr."
        raise InputError(msg)
    index = open_result(result)
    sizes = {one["name"]: float(one["pixel_size_um"]) for one in index["slides"]}
    slides, masks = open_images(result) if spatialdata or geojson or labels_zarr else ([], [])
    missing = sorted(set(sizes) - {slide.name for slide in slides})
    if (spatialdata or geojson or labels_zarr) and missing:
        msg = f"slide {missing[0]!r} or its mask is no longer where it was; put it back, or export a table only."
        raise InputError(msg)
    several = len(slides) > 1
    how: dict[str, Any] = {"groupby": groupby, "overwrite": overwrite}
    with progress.shown(), open_cells(find_cells(result)) as every:
        adata = cells_inside(every, roi)
        for path in (one for one in (csv, parquet) if one is not None):
            use_rep = learned_features(adata) if features else None
            typer.echo(export.write_table(adata, path, pixel_sizes_um=sizes, use_rep=use_rep, overwrite=overwrite))
        present = set(adata.obs["slide"].astype(str))  # of some slides no cell may be inside
        for slide, mask in ((one, its) for one, its in zip(slides, masks, strict=True) if one.name in present):
            if geojson is not None:
                path = geojson / f"{slide.name}.geojson" if several else geojson
                typer.echo(export.write_outlines(adata, path, mask, slide=slide.name, simplify_px=simplify_px, **how))
            if labels_zarr is not None:
                path = labels_zarr / f"{slide.name}.ome.zarr" if several else labels_zarr
                pixel = slide.pixel_size_um
                typer.echo(export.write_labels(adata, path, mask, slide=slide.name, pixel_size_um=pixel, **how))
        if spatialdata is not None:
            typer.echo(
                export.write_spatialdata(
                    adata, spatialdata, slides=slides, masks=masks, image=image, overwrite=overwrite
                )
            )
