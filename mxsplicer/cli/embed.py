"""`mxsplicer embed`: from slides to an AnnData with a learned embedding, and a report."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mxsplicer.cells import MIN_AREA_UM2
from mxsplicer.cli.options import (
    INPUT,
    MODEL,
    PATCHES,
    RUNNING,
    SCORES,
    Dask,
    Device,
    Drop,
    Executor,
    Expansion,
    Markers,
    MaskPage,
    MaxMemory,
    MembraneMarker,
    MinArea,
    NuclearMarker,
    NucleusDiameter,
    Overwrite,
    Panel,
    PixelSize,
    Plan,
    Rename,
    Roi,
    SegmenterName,
    Statistics,
    Workers,
    takes_recipe,
)
from mxsplicer.segmentation import EXPANSION_UM, NUCLEUS_DIAMETER_UM
from mxsplicer.splicer.recipe import Recipe
from mxsplicer.system import progress

if TYPE_CHECKING:
    from mxsplicer.result.folder import Result


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(takes_recipe(embed))


def embed(
    slides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SLIDE",
            help="OME-TIFF, OME-Zarr (also by its URL), qptiff or TIFF stack; several of one panel.",
            show_default=False,
        ),
    ] = None,
    cohort: Annotated[
        Path | None,
        typer.Option(
            metavar="SAMPLES.csv",
            help="Table of the slides instead: slide, path, and where there are any mask, nuclei, markers, labels; "
            "other columns (patient, batch, ...) go to obs. A slide that fails is noted, and the others finish.",
            show_default=False,
            rich_help_panel=INPUT,
        ),
    ] = None,
    mask: Annotated[
        list[str] | None,
        typer.Option(
            help="Label image; one per slide, or a folder of them. Made from the nuclei where not given.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    mask_page: MaskPage = None,
    nuclei: Annotated[
        list[str] | None,
        typer.Option(
            help="Mask of the nuclei, each with the id of its cell; one per slide, or a folder of them.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    markers: Markers = None,
    rename: Rename = None,
    drop: Drop = None,
    pixel_size_um: PixelSize = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Result folder; SLIDE.mxs by default.", show_default=False, rich_help_panel=INPUT),
    ] = None,
    append: Annotated[
        Path | None,
        typer.Option(
            metavar="RESULT",
            help="Add the slides to this finished result, by its model and with its clusters; what is in it stays as "
            "it is. Of --cohort, the slides that it lacks.",
            show_default=False,
            rich_help_panel=INPUT,
        ),
    ] = None,
    nuclear_marker: NuclearMarker = None,
    nucleus_diameter_um: NucleusDiameter = NUCLEUS_DIAMETER_UM,
    expansion_um: Expansion = EXPANSION_UM,
    membrane_marker: MembraneMarker = None,
    segmenter: SegmenterName = None,
    min_area_um2: MinArea = MIN_AREA_UM2,
    roi: Roi = None,
    measure: Statistics = None,
    patch_size_um: Annotated[
        float | None,
        typer.Option(
            "--patch-size-um",
            help="Side of the square around each cell; 32, or what --model takes.",
            min=0,
            rich_help_panel=PATCHES,
        ),
    ] = None,
    keep_patches: Annotated[
        bool,
        typer.Option(
            "--keep-patches",
            help="Write the patches of every cell into the result, and train on all; otherwise only those of the "
            "training cells are written, and none with --model.",
            rich_help_panel=PATCHES,
        ),
    ] = False,
    only_cells: Annotated[
        bool,
        typer.Option(
            "--only-cells",
            help="Stop when the cells are embedded: no clusters, scores and report, which `mxsplicer merge` makes of "
            "several slides.",
            rich_help_panel=PATCHES,
        ),
    ] = False,
    panel: Panel = "same",
    model: Annotated[
        Path | None,
        typer.Option(help="Run folder of a trained model; trained here by default.", rich_help_panel=MODEL),
    ] = None,
    fill_missing: Annotated[
        bool,
        typer.Option(
            "--fill-missing",
            help="Where a slide lacks a marker of --model, show the model that marker's mean over its training cells, "
            "and mark the cells; otherwise the slide is refused.",
            rich_help_panel=MODEL,
        ),
    ] = False,
    training_cells: Annotated[
        int, typer.Option(min=2, help="Cells to train on, at most, over all slides.", rich_help_panel=MODEL)
    ] = 200_000,
    *,
    recipe: Recipe,
    harmony: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Bring slides or batches together by Harmony before clustering: slide, or a column of the table of "
            "slides. Needs harmonypy.",
            rich_help_panel=SCORES,
        ),
    ] = None,
    per_slide: Annotated[
        bool,
        typer.Option(
            "--per-slide/--no-per-slide",
            help="Of several slides, write an AnnData of each too.",
            rich_help_panel=SCORES,
        ),
    ] = True,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Table of labels, one row per cell: the embedding is scored on them.", rich_help_panel=SCORES
        ),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(help="Column of --labels to score; all of words by default.", rich_help_panel=SCORES),
    ] = None,
    samples: Annotated[
        Path | None, typer.Option(help="Table with one row per slide: patient, batch, ...", rich_help_panel=SCORES)
    ] = None,
    groups: Annotated[
        str | None,
        typer.Option(
            help="Column of --samples whose values stay together in a fold, such as patient.", rich_help_panel=SCORES
        ),
    ] = None,
    baselines: Annotated[
        bool,
        typer.Option(
            help="Score an untrained encoder and joint embedding too, where there are labels.", rich_help_panel=SCORES
        ),
    ] = True,
    workers: Workers = None,
    executor: Executor = "threads",
    dask: Dask = None,
    max_memory: MaxMemory = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    plan: Plan = False,
    as_json: Annotated[bool, typer.Option("--json", help="Say the plan in JSON.", rich_help_panel=RUNNING)] = False,
) -> None:
    """Turn slides into an AnnData of their cells with a SpliCER embedding, and a report.

    Segments where no mask is given, measures the cells, cuts patches, trains (or takes --model), embeds, clusters,
    scores where labels are given, and writes SLIDE.mxs/. Interrupted, the same command goes on where it stopped.
    """
    from mxsplicer.result.options import Options
    from mxsplicer.result.pipeline import embed_slides
    from mxsplicer.result.planning import plan_slides
    from mxsplicer.system.location import locate
    from mxsplicer.system.memory import parse_bytes

    options = Options(
        masks=tuple(locate(one) for one in mask or ()),
        mask_page=mask_page,
        nuclei=tuple(locate(one) for one in nuclei or ()),
        markers=markers,
        rename=tuple(rename or ()),
        drop=tuple(drop or ()),
        pixel_size_um=pixel_size_um,
        nuclear_marker=nuclear_marker,
        nucleus_diameter_um=nucleus_diameter_um,
        expansion_um=expansion_um,
        membrane_marker=membrane_marker,
        segmenter=segmenter,
        min_area_um2=min_area_um2,
        roi=roi,
        measure=tuple(measure or ()),
        patch_size_um=patch_size_um,
        training_cells=training_cells,
        keep_patches=keep_patches,
        model=model,
        recipe=recipe,
        labels=labels,
        label=tuple(label or ()),
        samples=samples,
        cohort=cohort,
        panel=panel,
        only_cells=only_cells,
        fill_missing=fill_missing,
        harmony=harmony,
        per_slide=per_slide,
        groups=groups,
        baselines=baselines,
    )
    how: dict[str, Any] = {
        "options": options,
        "device": device,
        "workers": workers,
        "executor": dask or executor,
        "max_bytes": parse_bytes(max_memory) if max_memory else None,
    }
    if plan:
        planned = plan_slides(slides or [], out, **how)
        typer.echo(json.dumps(asdict(planned), indent=1) if as_json else planned)
        return
    with progress.shown():
        if append is not None:
            from mxsplicer.result.merging import append_slides

            result = append_slides(slides or [], append, **how)
        else:
            result = embed_slides(slides or [], out, overwrite=overwrite, **how)
    summarize(result)
    say_failed(result)


def say_failed(result: "Result") -> None:
    """Tell which slides are not in a result, and end with exit code 1 if there are any."""
    failed = result.failed
    if failed:
        typer.echo(f"\n{len(failed)} of {len(result.slide_names)} slides are not in it:", err=True)
        for name, reason in failed.items():
            typer.echo(f"  {name}  {reason}", err=True)
        raise typer.Exit(1)


def summarize(result: "Result") -> None:
    """Print what came out, where it lies, and what to type next."""
    import anndata
    import h5py
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

    from mxsplicer import tl

    with h5py.File(result.cells, "r") as file:
        uns = anndata.io.read_elem(file["uns"])
        about, n_markers = uns["mxsplicer"], file["X"].shape[1]
        use_rep = f"X_{about['method']}"
        n_cells, n_features = file["obsm"][use_rep].shape
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"\n[bold]{n_cells:,} cells[/] of {n_markers} markers, {n_features} features each")
    for name, ledger in about["ledger"].items():
        console.print(f"  {name}: " + ", ".join(f"{count:,} {fate}" for fate, count in ledger.items()), markup=False)
    stages = json.loads(result.settings.read_text(encoding="utf-8")).get("seconds", {})
    took = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in stages.items())
    console.print(f"  {took}; {sum(stages.values()):.0f} s in all", markup=False)
    if "mxsplicer_probe" in uns:
        scores = pd.DataFrame(uns["mxsplicer_probe"])
        table = Table("balanced accuracy (±sd over folds)", *dict.fromkeys(scores["label"]), box=None, pad_edge=False)
        for representation in dict.fromkeys(scores["representation"]):
            rows = scores[scores["representation"] == representation].set_index("label")
            cells = [f"{rows.balanced_accuracy[one]:.3f} ±{rows.balanced_accuracy_sd[one]:.3f}" for one in rows.index]
            table.add_row(representation, *cells)
        chance = scores.drop_duplicates("label").set_index("label")["chance"]
        table.add_row("chance", *(f"{value:.3f}" for value in chance))
        console.print(table)
        for sentence in tl.verdict(scores):
            console.print(f"  {sentence}", markup=False)
    console.print(
        f"""
AnnData  {result.cells}
{f"report   {result.report}" if result.report.is_file() else "no clusters yet: mxsplicer merge brings slides together"}

next, in Python:
  import anndata, scanpy as sc
  adata = anndata.read_h5ad("{result.cells}")
  sc.pp.neighbors(adata, use_rep="{use_rep}")
  sc.tl.leiden(adata, flavor="igraph", n_iterations=2, directed=False)
  sc.tl.umap(adata); sc.pl.umap(adata, color="leiden")
and to see which feature follows which marker, and where (pip install 'mxsplicer[gui]'):
  mxsplicer view {result.path}""",
        markup=False,
    )
