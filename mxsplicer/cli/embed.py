"""`mxsplicer embed`: from slides to an AnnData with an embedding, and a report."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mxsplicer.cli.help_pages import INPUT
from mxsplicer.cli.options import AsJson, EncoderClass, Overwrite, Plan, register
from mxsplicer.errors import InputError
from mxsplicer.result.options import Options, Running, check_slides_given
from mxsplicer.system import progress

if TYPE_CHECKING:
    from rich.console import Console

    from mxsplicer.result.folder import Result


# Options of this command alone.
_Slides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SLIDE",
        help="OME-TIFF, OME-Zarr (also by its URL), qptiff or TIFF stack; several slides of one panel.",
        show_default=False,
    ),
]
_Out = Annotated[
    Path | None,
    typer.Option(help="Result folder; SLIDE.mxs by default.", show_default=False, rich_help_panel=INPUT),
]
_Append = Annotated[
    Path | None,
    typer.Option(
        metavar="RESULT",
        help="Add slides to this finished result, with its model and clusters; its other slides do not change. "
        "With --cohort, the slides that it lacks.",
        show_default=False,
        rich_help_panel=INPUT,
    ),
]


def add_embed(app: typer.Typer) -> None:
    """Add the command `mxsplicer embed`."""
    register(app, embed_command, common=("out", "overwrite", "plan"))


def embed_command(
    slides: _Slides = None,
    out: _Out = None,
    append: _Append = None,
    encoder_class: EncoderClass = "",
    *,
    options: Options,
    running: Running,
    overwrite: Overwrite = False,
    plan: Plan = False,
    as_json: AsJson = False,
) -> None:
    """Turn slides into an AnnData of their cells with an embedding, and a report.

    Segments where no mask is given, measures the cells, embeds them by the built-in model (or trains one with --train,
    or uses --model), clusters, scores where labels are given, and writes SLIDE.mxs/. If interrupted, the same command
    continues.
    """
    check_slides_given(slides or (), options)
    how: dict[str, Any] = {**vars(running), "options": _with_encoder_class(options, encoder_class)}
    if plan:
        from mxsplicer.result.planning import plan_slides

        planned = plan_slides(slides or [], out, **how)
        typer.echo(json.dumps(asdict(planned), indent=1) if as_json else planned)
        return
    with progress.shown():
        if append is not None:
            from mxsplicer.result.merging import append_slides

            result = append_slides(slides or [], append, **how)
        else:
            from mxsplicer.result.pipeline import embed_slides

            result = embed_slides(slides or [], out, overwrite=overwrite, **how)
    print_summary(result)
    report_failed(result)


def _with_encoder_class(options: Options, encoder_class: str) -> Options:
    """Return the options of `mxsplicer embed` with the class of the encoder of ``options.model``."""
    if not encoder_class:
        return options
    if options.model is None:
        msg = "`encoder_class` is the encoder of a trained model, and no model was given."
        raise InputError(msg, "Pass `model`, or `encoder` to train one.")
    return replace(options, recipe=replace(options.recipe, encoder=encoder_class))


def report_failed(result: "Result") -> None:
    """Print the slides that `mxsplicer embed` left out, and end with exit code 1 if there are any."""
    failed = result.failed
    if failed:
        typer.echo(f"\n{len(failed)} of {len(result.slide_names)} slides are missing:", err=True)
        for name, reason in failed.items():
            typer.echo(f"  {name}  {reason}", err=True)
        raise typer.Exit(1)


def print_summary(result: "Result") -> None:
    """Print what `mxsplicer embed` made, where it is, and what to type next."""
    import anndata
    import h5py
    from rich.console import Console

    with h5py.File(result.cells, "r") as file:
        uns = anndata.io.read_elem(file["uns"])
        about, n_markers = uns["mxsplicer"], file["X"].shape[1]
        use_rep = f"X_{about['method']}"
        n_cells, n_features = file["obsm"][use_rep].shape
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"\n[bold]{n_cells:,} cells[/] of {n_markers} markers, {n_features} features each")
    for name, ledger in about["ledger"].items():
        counts = ", ".join(f"{count:,} {outcome}" for outcome, count in ledger.items())
        console.print(f"  {name}: {counts}", markup=False)
    stages = json.loads(result.settings.read_text(encoding="utf-8")).get("seconds", {})
    times = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in stages.items())
    console.print(f"  {times}; {sum(stages.values()):.0f} s in all", markup=False)
    if "mxsplicer_probe" in uns:
        _print_scores(console, uns["mxsplicer_probe"])
    has_report = result.report.is_file()
    report = f"report   {result.report}" if has_report else "no clusters yet: mxsplicer merge combines slides"
    console.print(_NEXT.format(cells=result.cells, report=report, use_rep=use_rep, path=result.path), markup=False)


_NEXT = """
AnnData  {cells}
{report}

next, in Python:
  import anndata, scanpy as sc
  adata = anndata.read_h5ad("{cells}")
  sc.pp.neighbors(adata, use_rep="{use_rep}")
  sc.tl.leiden(adata, flavor="igraph", n_iterations=2, directed=False)
  sc.tl.umap(adata); sc.pl.umap(adata, color="leiden")
and to see which feature follows which marker, and where (pip install 'mxsplicer[gui]'):
  mxsplicer view {path}"""


def _print_scores(console: "Console", probe: Any) -> None:
    import pandas as pd
    from rich.table import Table

    from mxsplicer import tl

    scores = pd.DataFrame(probe)
    heading = "balanced accuracy: probe (±sd across folds) / 20 neighbours"
    table = Table(heading, *dict.fromkeys(scores["label"]), box=None, pad_edge=False)
    for representation in dict.fromkeys(scores["representation"]):
        rows = scores[scores["representation"] == representation].set_index("label")
        cells = [
            f"{row.balanced_accuracy:.3f} ±{row.balanced_accuracy_sd:.3f} / {row.knn_balanced_accuracy:.3f}"
            for row in rows.itertuples()
        ]
        table.add_row(representation, *cells)
    chance = scores.drop_duplicates("label").set_index("label")["chance"]
    table.add_row("chance", *(f"{value:.3f}" for value in chance))
    console.print(table)
    for sentence in tl.verdict(scores):
        console.print("  " + sentence.replace("\n", "\n  "), markup=False)
