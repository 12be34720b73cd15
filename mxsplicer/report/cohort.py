"""The slides of a cohort on the page: which are in it and which failed, how alike they are, and a section for each."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from mxsplicer.pl import colors
from mxsplicer.report.pictures import new_figure, of_figure
from mxsplicer.tl.rows import rows_by_slide

_READABLE = 0.25  # of the way from chance to certainty: from there on a batch counts as readable
_MOST_POINTS = 20_000  # of a slide's map
_ABOUT = ("patient", "batch", "leiden_confidence")


def cohort(adata: AnnData, failed: Mapping[str, str]) -> dict[str, Any] | None:
    """Return what the page tells of the slides, where there are several or some failed.

    Parameters
    ----------
    adata
        Cells, with ``uns["mxsplicer_mixing"]`` where it was measured how well slides can be told apart.
    failed
        Slides that are not among them, and why.
    """
    by_slide = rows_by_slide(adata)
    if len(by_slide) + len(failed) < 2:
        return None
    mixing = pd.DataFrame(adata.uns["mxsplicer_mixing"]) if "mxsplicer_mixing" in adata.uns else None
    return {
        "failed": list(failed.items()),
        "mixing": None if mixing is None else _mixing(mixing),
        "warnings": [] if mixing is None else readable(mixing),
        "missing": _missing(adata),
        "slides": [_slide(adata, name, rows) for name, rows in by_slide.items()],
    }


def readable(mixing: pd.DataFrame) -> list[str]:
    """Return in sentences which batches the learned features give away, as ``tl.measure_mixing`` found."""
    said = []
    for batch, rows in mixing.groupby("batch", sort=False):
        by_name = rows.set_index("representation")
        learned = by_name[by_name["learned"].astype(bool)]
        before = by_name["predictability"].get("mean intensity")
        for name, row in learned.iterrows():
            chance, found = float(row["chance"]), float(row["predictability"])
            if found > chance + _READABLE * (1 - chance):
                beside = "" if before is None else f", and from mean intensity {before:.0%}"
                said.append(
                    f"The {batch} can be read from {name}: a linear probe guesses it right for {found:.0%} of cells, "
                    f"where {chance:.0%} is chance{beside}. Clusters may follow staining; compare with --normalization "
                    "slide, and only between slides of one batch."
                )
    return said


def _mixing(mixing: pd.DataFrame) -> list[dict[str, Any]]:
    rows = [{str(name): value for name, value in row.items()} for row in mixing.to_dict("records")]
    return [
        {
            "batch": row["batch"],
            "name": row["representation"],
            "learned": bool(row["learned"]),
            "found": f"{row['predictability']:.2f} ± {row['predictability_sd']:.2f}",
            "chance": f"{row['chance']:.2f}",
            "percent": f"{100 * row['predictability']:.0f}",
            "chance_percent": f"{100 * row['chance']:.0f}",
        }
        for row in rows
    ]


def _missing(adata: AnnData) -> list[tuple[str, str]]:
    missing = adata.uns.get("mxsplicer", {}).get("missing_markers", {})
    return [(str(slide), ", ".join(map(str, markers))) for slide, markers in missing.items()]


def _slide(adata: AnnData, name: str, rows: np.ndarray) -> dict[str, Any]:
    obs = adata.obs.iloc[rows]
    about = [(column, str(obs[column].iloc[0])) for column in _ABOUT[:2] if column in obs]
    if "leiden_confidence" in obs and obs["leiden_confidence"].notna().any():
        about.append(("clusters were handed on, median confidence", f"{obs['leiden_confidence'].median():.2f}"))
    made: dict[str, Any] = {"name": name, "n_cells": f"{len(rows):,}", "about": about, "clusters": [], "picture": None}
    if "leiden" not in adata.obs:
        return made
    everywhere = adata.obs["leiden"].astype("category")
    share = obs["leiden"].value_counts(normalize=True).reindex(everywhere.cat.categories, fill_value=0.0)
    usual = everywhere.value_counts(normalize=True)
    palette = dict(zip(share.index, map(colors.category_color, range(len(share))), strict=True))
    made["clusters"] = [
        {"name": str(cluster), "share": f"{one:.1%}", "usual": f"{usual[cluster]:.1%}", "color": palette[cluster]}
        for cluster, one in share[share > 0].sort_values(ascending=False, kind="stable").items()
    ]
    if "spatial" in adata.obsm:
        some = rows[np.random.default_rng(0).permutation(len(rows))[:_MOST_POINTS]]
        x, y = np.asarray(adata.obsm["spatial"])[some].T[:2]
        figure = new_figure(3.2, 3.2)
        ax = figure.subplots()
        hues = [palette[cluster] for cluster in adata.obs["leiden"].iloc[some]]
        ax.scatter(x, y, s=max(0.5, min(9.0, 12_000 / len(some))), c=hues, linewidths=0, rasterized=True)
        ax.set_aspect("equal")
        ax.invert_yaxis()
        ax.set_axis_off()
        made["picture"] = of_figure(figure, f"Cells of slide {name} in the colours of their clusters.", dpi=90)
    return made
