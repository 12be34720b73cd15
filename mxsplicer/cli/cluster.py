"""`mxsplicer cluster`: the clusters of a result, anew."""

from typing import Annotated

import typer

from mxsplicer.cli.options import CellsPath, Roi, Seed, UseRep
from mxsplicer.system import progress


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(cluster)


def cluster(
    result: CellsPath,
    resolution: Annotated[float, typer.Option(min=0.0, help="Higher gives more clusters.")] = 1.0,
    n_neighbors: Annotated[int, typer.Option(min=2, help="Cells that a cell is compared with.")] = 15,
    use_rep: UseRep = None,
    roi: Roi = None,
    max_cells: Annotated[
        int, typer.Option(min=3, help="Cells clustered at most; every other cell joins the clusters of its nearest.")
    ] = 50_000,
    backend: Annotated[
        str, typer.Option(metavar="scanpy|rapids", help="rapids: rapids-singlecell, on an NVIDIA GPU.")
    ] = "scanpy",
    enrichment: Annotated[
        bool, typer.Option("--neighbourhoods", help="Count which clusters lie side by side, through squidpy.")
    ] = False,
    seed: Seed = 0,
) -> None:
    """Cluster the cells of a result anew, lay them out and suggest names; cells.h5ad is replaced when all is done.

    With --roi only the cells inside are clustered, and the others are in no cluster.
    """
    from mxsplicer import tl
    from mxsplicer.embedding.h5ad import open_cells, save_cells
    from mxsplicer.result.folder import find_cells
    from mxsplicer.tl.rows import learned_features

    path = find_cells(result)
    with progress.shown(), open_cells(path) as adata:
        adata.uns.pop("leiden_nhood_enrichment", None)
        with tl.restricted(adata, roi) as cells:
            tl.cluster(
                cells,
                use_rep=use_rep or learned_features(cells),
                resolution=resolution,
                n_neighbors=n_neighbors,
                max_cells=max_cells,
                backend=backend,  # type: ignore[arg-type]
                seed=seed,
            )
            names = tl.name_clusters(cells)
            if enrichment:
                tl.enrich_neighbourhoods(cells)
        save_cells(adata, path)
        counts = adata.obs["leiden"].value_counts()
    for name, said in names.items():
        typer.echo(f"{name:>3}  {counts[name]:>9,} cells  {said}")
    typer.echo(f"{path} is written. Write its page anew with `mxsplicer report RESULT --overwrite`.")
