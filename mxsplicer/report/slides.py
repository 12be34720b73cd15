"""The section "Individual slides" of a cohort: which failed, whether slides can be distinguished, and each slide."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from mxsplicer.pl import colors
from mxsplicer.report.figures import InlineImage, inline_figure, new_figure
from mxsplicer.report.formatting import without_folders
from mxsplicer.tl.fingerprints import clusters_changed
from mxsplicer.tl.reading import rows_by_slide

_RECOGNISABLE = 0.25  # of the way from chance to certainty
_MOST_POINTS = 20_000  # of one slide
_ABOUT, _CONFIDENCE = ("patient", "batch"), "leiden_confidence"


def slides_section(adata: AnnData, failed: Mapping[str, str]) -> dict[str, Any] | None:
    """Return what the section on individual slides shows, if there are several or some failed.

    Parameters
    ----------
    adata
        Cells, with ``uns["mxsplicer_mixing"]`` if it was measured how well slides can be distinguished.
    failed
        Slides that are not included, each with the reason.
    """
    by_slide = rows_by_slide(adata)
    if len(by_slide) + len(failed) < 2:
        return None
    mixing = pd.DataFrame(adata.uns["mxsplicer_mixing"]) if "mxsplicer_mixing" in adata.uns else None
    about = list(_ABOUT) if clusters_changed(adata) else [*_ABOUT, _CONFIDENCE]
    return {
        "failed": [(name, without_folders(reason)) for name, reason in failed.items()],
        "mixing": None if mixing is None else _mixing(mixing),
        "warnings": [] if mixing is None else recognisable_batches(mixing),
        "missing": _missing(adata),
        "slides": [_slide(adata, name, rows, about) for name, rows in by_slide.items()],
    }


def recognisable_batches(mixing: pd.DataFrame) -> list[str]:
    """Return a sentence of the section on slides for each batch or slide that can be predicted from the features.

    Parameters
    ----------
    mixing
        What :func:`mxsplicer.tl.measure_mixing` returned.
    """
    sentences = []
    for batch, rows in mixing.groupby("batch", sort=False):
        by_name = rows.set_index("representation")
        learned = by_name[by_name["learned"].astype(bool)]
        of_intensity = by_name["predictability"].get("mean intensity")
        for name, row in learned.iterrows():
            chance, found = float(row["chance"]), float(row["predictability"])
            if found > chance + _RECOGNISABLE * (1 - chance):
                compared = "" if of_intensity is None else f" and mean intensity reaches {of_intensity:.0%}"
                sentences.append(
                    f"The {batch} of a cell can be predicted from {name}: a linear probe reaches a balanced accuracy "
                    f"of {found:.0%}; chance is {chance:.0%}{compared}. Clusters may reflect staining: correct "
                    "it by Harmony, or compare only slides of the same batch."
                )
    return sentences


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


def _slide(adata: AnnData, name: str, rows: np.ndarray, columns: Sequence[str]) -> dict[str, Any]:
    obs = adata.obs.iloc[rows]
    about = [(column, str(obs[column].iloc[0])) for column in columns if column in obs and column != _CONFIDENCE]
    if _CONFIDENCE in columns and _CONFIDENCE in obs and obs[_CONFIDENCE].notna().any():
        about.append(("median confidence of the transferred clusters", f"{obs[_CONFIDENCE].median():.2f}"))
    described: dict[str, Any] = {
        "name": name,
        "n_cells": f"{len(rows):,}",
        "about": about,
        "clusters": [],
        "positions": None,
    }
    if "leiden" not in adata.obs:
        return described
    everywhere = adata.obs["leiden"].astype("category")
    share = obs["leiden"].value_counts(normalize=True).reindex(everywhere.cat.categories, fill_value=0.0)
    share_everywhere = everywhere.value_counts(normalize=True)
    palette = dict(zip(share.index, map(colors.category_color, range(len(share))), strict=True))
    described["clusters"] = [
        {
            "name": str(cluster),
            "share": f"{one:.1%}",
            "everywhere": f"{share_everywhere[cluster]:.1%}",
            "color": palette[cluster],
        }
        for cluster, one in share[share > 0].sort_values(ascending=False, kind="stable").items()
    ]
    if "spatial" in adata.obsm:
        described["positions"] = _draw_positions(adata, name, rows, palette)
    return described


def _draw_positions(adata: AnnData, name: str, rows: np.ndarray, palette: Mapping[Any, str]) -> InlineImage:
    some = rows[np.random.default_rng(0).permutation(len(rows))[:_MOST_POINTS]]
    x, y = np.asarray(adata.obsm["spatial"])[some].T[:2]
    figure = new_figure(3.2, 3.2)
    ax = figure.subplots()
    point_colors = [palette[cluster] for cluster in adata.obs["leiden"].iloc[some]]
    ax.scatter(x, y, s=max(0.5, min(9.0, 12_000 / len(some))), c=point_colors, linewidths=0, rasterized=True)
    ax.set_aspect("equal")
    ax.invert_yaxis()
    ax.set_axis_off()
    return inline_figure(figure, f"Cells of slide {name} at their positions, coloured by cluster.", dpi=90)
