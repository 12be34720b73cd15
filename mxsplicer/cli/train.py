"""`mxsplicer train`: an encoder from patches."""

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mxsplicer.cli.options import RUNNING, SCORES, Device, MaxMemory, Overwrite, Panel, takes_recipe
from mxsplicer.splicer.recipe import Recipe
from mxsplicer.system import progress

if TYPE_CHECKING:
    from mxsplicer.patches.store import PatchStore


# What torchrun, srun and Fabric call the number of a process: of several, the first holds the lock.
_RANKS = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(takes_recipe(train))


def train(
    stores: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATCHES.zarr",
            help="Stores, or files that tell how their extraction ended (--outcome).",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Run folder to write.", show_default=False)],
    *,
    recipe: Recipe,
    panel: Panel = "same",
    device: Device = "auto",
    devices: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Devices to use on each machine; one by default, or what torchrun or srun started.",
            show_default=False,
            rich_help_panel=RUNNING,
        ),
    ] = None,
    nodes: Annotated[
        int | None,
        typer.Option(min=1, help="Machines; one by default, or as above.", show_default=False, rich_help_panel=RUNNING),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Table of labels, one row per cell: now and then a linear probe of them is logged.",
            show_default=False,
            rich_help_panel=SCORES,
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(
            help="Column of --labels; the first of words by default.", show_default=False, rich_help_panel=SCORES
        ),
    ] = None,
    tensorboard: Annotated[
        Path | None,
        typer.Option(help="Folder to write events for TensorBoard to.", show_default=False, rich_help_panel=RUNNING),
    ] = None,
    max_memory: MaxMemory = None,
    overwrite: Overwrite = False,
) -> None:
    """Train an encoder on the patches of one or more slides. Interrupted, the same command goes on."""
    from mxsplicer.patches.store import PatchStore
    from mxsplicer.result.outcomes import read_outcomes
    from mxsplicer.splicer import training
    from mxsplicer.splicer.processes import is_first
    from mxsplicer.system.locks import folder_lock
    from mxsplicer.system.memory import parse_bytes

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
            labels=_labels(opened, labels, label) if labels else None,
            device=device,
            devices=devices,
            nodes=nodes,
            tensorboard=tensorboard,
            max_bytes=parse_bytes(max_memory) if max_memory else None,
            overwrite=overwrite,
        )
    if is_first():
        typer.echo(f"{out}: {run.features} features per cell, {run.settings['steps']:,} steps")


def _labels(stores: "list[PatchStore]", table: Path, column: str | None) -> list[list[object]]:
    """Return the labels of a table for the cells of each store."""
    import anndata
    import numpy as np
    import pandas as pd

    from mxsplicer.tl.labels import join_labels

    slides = [store.slide_name for store in stores]
    cells = pd.concat([store.cells[["cell_id"]].assign(slide=store.slide_name) for store in stores], ignore_index=True)
    cells = cells.assign(slide=pd.Categorical(cells["slide"], list(dict.fromkeys(slides)))).set_index(
        cells.index.astype(str)
    )
    adata = anndata.AnnData(np.zeros((len(cells), 0), np.float32), obs=cells)
    found = adata.obs[join_labels(adata, table, [column] if column else [])[0]]
    ends = np.cumsum([store.n_cells for store in stores])
    return [list(part) for part in np.split(found.to_numpy(dtype=object), ends[:-1])]
