"""`mxsplicer merge`: slides that were embedded one by one become one result."""

from pathlib import Path
from typing import Annotated

import typer

from mxsplicer.cli.embed import say_failed, summarize
from mxsplicer.cli.options import INPUT, SCORES, Overwrite, Seed
from mxsplicer.system import progress


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(merge)


def merge(
    results: Annotated[
        list[Path],
        typer.Argument(
            metavar="RESULT",
            help="Folders that `embed --model` wrote, or files that tell how it ended (--outcome).",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Result folder.", show_default=False, rich_help_panel=INPUT)],
    cohort: Annotated[
        Path | None,
        typer.Option(
            metavar="SAMPLES.csv",
            help="Table of the slides: patient, batch, ..., and their labels, if any.",
            show_default=False,
            rich_help_panel=INPUT,
        ),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(help="Column of the tables of labels to score; all of words by default.", rich_help_panel=SCORES),
    ] = None,
    groups: Annotated[
        str | None,
        typer.Option(help="Column of --cohort whose values stay together in a fold.", rich_help_panel=SCORES),
    ] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Bring slides that one model embedded together: one AnnData, clusters, scores and a report.

    Slides that failed are listed, and the exit code is 1.
    """
    from mxsplicer.result.merging import merge_results
    from mxsplicer.result.options import Options
    from mxsplicer.result.outcomes import read_outcomes
    from mxsplicer.splicer.recipe import Recipe

    folders, failed = read_outcomes(results)
    options = Options(cohort=cohort, label=tuple(label or ()), groups=groups, recipe=Recipe(seed=seed))
    with progress.shown():
        result = merge_results(folders, out, options=options, failed=failed, overwrite=overwrite)
    summarize(result)
    say_failed(result)
