"""`mxsplicer annotate`: predict the names of cells by a classifier, or train one on named cells."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mxsplicer.cli.options import AsJson, Overwrite, Seed, UseRep, register
from mxsplicer.errors import InputError
from mxsplicer.system import progress

if TYPE_CHECKING:
    from mxsplicer.tl.cell_classifier import CellClassifier, Predictions

# Options of this command alone.
_Results = Annotated[
    list[Path],
    typer.Argument(metavar="RESULT", help="Folders that embed wrote, or their cells.h5ad.", show_default=False),
]
_Apply = Annotated[
    Path | None, typer.Option("--apply", metavar="FILE.json", help="Classifier to apply.", show_default=False)
]
_Names = Annotated[
    str | None,
    typer.Option(
        metavar="CSV|COLUMN",
        help="Train a classifier on named cells of one RESULT: a table of them, such as annotations.csv of the panel, "
        "or a column of obs.",
        show_default=False,
    ),
]
_Column = Annotated[
    str | None, typer.Option(help="Column of the table that has the names, if it has several.", show_default=False)
]
_Save = Annotated[
    Path | None,
    typer.Option(metavar="FILE.json", help="Save the classifier, to apply it to other results.", show_default=False),
]
_Key = Annotated[str, typer.Option("--key-added", metavar="NAME", help="Column of obs for the predicted names.")]


def add_annotate(app: typer.Typer) -> None:
    """Add the command `mxsplicer annotate`."""
    register(app, annotate_command)


def annotate_command(
    results: _Results,
    *,
    apply: _Apply = None,
    names: _Names = None,
    column: _Column = None,
    save: _Save = None,
    key_added: _Key = "predicted",
    use_rep: UseRep = None,
    seed: Seed = 0,
    as_json: AsJson = False,
    overwrite: Overwrite = False,
) -> None:
    """Predict the name of every cell from its features; cells unlike all named ones are unknown.

    Writes the columns predicted and predicted_confidence into obs of each RESULT. A classifier is one JSON file without
    code, which the panel or --names makes, and applies to every result of the same model.
    """
    from mxsplicer.result.annotation import annotate_result, check_annotation, train_on_result
    from mxsplicer.result.folder import find_cells
    from mxsplicer.system.files import check_free
    from mxsplicer.tl.classifier_files import load_classifier, save_classifier

    _check_arguments(results, apply, names, column, save)
    if save is not None:
        check_free(save, overwrite=overwrite)
    with progress.shown():
        if apply is not None:
            classifier = load_classifier(apply)
        else:
            classifier = train_on_result(results[0], names or "", column=column, use_rep=use_rep, seed=seed)
        how = {"key_added": key_added, "overwrite": overwrite}
        complete = {path: check_annotation(path, classifier, **how) for path in results}  # type: ignore[arg-type]
        if save is not None:
            save_classifier(classifier, save, overwrite=overwrite)
        found = {path: complete[path] or annotate_result(path, classifier, **how) for path in results}  # type: ignore[arg-type]
    if as_json:
        typer.echo(json.dumps(_facts(classifier, found), ensure_ascii=False, indent=1))
        return
    typer.echo(classifier.describe())
    for path, predictions in found.items():
        _show(path, predictions)
        done = "is complete" if complete[path] else f"is written: obs has {key_added} and {key_added}_confidence"
        typer.echo(f"{find_cells(path)} {done}.")
    if save is not None:
        typer.echo(f"{save} has the classifier. Apply it with `mxsplicer annotate RESULT --apply {save}`.")


def _check_arguments(
    results: list[Path], apply: Path | None, names: str | None, column: str | None, save: Path | None
) -> None:
    if (apply is None) == (names is None):
        msg = "A classifier to apply, or names to train one on, are needed" + (", not both." if apply else ".")
        raise InputError(msg, "Pass --apply FILE.json or --names TABLE.")
    if apply is not None and (save is not None or column is not None):
        msg = f"{'--save' if save else '--column'} is for a classifier that is trained on --names."
        raise InputError(msg)
    if names is not None and len(results) > 1:
        msg = f"--names trains on one result, and {len(results)} were given."
        raise InputError(msg, "Train on one of them with --save FILE.json, and pass --apply FILE.json for the others.")


def _show(path: Path, predictions: "Predictions") -> None:
    counts = predictions.counts()
    width, n = max(map(len, counts)), len(predictions.codes)
    typer.echo(f"{path}: {n:,} cells, {100 * predictions.share_unknown:.1f} % unknown")
    for code, (name, count) in enumerate(counts.items()):
        own = predictions.codes == (code if code < len(predictions.classes) else -1)
        confidence = f"  mean confidence {predictions.confidence[own].mean():.2f}" if count else ""
        typer.echo(f"  {name:<{width}}  {count:>9,}  {100 * count / max(n, 1):5.1f} %{confidence}")


def _facts(classifier: "CellClassifier", found: dict[Path, "Predictions"]) -> dict[str, object]:
    return {
        "classes": list(classifier.classes),
        "trained_on": dict(classifier.counts),
        "balanced_accuracy_among_named": classifier.about.get("balanced_accuracy"),
        "results": {
            str(path): {"counts": one.counts(), "share_unknown": one.share_unknown} for path, one in found.items()
        },
    }
