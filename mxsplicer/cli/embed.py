"""`mxsplicer embed`: from slides to an AnnData with a learned embedding, and a report."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mxsplicer import progress
from mxsplicer.cli.options import (
    BatchSize,
    ChunkWidth,
    ComponentWidth,
    Device,
    Encoder,
    EncoderWidth,
    Epochs,
    Expansion,
    LearningRate,
    LossName,
    Markers,
    MaskPage,
    Method,
    MinArea,
    NuclearMarker,
    NucleusDiameter,
    Overwrite,
    PixelSize,
    RedundancyWeight,
    Seed,
    Surroundings,
    ViewPlan,
    Workers,
)

if TYPE_CHECKING:
    from mxsplicer.result import Result


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(embed)


def embed(
    slides: Annotated[
        list[Path],
        typer.Argument(
            metavar="SLIDE", help="OME-TIFF, qptiff or TIFF stack; several of one panel.", show_default=False
        ),
    ],
    mask: Annotated[
        list[Path] | None,
        typer.Option(help="Label image; one per slide, or a folder of them. Made from the nuclei where not given."),
    ] = None,
    mask_page: MaskPage = None,
    markers: Markers = None,
    model: Annotated[Path | None, typer.Option(help="Run folder of a trained model; trained here by default.")] = None,
    out: Annotated[Path | None, typer.Option(help="Result folder; SLIDE.mxs by default.", show_default=False)] = None,
    patch_size_um: Annotated[
        float | None,
        typer.Option("--patch-size-um", help="Side of the square around each cell; 32, or what --model takes.", min=0),
    ] = None,
    pixel_size_um: PixelSize = None,
    nuclear_marker: NuclearMarker = None,
    nucleus_diameter_um: NucleusDiameter = 7.0,
    expansion_um: Expansion = 3.0,
    min_area_um2: MinArea = 5.0,
    training_cells: Annotated[int, typer.Option(min=2, help="Cells to train on, at most, over all slides.")] = 200_000,
    method: Method = "splicer",
    loss: LossName = "vicreg",
    encoder: Encoder = "resnet18",
    encoder_width: EncoderWidth = 64,
    component_width: ComponentWidth = 8,
    chunk_width: ChunkWidth = 32,
    redundancy_weight: RedundancyWeight = 0.1,
    views: ViewPlan = "independent",
    surroundings: Surroundings = "hide",
    epochs: Epochs = None,
    batch_size: BatchSize = 256,
    learning_rate: LearningRate = 3e-3,
    labels: Annotated[
        Path | None, typer.Option(help="Table of labels, one row per cell: the embedding is scored on them.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="Column of --labels to score; all of words by default.")
    ] = None,
    samples: Annotated[Path | None, typer.Option(help="Table with one row per slide: patient, batch, ...")] = None,
    groups: Annotated[
        str | None, typer.Option(help="Column of --samples whose values stay together in a fold, such as patient.")
    ] = None,
    baselines: Annotated[
        bool, typer.Option(help="Score an untrained encoder and joint embedding too, where there are labels.")
    ] = True,
    workers: Workers = None,
    device: Device = "auto",
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Turn slides into an AnnData of their cells with a SpliCER embedding, and a report.

    Segments where no mask is given, measures the cells, cuts patches, trains (or takes --model), embeds, clusters,
    scores where labels are given, and writes SLIDE.mxs/. Interrupted, the same command goes on where it stopped.
    """
    from mxsplicer.pipeline import Options, embed_slides

    options = Options(
        masks=tuple(mask or ()),
        mask_page=mask_page,
        markers=markers,
        pixel_size_um=pixel_size_um,
        nuclear_marker=nuclear_marker,
        nucleus_diameter_um=nucleus_diameter_um,
        expansion_um=expansion_um,
        min_area_um2=min_area_um2,
        patch_size_um=patch_size_um,
        training_cells=training_cells,
        model=model,
        method=method,
        loss=loss,
        encoder=encoder,
        encoder_width=encoder_width,
        component_width=component_width,
        chunk_width=chunk_width,
        redundancy_weight=redundancy_weight,
        views=views,
        surroundings=surroundings,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        labels=labels,
        label=tuple(label or ()),
        samples=samples,
        groups=groups,
        baselines=baselines,
        seed=seed,
    )
    with progress.shown():
        result = embed_slides(slides, out, options=options, device=device, workers=workers, overwrite=overwrite)
    summarize(result)


def summarize(result: "Result") -> None:
    """Print what came out, where it lies, and what to type next."""
    import anndata
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

    from mxsplicer import tl
    from mxsplicer.result import open_result

    adata = anndata.read_h5ad(result.cells, backed="r")
    about, console = adata.uns["mxsplicer"], Console(highlight=False, soft_wrap=True)
    use_rep = f"X_{about['method']}"
    n_features = adata.obsm[use_rep].shape[1]
    console.print(f"\n[bold]{adata.n_obs:,} cells[/] of {adata.n_vars} markers, {n_features} features each")
    for name, ledger in about["ledger"].items():
        console.print(f"  {name}: " + ", ".join(f"{count:,} {fate}" for fate, count in ledger.items()), markup=False)
    stages = json.loads(result.settings.read_text(encoding="utf-8"))["seconds"]
    took = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in stages.items())
    console.print(f"  {took}; {sum(stages.values()):.0f} s in all", markup=False)
    if "mxsplicer_probe" in adata.uns:
        scores = pd.DataFrame(adata.uns["mxsplicer_probe"])
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
    slide = open_result(result.path)["slides"][0]
    console.print(
        f"""
AnnData  {result.cells}
report   {result.report}

next, in Python:
  import anndata, scanpy as sc
  adata = anndata.read_h5ad("{result.cells}")
  sc.pp.neighbors(adata, use_rep="{use_rep}")
  sc.tl.leiden(adata, flavor="igraph", n_iterations=2, directed=False)
  sc.tl.umap(adata); sc.pl.umap(adata, color="leiden")
and to look at the slide (pip install "napari[pyqt6]"):
  napari {slide["image"]}""",
        markup=False,
    )
