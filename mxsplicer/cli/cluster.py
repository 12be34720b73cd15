"""`mxsplicer cluster`: cluster the cells of a result again."""

from pathlib import Path
from typing import Annotated

import typer

from mxsplicer.cli.options import ResultPath, Seed, UseRep, register
from mxsplicer.system import progress

# Options of this command alone.
_MaxCells = Annotated[
    int, typer.Option(min=3, help="Cluster at most this many cells; the others join the cluster of their nearest.")
]
_Backend = Annotated[str, typer.Option(metavar="scanpy|rapids", help="rapids: rapids-singlecell, on an NVIDIA GPU.")]
_Enrichment = Annotated[
    bool,
    typer.Option("--neighbourhoods", help="Also compute the clusters' neighbourhood enrichment with squidpy."),
]


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    register(app, cluster)


def cluster(
    result: ResultPath,
    resolution: Annotated[float, typer.Option(min=0.0, help="Higher gives more clusters.")] = 1.0,
    n_neighbors: Annotated[int, typer.Option(min=2, help="Nearest neighbours of each cell in the graph.")] = 15,
    use_rep: UseRep = None,
    *,
    roi: Path | None,
    max_cells: _MaxCells = 50_000,
    backend: _Backend = "scanpy",
    enrichment: _Enrichment = False,
    seed: Seed = 0,
) -> None:
    """Cluster the cells of a result again, compute a UMAP and suggest names; cells.h5ad is replaced at the end.

    With --roi only the cells inside are clustered, and the others have no cluster.
    """
    from mxsplicer import tl
    from mxsplicer.embedding.h5ad import open_cells, save_cells
    from mxsplicer.result.folder import find_cells
    from mxsplicer.tl.representations import learned_features

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
    for name, suggested in names.items():
        typer.echo(f"{name:>3}  {counts[name]:>9,} cells  {suggested}")
    typer.echo(f"{path} is written. Update the report with `mxsplicer report RESULT --overwrite`.")
