"""`mxsplicer verify`: whether a result still is what its inputs make."""

import json
from pathlib import Path
from typing import Annotated

import typer

from mxsplicer.cli.options import AsJson, Device, OwnEncoder, Seed
from mxsplicer.system import progress


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(verify)


def verify(
    result: Annotated[
        Path,
        typer.Argument(metavar="RESULT", help="Folder that embed wrote, or the cells.h5ad in it.", show_default=False),
    ],
    n_cells: Annotated[int, typer.Option("--cells", min=0, help="How many cells are computed again.")] = 64,
    seed: Seed = 0,
    encoder: OwnEncoder = "",
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Compare the fingerprints of image, mask, markers and weights, and compute some cells again.

    Ends with exit code 0 where everything agrees, 1 where something does not, 2 where there is no finished result.
    """
    from mxsplicer.result.verification import verify as verify_result

    with progress.shown():
        found = verify_result(result, n_cells=n_cells, seed=seed, encoder=encoder, device=device)
    if as_json:
        typer.echo(json.dumps(found.to_dict(), ensure_ascii=False))
    else:
        for check in found.checks:
            typer.echo(f"{'ok   ' if check.agrees else 'WRONG'}  {check.name}: {check.detail}")
    raise typer.Exit(0 if found.agrees else 1)
