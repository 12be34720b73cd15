"""The section "Scores compared with baselines": one table per label, and further measurements."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mxsplicer.pl import colors
from mxsplicer.pl.axes import plain_number
from mxsplicer.report.figures import InlineImage, inline_figure, new_figure
from mxsplicer.tl.probing import TRAINED_GAINS
from mxsplicer.tl.representations import UNTRAINED, is_baseline, trained
from mxsplicer.tl.verdicts import verdict

_MOST_CURVES = 10
_METRICS = ("macro_f1", "average_precision", "auroc")
_MIXING = {"ilisi": "iLISI", "kbet": "kBET", "pcr": "PCR"}


@dataclass(frozen=True)
class Table:
    """A collapsible table of scores: one row per name, whether the verdict is about it, and its values."""

    heading: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, bool, Sequence[str]]]
    figure: InlineImage | None = None


def scores_section(table: pd.DataFrame | None, about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return for each label its verdict, one row per representation, best first, and further tables.

    Parameters
    ----------
    table
        What :func:`mxsplicer.tl.probe` returned.
    about
        ``uns["mxsplicer_evaluation"]``.
    """
    if table is None or table.empty:
        return []
    labels = []
    for sentence, (label, rows) in zip(verdict(table), table.groupby("label", sort=False), strict=True):
        first = rows.iloc[0]
        ordered = rows.sort_values("balanced_accuracy", ascending=False, kind="stable")
        tables = (
            _few_labels(_of_label(about, "efficiency", label)),
            _permutation_importance(_of_label(about, "reliance", label)),
            _structure(ordered),
            _leakage(ordered),
        )
        labels.append(
            {
                "label": label,
                "verdict": sentence,
                "judged": _judged(rows),
                "chance": float(first["chance"]),
                "about": f"{first['n_cells']:,} cells, {first['n_classes']} classes, {first['folds']} folds by "
                f"{first['folds_by']}",
                "classes": first["classes"],
                "left_out": first["left_out"],
                "rows": [_score_row(row, _judged(rows)) for _, row in ordered.iterrows()],
                "tables": [one for one in tables if one is not None],
            }
        )
    return labels


def score_overview(table: pd.DataFrame | None) -> dict[str, Any] | None:
    """Return the scores of every representation for every label: the learned one first, then the untrained encoder.

    Parameters
    ----------
    table
        What :func:`mxsplicer.tl.probe` returned.
    """
    if table is None or table.empty:
        return None
    labels = [str(label) for label in table["label"].unique()]
    judged = _judged(table)
    mean = table.groupby("representation")["balanced_accuracy"].mean().sort_values(ascending=False, kind="stable")
    first = [name for name in (judged, UNTRAINED) if name in mean.index]
    rows = []
    for name in [*first, *(str(name) for name in mean.index if name not in first)]:
        of_name = table[table["representation"] == name]
        of_name = of_name.set_index(of_name["label"].astype(str))
        cells = [
            {
                "value": f"{of_name[metric][label]:.2f}" if label in of_name.index else "–",
                "best": label in of_name.index and _is_best(table, label, metric, float(of_name[metric][label])),
            }
            for label in labels
            for metric in ("balanced_accuracy", "knn_balanced_accuracy")
        ]
        rows.append({"name": name, "judged": name == judged, "cells": cells})
    return {"labels": labels, "rows": rows}


def _is_best(table: pd.DataFrame, label: str, metric: str, value: float) -> bool:
    return value >= float(table[metric][table["label"].astype(str) == label].max())


def mixing_tables(about: Mapping[str, Any]) -> list[Table]:
    """Return the scores of how well slides or batches can be predicted, one table for each kind of batch."""
    if "mixing" not in about:
        return []
    tables = []
    for batch, rows in pd.DataFrame(about["mixing"]).groupby("batch", sort=False):
        measures = [name for name in _MIXING if name in rows]
        values = [
            [_with_sd(row["predictability"], row["predictability_sd"]), *(f"{row[name]:.2f}" for name in measures)]
            for _, row in rows.iterrows()
        ]
        heading = f"How well the {batch} can be predicted from the features; chance is {rows['chance'].iloc[0]:.3f}"
        columns = ["balanced accuracy", *(_MIXING[name] for name in measures)]
        tables.append(Table(heading, columns, _named_rows(rows, values)))
    return tables


def _score_row(row: "pd.Series[Any]", judged: str) -> dict[str, Any]:
    name = row["representation"]
    return {
        "name": name,
        "judged": name == judged,
        "value": row["balanced_accuracy"],
        "sd": row["balanced_accuracy_sd"],
        "neighbours": _with_sd(row["knn_balanced_accuracy"], row["knn_balanced_accuracy_sd"]),
        "gains": ["" if name == judged else _points(row, gain) for gain in TRAINED_GAINS],
        "others": [f"{row[metric]:.2f}" for metric in _METRICS],
    }


