"""`mxsplicer verify`: whether a result still agrees with its inputs."""

import json
from typing import Annotated

import typer

from mxsplicer.cli.options import AsJson, EncoderClass, ResultPath, Seed, register
from mxsplicer.system import progress


def add_verify(app: typer.Typer) -> None:
    """Add the command `mxsplicer verify`."""
    register(app, verify_command)


def verify_command(
    result: ResultPath,
    n_cells: Annotated[int, typer.Option("--cells", min=0, help="Number of cells to compute again.")] = 64,
    seed: Seed = 0,
    encoder_class: EncoderClass = "",
    *,
    device: str,
    as_json: AsJson = False,
) -> None:
    """Compare the fingerprints of image, mask, markers and weights, and compute some cells again.

    The exit code is 0 if everything agrees, 1 if something does not, and 2 if the result is not finished.
    """
    from mxsplicer.result.verification import verify as verify_result

    with progress.shown():
        found = verify_result(result, n_cells=n_cells, seed=seed, encoder=encoder_class, device=device)
    if as_json:
        typer.echo(json.dumps(found.to_dict(), ensure_ascii=False))
    else:
        for check in found.checks:
            typer.echo(f"{'ok   ' if check.agrees else 'WRONG'}  {check.name}: {check.detail}")
    raise typer.Exit(0 if found.agrees else 1)
