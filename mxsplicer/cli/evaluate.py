"""`mxsplicer evaluate`: score an embedding on labels, compared with every baseline."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mxsplicer.cli.errors import as_options
from mxsplicer.cli.help_pages import INPUT, RUNNING, SCORES
from mxsplicer.cli.options import AsJson, EncoderClass, Overwrite, Seed, register
from mxsplicer.cli.outputs import Output
from mxsplicer.errors import InputError
from mxsplicer.system import progress
from mxsplicer.system.files import atomic_write, check_free
from mxsplicer.tl.defaults import MAX_IMAGE_CELLS, MAX_IMPORTANCE_CELLS, MAX_SCORED_CELLS

if TYPE_CHECKING:
    import pandas as pd

    from mxsplicer.evaluation import Evaluation

_WIDTH = 140  # of tables that go to a file
_MOST_MARKERS = 10  # that are shown; the JSON has all
_OPTIONS_IN_NOTES = ("--train-on", "--test-on", "--image-cells")

# Options of this command alone.
_Result = Annotated[
    Path, typer.Argument(metavar="RESULT|cells.h5ad", help="What embed wrote, or any AnnData.", show_default=False)
]
_Labels = Annotated[
    str | None,
    typer.Option(
        metavar="CSV|GEOJSON|COLUMN",
        help="Table of cells, outlines with classes (for several slides a folder of them), or a column of obs.",
        rich_help_panel=INPUT,
    ),
]
_Score = Annotated[
    list[str] | None,
    typer.Option(
        metavar="COLUMN",
        help="Column to score, of the table or of obs; repeat for several.",
        show_default=False,
        rich_help_panel=INPUT,
    ),
]
_Cohort = Annotated[
    Path | None,
    typer.Option(metavar="TABLE", help="Table of the slides: patient, batch, ...", rich_help_panel=INPUT),
]
_Compare = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="RESULT|OTHER.h5ad",
        help="Another embedding of the same cells to compare with; repeat for several.",
        show_default=False,
        rich_help_panel=INPUT,
    ),
]
_UseRep = Annotated[
    list[str] | None,
    typer.Option(help="Further key of obsm to score; repeat for several.", rich_help_panel=INPUT),
]
_FoldBy = Annotated[
    str | None,
    typer.Option(
        metavar="patient|slide|quadrants",
        help="What folds consist of: values of a column stay together, or quadrants of each slide. By default "
        "patient, slide or quadrants, the first with three or more values.",
        show_default=False,
        rich_help_panel=SCORES,
    ),
]
_GuardUm = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="Width of the band between quadrants; the side of a patch by default.",
        show_default=False,
        rich_help_panel=SCORES,
    ),
]
_TrainOn = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SLIDE",
        help="Train the probe on the cells of this slide and test it on other slides; repeat for several. With "
        "--fold-by, a value of that column.",
        show_default=False,
        rich_help_panel=SCORES,
    ),
]
_TestOn = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SLIDE",
        help="Test on the cells of this slide, which then do not train; repeat for several. By default all slides that "
        "do not train.",
        show_default=False,
        rich_help_panel=SCORES,
    ),
]
_UnsafeRandomSplit = Annotated[
    bool,
    typer.Option(
        "--unsafe-random-split",
        help="Also score in random folds, with neighbours in training and test, to show how much this inflates.",
        rich_help_panel=SCORES,
    ),
]
_MaxCells = Annotated[int, typer.Option(min=100, help="Score at most this many cells.", rich_help_panel=SCORES)]
_Images = Annotated[
    bool,
    typer.Option(help="Read patches, or cut them, for the baselines that need pixels.", rich_help_panel=SCORES),
]
_ImageCells = Annotated[
    int, typer.Option(min=100, help="Read the patches of at most this many cells.", rich_help_panel=SCORES)
]
_ImportanceCells = Annotated[
    int,
    typer.Option(
        min=100,
        help="Cells for permutation importance, which embeds them once per marker.",
        rich_help_panel=SCORES,
    ),
]
_Out = Annotated[
    Path | None, typer.Option(metavar="scores.csv", help="Table of scores to write.", rich_help_panel=RUNNING)
]
_Write = Annotated[
    bool, typer.Option("--write", help="Write the scores into uns of the AnnData file.", rich_help_panel=RUNNING)
]


def add_evaluate(app: typer.Typer) -> None:
    """Add the command `mxsplicer evaluate`."""
    register(
        app,
        evaluate_command,
        common=("labels", "score", "cohort", "compare", "fold_by", "train_on", "test_on", "out", "write", "as_json"),
    )


def evaluate_command(
    result: _Result,
    labels: _Labels = None,
    score: _Score = None,
    cohort: _Cohort = None,
    compare: _Compare = None,
    use_rep: _UseRep = None,
    *,
    roi: Path | None,
    fold_by: _FoldBy = None,
    guard_um: _GuardUm = None,
    train_on: _TrainOn = None,
    test_on: _TestOn = None,
    unsafe_random_split: _UnsafeRandomSplit = False,
    max_cells: _MaxCells = MAX_SCORED_CELLS,
    images: _Images = True,
    image_cells: _ImageCells = MAX_IMAGE_CELLS,
    importance_cells: _ImportanceCells = MAX_IMPORTANCE_CELLS,
    out: _Out = None,
    write: _Write = False,
    seed: Seed = 0,
    encoder_class: EncoderClass = "",
    device: str,
    as_json: AsJson = False,
    overwrite: Overwrite = False,
) -> None:
    """Score an embedding on labels, by a linear probe and by neighbours, and name the best description of the cells."""
    output, complete = None if out is None else Output(out), False
    if output is not None:
        if not output.path.absolute().parent.is_dir():
            msg = f"The folder {output.path.parent} of `out` does not exist."
            raise InputError(msg, "Create it first.")
        complete = output.is_complete(overwrite=overwrite, as_json=as_json)
        if complete and not as_json:
            return
        check_free(output.path, overwrite=overwrite or complete)
    from mxsplicer import evaluation

    with progress.shown():
        found = evaluation.evaluate(
            result,
            labels=labels,
            label=score or (),
            samples=cohort,
            groups=fold_by,
            guard_um=guard_um,
            train_on=train_on or (),
            test_on=test_on or (),
            compare=compare or (),
            use_rep=use_rep or (),
            roi=roi,
            unsafe_random_split=unsafe_random_split,
            max_cells=max_cells,
            images=images,
            image_cells=image_cells,
            importance_cells=importance_cells,
            seed=seed,
            encoder=encoder_class,
            device=device,
        )
    if as_json:
        typer.echo(json.dumps(_as_json(found), ensure_ascii=False, indent=1))
    else:
        _show(found)
    if write:
        evaluation.write_scores(found, result)
    if output is not None and not complete:
        with atomic_write(output.path) as temporary:
            found.scores.to_csv(temporary, index=False)
        output.record()


def _as_json(found: "Evaluation") -> dict[str, Any]:
    tables = {"scores": found.scores, **found.tables}
    rows = {name: json.loads(table.to_json(orient="records")) for name, table in tables.items()}  # NaN becomes null
    return {"verdicts": found.verdicts, "notes": found.notes, **rows}


def _show(found: "Evaluation") -> None:
    from rich.console import Console

    width = Console().width
    console = Console(highlight=False, soft_wrap=True, width=width if Console().is_terminal else max(width, _WIDTH))
    for sentence, (label, rows) in zip(found.verdicts, found.scores.groupby("label", sort=False), strict=True):
        first = rows.iloc[0]
        about = f"{first['n_cells']:,} of {first['n_labelled']:,} labelled cells, {first['n_classes']} classes"
        console.print(f"\n[bold]{label}[/]: {about}; {first['folds']} folds by {first['folds_by']}")
        if first["left_out"]:
            console.print(f"left out, too rare to be in every fold: {first['left_out']}", markup=False)
        console.print(_scores_table(rows))
        if "leak" in rows:
            console.print(_leak_table(rows))
        if len(found.efficiency) and (of_label := found.efficiency[found.efficiency["label"] == label]).size:
            console.print(_efficiency_table(of_label))
        console.print(_structure_table(rows))
        if len(found.importance):
            console.print(_importance_table(found.importance[found.importance["label"] == label]))
        console.print(f"\n{sentence}", style="bold", markup=False)
    if len(found.mixing):
        console.print(_mixing_table(found.mixing))
    for note in found.notes:
        console.print(f"note: {as_options(note, _OPTIONS_IN_NOTES)}", markup=False)


def _table(*headings: str) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    return table


def _scores_table(rows: "pd.DataFrame") -> Any:
    import pandas as pd

    from mxsplicer.tl.probing import TRAINED_GAINS
    from mxsplicer.tl.representations import trained

    own = trained(list(rows["representation"]))
    gains = list(TRAINED_GAINS) if rows["trained_gain"].notna().any() else []
    headings = ("lead by probe", "lead by neighbours")[: len(gains)]
    table = _table("described by", "probe", "20 neighbours", *headings, "macro-F1", "AP", "AUROC")
    first, rest = ("balanced_accuracy", "knn_balanced_accuracy"), ("macro_f1", "average_precision", "auroc")
    for _, row in rows.sort_values("balanced_accuracy", ascending=False).iterrows():
        is_own = row["representation"] == own
        points = ["" if is_own or pd.isna(row[one]) else _in_points(row, one) for one in gains]
        scores = [[_with_sd(row, name) for name in names] for names in (first, rest)]
        table.add_row(row["representation"], *scores[0], *points, *scores[1])
    table.add_row("chance", *[f"{rows['chance'].iloc[0]:.3f}"] * 2)
    if gains:
        table.caption, table.caption_justify = f"lead: how many points {own} is above this description", "left"
    return table


def _in_points(row: Any, name: str) -> str:
    return f"{row[name] * 100:+.1f}±{row[f'{name}_sd'] * 100:.1f}"


def _leak_table(rows: "pd.DataFrame") -> Any:
    table = _table("UNSAFE random folds", "balanced acc.", "leak (random minus guarded)")
    for _, row in rows.iterrows():
        table.add_row(row["representation"], _with_sd(row, "random_split"), f"{row['leak'] * 100:+.1f} points")
    return table


def _efficiency_table(rows: "pd.DataFrame") -> Any:
    sizes = list(dict.fromkeys(rows["labels_per_class"]))
    table = _table("balanced acc. by labels per class", *(f"{size:,}" for size in sizes))
    for name, curve in rows.groupby("representation", sort=False):
        at = curve.set_index("labels_per_class")
        table.add_row(str(name), *(_with_sd(at.loc[size], "balanced_accuracy") for size in sizes))
    return table


def _structure_table(rows: "pd.DataFrame") -> Any:
    table = _table("without a probe", "features", "RankMe", "silhouette", "NMI", "ARI")
    for _, row in rows[rows["rank_me"].notna()].iterrows():
        values = (f"{row[name]:.3f}" for name in ("silhouette", "nmi", "ari"))
        table.add_row(row["representation"], f"{row['features']:.0f}", f"{row['rank_me']:.1f}", *values)
    return table


def _importance_table(rows: "pd.DataFrame") -> Any:
    names = list(dict.fromkeys(rows["representation"]))
    table = _table("points lost without a marker", *names)
    by_marker = {name: rows[rows["representation"] == name].set_index("marker") for name in names}
    for marker in by_marker[names[0]].sort_values("loss", ascending=False).index[:_MOST_MARKERS]:
        cells = [
            f"{of.loc[marker, 'loss'] * 100:.1f}±{of.loc[marker, 'loss_sd'] * 100:.1f}" if marker in of.index else ""
            for of in by_marker.values()
        ]
        table.add_row(str(marker), *cells)
    return table


def _mixing_table(rows: "pd.DataFrame") -> Any:
    further = [name for name in ("ilisi", "kbet", "pcr") if name in rows]
    batch, chance = rows["batch"].iloc[0], rows["chance"].iloc[0]
    table = _table(f"predicting the {batch} (chance {chance:.3f})", "balanced acc.", *further)
    for _, row in rows.iterrows():
        table.add_row(row["representation"], _with_sd(row, "predictability"), *(f"{row[name]:.3f}" for name in further))
    return table


def _with_sd(row: Any, name: str) -> str:
    import pandas as pd

    return "" if pd.isna(row[name]) else f"{row[name]:.3f}±{row[name + '_sd']:.3f}"  # concatenations have no neighbours