def _points(row: "pd.Series[Any]", gain: str) -> str:
    if not np.isfinite(row.get(gain, np.nan)):  # as in results of version 0.1
        return "–"
    return f"{row[gain] * 100:+.1f} ± {row[f'{gain}_sd'] * 100:.1f}"


def _judged(rows: pd.DataFrame) -> str:
    """Return the representation whose scores are in bold in each table: the learned one; "" if none was learned."""
    name = trained([str(one) for one in rows["representation"].unique()])
    return "" if is_baseline(name) else name


def _of_label(about: Mapping[str, Any], key: str, label: object) -> pd.DataFrame:
    if key not in about:
        return pd.DataFrame()
    table = pd.DataFrame(about[key])
    return table[table["label"] == label]


def _named_rows(rows: pd.DataFrame, values: Sequence[Sequence[str]]) -> list[tuple[str, bool, Sequence[str]]]:
    judged = _judged(rows)
    return [(str(name), name == judged, one) for name, one in zip(rows["representation"], values, strict=True)]


def _few_labels(rows: pd.DataFrame) -> Table | None:
    if rows.empty:
        return None
    sizes, judged = sorted(rows["labels_per_class"].unique()), _judged(rows)
    curves = {str(name): curve.set_index("labels_per_class") for name, curve in rows.groupby("representation")}
    names = sorted(curves, key=lambda name: -float(curves[name]["balanced_accuracy"].iloc[0]))
    return Table(
        "Balanced accuracy with few labels per class",
        [f"{size:,}" for size in sizes],
        [(name, name == judged, [_at(curves[name], size) for size in sizes]) for name in names],
        _draw_curves({name: curves[name] for name in names[:_MOST_CURVES]}, sizes, judged),
    )


def _draw_curves(curves: Mapping[str, pd.DataFrame], sizes: Sequence[int], judged: str) -> InlineImage:
    figure = new_figure(7.4, 3.0)
    ax = figure.subplots()
    for code, (name, curve) in enumerate(curves.items()):
        ax.errorbar(
            curve.index,
            curve["balanced_accuracy"],
            curve["balanced_accuracy_sd"],
            label=name,
            marker="o",
            color=colors.category_color(code),
            linewidth=2.2 if name == judged else 1.0,
            capsize=2,
        )
    ax.set_xscale("log")
    ax.set_xticks(sizes, [plain_number(size) for size in sizes], minor=False)
    ax.minorticks_off()
    ax.set(xlabel="labels per class", ylabel="balanced accuracy")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8)
    return inline_figure(
        figure, "Balanced accuracy by the number of labels per class, one line per representation.", vector=True
    )


def _permutation_importance(rows: pd.DataFrame) -> Table | None:
    if rows.empty:
        return None
    names = [str(name) for name in dict.fromkeys(rows["representation"])]
    of = {name: rows[rows["representation"] == name].set_index("marker") for name in names}
    markers = [str(marker) for marker in of[names[0]].sort_values("loss", ascending=False, kind="stable").index]
    points = {
        name: {
            str(marker): f"{100 * loss:.1f} ± {100 * sd:.1f}"
            for marker, loss, sd in table[["loss", "loss_sd"]].itertuples()
        }
        for name, table in of.items()
    }
    return Table(
        "Permutation importance: points of balanced accuracy lost when one marker is permuted between cells",
        [f"{name} ({of[name]['intact'].iloc[0]:.2f} unpermuted)" for name in names],
        [(marker, False, [points[name].get(marker, "–") for name in names]) for marker in markers],
    )


def _structure(rows: pd.DataFrame) -> Table | None:
    if "rank_me" not in rows:
        return None
    rows = rows[rows["rank_me"].notna()]
    values = [
        [
            f"{row['features']:.0f}",
            f"{row['rank_me']:.1f}",
            *(f"{row[one]:.2f}" for one in ("silhouette", "nmi", "ari")),
        ]
        for _, row in rows.iterrows()
    ]
    return Table(
        "Without a classifier: effective rank, and agreement of clusters with the classes",
        ["features", "RankMe", "silhouette", "NMI", "ARI"],
        _named_rows(rows, values),
    )


def _leakage(rows: pd.DataFrame) -> Table | None:
    if "leak" not in rows or not rows["leak"].notna().any():
        return None
    rows = rows[rows["leak"].notna()]
    values = [
        [_with_sd(row["random_split"], row["random_split_sd"]), f"{row['leak'] * 100:+.1f} points"]
        for _, row in rows.iterrows()
    ]
    return Table(
        "Data leakage: how much random folds, whose cells share pixels, overestimate balanced accuracy",
        ["random folds (unsafe)", "overestimated by"],
        _named_rows(rows, values),
    )


def _at(curve: pd.DataFrame, size: int) -> str:
    point = curve[curve.index == size]
    if point.empty:
        return "–"
    return _with_sd(point["balanced_accuracy"].iloc[0], point["balanced_accuracy_sd"].iloc[0])


def _with_sd(value: float, sd: float) -> str:
    return f"{value:.3f} ± {sd:.3f}" if np.isfinite(value) else "–"
