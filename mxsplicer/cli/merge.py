"""`mxsplicer merge`: combine slides that were embedded one by one."""

from pathlib import Path
from typing import Annotated

import typer

from mxsplicer.cli.embed import print_summary, report_failed
from mxsplicer.cli.help_pages import INPUT
from mxsplicer.cli.options import Overwrite, Seed, register
from mxsplicer.system import progress

# Options of this command alone.
_Results = Annotated[
    list[Path],
    typer.Argument(
        metavar="RESULT",
        help="Folders that `embed --model` wrote, or files of their outcomes (--outcome).",
        show_default=False,
    ),
]


def add_merge(app: typer.Typer) -> None:
    """Add the command `mxsplicer merge`."""
    register(app, merge_command)


def merge_command(
    results: _Results,
    out: Annotated[Path, typer.Option(help="Result folder.", show_default=False, rich_help_panel=INPUT)],
    *,
    cohort: Path | None,
    score: tuple[str, ...],
    fold_by: str | None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Combine slides that one model embedded: one AnnData, clusters, scores and a report.

    Slides that failed are listed, and the exit code is 1.
    """
    from mxsplicer.result.merging import merge_results
    from mxsplicer.result.options import Options, names_slides
    from mxsplicer.splicer.recipe import Recipe

    tables = {"cohort" if cohort and names_slides(cohort) else "samples": cohort}
    options = Options(**tables, label=score, groups=fold_by, recipe=Recipe(seed=seed))  # type: ignore[arg-type]
    with progress.shown():
        result = merge_results(results, out, options=options, overwrite=overwrite)
    print_summary(result)
    report_failed(result)
