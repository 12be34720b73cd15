"""`mxsplicer cluster`: cluster the cells of a result again."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mxsplicer.cli.options import ResultPath, Seed, UseRep, register
from mxsplicer.system import progress
from mxsplicer.tl.defaults import MAX_CLUSTERED_CELLS, N_NEIGHBORS, RESOLUTION

if TYPE_CHECKING:
    from anndata import AnnData

_WIDTH = 21  # of "too small or unstable"

# Options of this command alone.
_NNeighbors = Annotated[int, typer.Option(min=2, help="Nearest neighbours of each cell in the graph.")]
_MaxCells = Annotated[
    int, typer.Option(min=3, help="Cluster at most this many cells; the others join the cluster of their nearest.")
]
_Backend = Annotated[str, typer.Option(metavar="scanpy|rapids", help="rapids: rapids-singlecell, on an NVIDIA GPU.")]
_Enrichment = Annotated[
    bool,
    typer.Option("--neighbourhoods", help="Also compute the clusters' neighbourhood enrichment with squidpy."),
]


def add_cluster(app: typer.Typer) -> None:
    """Add the command `mxsplicer cluster`."""
    register(app, cluster_command)


def cluster_command(
    result: ResultPath,
    resolution: Annotated[float, typer.Option(min=0.0, help="Higher gives more clusters.")] = RESOLUTION,
    n_neighbors: Annotated[
        int, typer.Option(min=2, help="Nearest neighbours of each cell in the graph.")
    ] = N_NEIGHBORS,
    use_rep: UseRep = None,
    *,
    roi: Path | None,
    max_cells: _MaxCells = MAX_CLUSTERED_CELLS,
    backend: _Backend = "scanpy",
    enrichment: _Enrichment = False,
    seed: Seed = 0,
) -> None:
    """Cluster the cells of a result again, compute a UMAP, and suggest names and verdicts.

    cells.h5ad is replaced at the end. With --roi only the cells inside are clustered, and the others have no cluster.
    Cells that were clustered with the same settings are not clustered again.
    """
    from mxsplicer import tl
    from mxsplicer.embedding.h5ad import open_cells, save_cells
    from mxsplicer.result.features import update_features
    from mxsplicer.result.folder import find_cells
    from mxsplicer.system.fingerprints import fingerprint
    from mxsplicer.tl.representations import learned_key

    path = find_cells(result)
    with progress.shown(), open_cells(path) as adata:
        settings = {
            "use_rep": use_rep or learned_key(adata),
            "resolution": resolution,
            "n_neighbors": n_neighbors,
            "backend": backend,
            "seed": seed,
        }
        about = {} if roi is None else {"roi": f"{roi.name} {fingerprint(roi)}"}
        complete = _is_complete(adata, {"roi": None, **settings, **about}, max_cells, enrichment=enrichment)
        if not complete:
            adata.uns.pop("leiden_nhood_enrichment", None)
            with tl.restricted(adata, roi) as cells:
                tl.cluster(cells, max_cells=max_cells, **settings)  # type: ignore[arg-type]
                tl.explain_clusters(cells)
                tl.name_clusters(cells)
                if enrichment:
                    tl.enrich_neighbourhoods(cells)
            adata.uns["mxsplicer_cluster"] |= about
            save_cells(adata, path)
        table = tl.explanation_of(adata)
        update_features(path.parent, adata)
    for cluster, row in table.iterrows():
        typer.echo(f"{cluster:>3}  {row['count']:>9,} cells  {row['verdict']:<{_WIDTH}}  {row['name']}")
    if complete:
        typer.echo(f"{path} is complete")
        return
    typer.echo(f"{path} is written. Update the report with `mxsplicer report RESULT --overwrite`.")


def _is_complete(adata: "AnnData", settings: dict[str, Any], max_cells: int, *, enrichment: bool) -> bool:
    """Return whether the cells were clustered by the same `mxsplicer cluster`."""
    from mxsplicer.tl.fingerprints import clusters_changed
    from mxsplicer.tl.naming import names_fit

    about = adata.uns.get("mxsplicer_cluster", {})
    if "leiden_name" not in adata.obs or not names_fit(adata.obs["leiden"], adata.obs["leiden_name"]):
        return False
    if "mxsplicer_clusters" not in adata.uns or clusters_changed(adata):
        return False
    if any(about.get(name) != value for name, value in settings.items()):
        return False
    has_enrichment = "leiden_nhood_enrichment" in adata.uns
    n_cells = int(adata.obs["leiden"].notna().sum())
    return has_enrichment == enrichment and about.get("n_clustered") == min(n_cells, max_cells)
