"""The verdicts on clusters at the top of the page, and the section "Clusters in the tissue"."""

from typing import Any

import pandas as pd
from anndata import AnnData

from mxsplicer import pl
from mxsplicer.pl import colors
from mxsplicer.report.examples import Examples
from mxsplicer.report.figures import InlineImage, grid_of_slides, inline_figure, new_figure
from mxsplicer.report.tissue import MOST_SLIDES
from mxsplicer.tl.clustering import cluster_profiles
from mxsplicer.tl.enrichment import enrichment_is_current
from mxsplicer.tl.explanation import REAL, explanation_of
from mxsplicer.tl.naming import names_of_clusters
from mxsplicer.tl.reading import rows_by_slide


def profiles_of(adata: AnnData) -> pd.DataFrame | None:
    """Return the marker profile of each cluster for the section on clusters, or None without clusters."""
    return cluster_profiles(adata) if "leiden" in adata.obs else None


def explained_clusters(adata: AnnData, profiles: pd.DataFrame | None) -> pd.DataFrame | None:
    """Return the verdict on each cluster for the first table, or None without clusters."""
    return None if profiles is None or profiles.empty else explanation_of(adata)


def verdicts_section(adata: AnnData, table: pd.DataFrame | None, examples: Examples | None) -> dict[str, Any] | None:
    """Return one row per cluster, with its name, example cells and verdict, and how many are not real.

    Parameters
    ----------
    adata
        Clustered cells.
    table
        What :func:`mxsplicer.tl.explain_clusters` returned.
    examples
        Example cells of the clusters.
    """
    if table is None or table.empty:
        return None
    codes = {str(name): code for code, name in enumerate(adata.obs["leiden"].astype("category").cat.categories)}
    names = names_of_clusters(adata)
    rows = [
        {
            "cluster": str(cluster),
            "color": colors.category_color(codes[str(cluster)]),
            "n": f"{row['count']:,}",
            "share": f"{row['count'] / adata.n_obs:.1%}",
            "name": names.get(str(cluster), row["name"]).removeprefix(f"{cluster}: "),
            "markers": row["markers"] or "none",
            "cells": None if examples is None else examples.draw_first(str(cluster)),
            "verdict": row["verdict"],
            "flagged": row["verdict"] != REAL,
            "reason": row["reason"],
        }
        for cluster, row in table.iterrows()
    ]
    flagged = table["verdict"] != REAL
    share = float(table["count"][flagged].sum() / table["count"].sum())
    size_um = "" if examples is None else f"{examples.size_um:g}"
    return {"rows": rows, "n_flagged": int(flagged.sum()), "share": f"{share:.0%}", "size_um": size_um}


def clusters_section(adata: AnnData, profiles: pd.DataFrame | None) -> dict[str, Any] | None:
    """Return figures of the clusters in the tissue and of their marker profiles."""
    if profiles is None:
        return None
    names = list(rows_by_slide(adata))
    return {
        "positions": _draw_positions(adata, names[:MOST_SLIDES]),
        "heatmap": _draw_profiles(adata, len(profiles)),
        "not_shown": max(0, len(names) - MOST_SLIDES),
        "neighbourhoods": _draw_neighbourhoods(adata, len(profiles)),
    }


def _draw_positions(adata: AnnData, slides: list[str]) -> InlineImage:
    if len(slides) == 1:
        figure = new_figure(9.2, 7.5)
        pl.spatial(adata, ax=figure.subplots())
        return inline_figure(figure, "Cells at their positions in the tissue, coloured by cluster.", dpi=140)
    return grid_of_slides(
        slides,
        lambda name, ax: pl.spatial(adata, slide=name, legend=False, ax=ax),
        f"Cells of {len(slides)} slides at their positions, coloured by cluster.",
    )


def _draw_profiles(adata: AnnData, n_clusters: int) -> InlineImage:
    figure = new_figure(min(9.6, 2.6 + 0.26 * adata.n_vars), 1.6 + 0.2 * n_clusters)
    pl.markers_by_cluster(adata, ax=figure.subplots())
    return inline_figure(figure, "Heatmap: intensity of each marker in each cluster.", vector=True)


def _draw_neighbourhoods(adata: AnnData, n_clusters: int) -> InlineImage | None:
    if "leiden_nhood_enrichment" not in adata.uns or not enrichment_is_current(adata):
        return None
    figure = new_figure(min(9.6, 2.2 + 0.24 * n_clusters), min(9, 1.6 + 0.22 * n_clusters))
    pl.neighbourhoods(adata, ax=figure.subplots())
    return inline_figure(figure, "Heatmap: which clusters are neighbours in the tissue.", vector=True)
