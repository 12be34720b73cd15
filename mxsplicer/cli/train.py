"""`mxsplicer train`: an encoder from patches."""

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mxsplicer.cli.help_pages import RUNNING, SCORES
from mxsplicer.cli.options import Overwrite, register
from mxsplicer.cli.outputs import Output
from mxsplicer.splicer.recipe import Recipe
from mxsplicer.system import progress

if TYPE_CHECKING:
    from mxsplicer.patches.store import PatchStore


# How torchrun, srun and Fabric number processes: of several, the first holds the lock.
_RANKS = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK")

# Options of this command alone.
_Stores = Annotated[
    list[Path],
    typer.Argument(
        metavar="PATCHES.zarr",
        help="Stores, or files of the outcomes of their extraction (--outcome).",
        show_default=False,
    ),
]
_Devices = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Devices on each machine; one by default, or those that torchrun or srun started.",
        show_default=False,
        rich_help_panel=RUNNING,
    ),
]
_Nodes = Annotated[
    int | None,
    typer.Option(min=1, help="Machines; one by default, or as above.", show_default=False, rich_help_panel=RUNNING),
]
_Labels = Annotated[
    Path | None,
    typer.Option(
        metavar="TABLE",
        help="Table of labels, one row per cell: a linear probe of them is logged about twenty times.",
        show_default=False,
        rich_help_panel=SCORES,
    ),
]
_Score = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="Column of --labels; the first column of words by default.",
        show_default=False,
        rich_help_panel=SCORES,
    ),
]
_Tensorboard = Annotated[
    Path | None,
    typer.Option(help="Folder to write events for TensorBoard to.", show_default=False, rich_help_panel=RUNNING),
]


def add_train(app: typer.Typer) -> None:
    """Add the command `mxsplicer train`."""
    register(app, train_command, common=("out", "overwrite", "labels", "score", "devices", "nodes"))


def train_command(
    stores: _Stores,
    out: Annotated[Path, typer.Option(metavar="RUN", help="Run folder to write.", show_default=False)],
    *,
    recipe: Recipe,
    panel: str,
    device: str,
    devices: _Devices = None,
    nodes: _Nodes = None,
    labels: _Labels = None,
    score: _Score = None,
    tensorboard: _Tensorboard = None,
    max_memory: int | None,
    overwrite: Overwrite = False,
) -> None:
    """Train an encoder on the patches of one or more slides. If interrupted, the same command continues."""
    output = Output(out)
    if output.is_complete(overwrite=overwrite):
        return
    from mxsplicer.patches.store import PatchStore
    from mxsplicer.result.outcomes import read_outcomes
    from mxsplicer.splicer import training
    from mxsplicer.splicer.processes import is_first
    from mxsplicer.system.locks import folder_lock

    found, failed = read_outcomes(stores)
    for slide, reason in failed.items():
        typer.echo(f"without slide {slide}: {reason}", err=True)
    opened = [PatchStore.open(path) for path in found]

    with progress.shown(), ExitStack() as stack:
        if all(os.environ.get(rank, "0") == "0" for rank in _RANKS):
            stack.enter_context(folder_lock(out))
        run = training.train(
            opened,
            out,
            recipe=recipe,
            panel=panel,
            labels=_probe_labels(opened, labels, score) if labels else None,
            device=device,
            devices=devices,
            nodes=nodes,
            tensorboard=tensorboard,
            max_bytes=max_memory,
            overwrite=overwrite,
        )
    if is_first():
        output.record()
        typer.echo(f"{out}: {run.features} features per cell, {run.settings['steps']:,} steps")


def _probe_labels(stores: "list[PatchStore]", table: Path, column: str | None) -> list[list[object]]:
    """Return the labels that `mxsplicer train` takes from a table, for the cells of each store."""
    import anndata
    import numpy as np
    import pandas as pd

    from mxsplicer.tl.labels import join_labels

    slides = [store.slide_name for store in stores]
    matched = ["cell_id", "x_px", "y_px"]
    cells = pd.concat([store.cells[matched].assign(slide=store.slide_name) for store in stores], ignore_index=True)
    cells = cells.assign(slide=pd.Categorical(cells["slide"], list(dict.fromkeys(slides)))).set_index(
        cells.index.astype(str)
    )
    adata = anndata.AnnData(np.zeros((len(cells), 0), np.float32), obs=cells)
    found = adata.obs[join_labels(adata, table, [column] if column else [])[0]]
    ends = np.cumsum([store.n_cells for store in stores])
    return [list(part) for part in np.split(found.to_numpy(dtype=object), ends[:-1])]
