"""The part of the page with the scores: each label beside its baselines, and what else was measured of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mxsplicer.pl import colors
from mxsplicer.pl.axes import plain_number
from mxsplicer.report.pictures import Picture, new_figure, of_figure
from mxsplicer.tl.representations import MEAN_INTENSITY, is_baseline, trained
from mxsplicer.tl.verdicts import verdict

_MOST_CURVES = 10  # as many as there are colours


@dataclass(frozen=True)
class Table:
    """A table that folds away: one row per name, whether it is the one that is judged, and its figures."""

    heading: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, bool, Sequence[str]]]
    picture: Picture | None = None


def scores(table: pd.DataFrame | None, about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return for every label its verdict, one row per representation, best first, and further tables.

    Parameters
    ----------
    table
        As :func:`mxsplicer.tl.probe` returns it.
    about
        ``uns["mxsplicer_evaluation"]``.
    """
    if table is None or table.empty:
        return []
    out = []
    for sentence, (label, rows) in zip(verdict(table), table.groupby("label", sort=False), strict=True):
        first = rows.iloc[0]
        ordered = rows.sort_values("balanced_accuracy", ascending=False, kind="stable")
        out.append(
            {
                "label": label,
                "verdict": sentence,
                "chance": float(first["chance"]),
                "about": f"{first['n_cells']:,} cells, {first['n_classes']} classes, {first['folds']} folds by "
                f"{first['folds_by']}",
                "classes": first["classes"],
                "left_out": first["left_out"],
                "rows": [_score_row(row, _judged(rows)) for _, row in ordered.iterrows()],
                "tables": [
                    one
                    for one in (
                        _efficiency(_of_label(about, "efficiency", label)),
                        _reliance(_of_label(about, "reliance", label)),
                        _structure(ordered),
                        _leak(ordered),
                    )
                    if one is not None
                ],
            }
        )
    return out


def mixing(about: Mapping[str, Any]) -> list[Table]:
    """Return how far slides or batches can be told apart, one table for each kind of batch."""
    if "mixing" not in about:
        return []
    names = {"ilisi": "iLISI", "kbet": "kBET", "pcr": "PCR"}
    tables = []
    for batch, rows in pd.DataFrame(about["mixing"]).groupby("batch", sort=False):
        further, judged = [name for name in names if name in rows], _judged(rows)
        said = [
            (
                str(row["representation"]),
                row["representation"] == judged,
                [_with_sd(row["predictability"], row["predictability_sd"]), *(f"{row[name]:.2f}" for name in further)],
            )
            for _, row in rows.iterrows()
        ]
        heading = f"How well a {batch} can be told from the features; guessing is right in {rows['chance'].iloc[0]:.3f}"
        tables.append(Table(heading, ["balanced accuracy", *(names[name] for name in further)], said))
    return tables


def _score_row(row: "pd.Series[Any]", judged: str) -> dict[str, Any]:
    name = row["representation"]
    others = ("macro_f1", "average_precision", "auroc", "knn_balanced_accuracy")
    return {
        "name": name,
        "judged": name == judged,
        "value": row["balanced_accuracy"],
        "sd": row["balanced_accuracy_sd"],
        "gain": "" if name == MEAN_INTENSITY else f"{row['gain'] * 100:+.1f} ± {row['gain_sd'] * 100:.1f}",
        "others": [f"{row[metric]:.2f}" for metric in others],
    }


def _judged(rows: pd.DataFrame) -> str:
    """Return the representation that the verdict is about; "" where nothing was learned."""
    name = trained([str(one) for one in rows["representation"].unique()])
    return "" if is_baseline(name) else name


def _of_label(about: Mapping[str, Any], key: str, label: object) -> pd.DataFrame:
    if key not in about:
        return pd.DataFrame()
    table = pd.DataFrame(about[key])
    return table[table["label"] == label]


def _efficiency(rows: pd.DataFrame) -> Table | None:
    if rows.empty:
        return None
    sizes, judged = sorted(rows["labels_per_class"].unique()), _judged(rows)
    curves = {str(name): curve.set_index("labels_per_class") for name, curve in rows.groupby("representation")}
    names = sorted(curves, key=lambda name: -float(curves[name]["balanced_accuracy"].iloc[0]))
    said = [(name, name == judged, [_at(curves[name], size) for size in sizes]) for name in names]
    figure = new_figure(7.4, 3.0)
    ax = figure.subplots()
    for code, name in enumerate(names[:_MOST_CURVES]):
        curve = curves[name]
        line: dict[str, Any] = {
            "color": colors.category_color(code),
            "linewidth": 2.2 if name == judged else 1.0,
            "capsize": 2,
        }
        ax.errorbar(
            curve.index, curve["balanced_accuracy"], curve["balanced_accuracy_sd"], label=name, marker="o", **line
        )
    ax.set_xscale("log")
    ax.set_xticks(sizes, [plain_number(size) for size in sizes], minor=False)
    ax.minorticks_off()
    ax.set(xlabel="labels per class", ylabel="balanced accuracy")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8)
    picture = of_figure(
        figure, "Balanced accuracy by the number of labels per class, a line per description.", vector=True
    )
    columns = [f"{size:,}" for size in sizes]
    return Table("With few labels: balanced accuracy by labels per class", columns, said, picture)


def _reliance(rows: pd.DataFrame) -> Table | None:
    if rows.empty:
        return None
    names = [str(name) for name in dict.fromkeys(rows["representation"])]
    of = {name: rows[rows["representation"] == name].set_index("marker") for name in names}
    markers = [str(marker) for marker in of[names[0]].sort_values("loss", ascending=False, kind="stable").index]
    cells = {
        name: {str(marker): f"{loss:.1f} ± {sd:.1f}" for marker, loss, sd in points.itertuples()}
        for name, points in ((name, 100 * table[["loss", "loss_sd"]]) for name, table in of.items())
    }
    table = [(marker, False, [cells[name].get(marker, "–") for name in names]) for marker in markers]
    heading = "Which markers the label rests on: points lost when the signal of one is exchanged between cells"
    return Table(heading, [f"{name} ({of[name]['intact'].iloc[0]:.2f} intact)" for name in names], table)


def _structure(rows: pd.DataFrame) -> Table | None:
    if "rank_me" not in rows:
        return None
    judged = _judged(rows)
    said = [
        (
            str(row["representation"]),
            row["representation"] == judged,
            [
                f"{row['features']:.0f}",
                f"{row['rank_me']:.1f}",
                *(f"{row[one]:.2f}" for one in ("silhouette", "nmi", "ari")),
            ],
        )
        for _, row in rows[rows["rank_me"].notna()].iterrows()
    ]
    columns = ["features", "RankMe", "silhouette", "NMI", "ARI"]
    return Table(
        "Without a classifier: directions that are used, and groups that agree with the classes", columns, said
    )


def _leak(rows: pd.DataFrame) -> Table | None:
    if "leak" not in rows or not rows["leak"].notna().any():
        return None
    judged = _judged(rows)
    said = [
        (
            str(row["representation"]),
            row["representation"] == judged,
            [_with_sd(row["random_split"], row["random_split_sd"]), f"{row['leak'] * 100:+.1f} points"],
        )
        for _, row in rows[rows["leak"].notna()].iterrows()
    ]
    heading = "How much random folds, whose cells share pixels, would have flattered"
    return Table(heading, ["in random folds (unsafe)", "leak"], said)


def _at(curve: pd.DataFrame, size: int) -> str:
    there = curve[curve.index == size]
    if there.empty:
        return "–"
    return _with_sd(there["balanced_accuracy"].iloc[0], there["balanced_accuracy_sd"].iloc[0])


def _with_sd(value: float, sd: float) -> str:
    return f"{value:.3f} ± {sd:.3f}" if np.isfinite(value) else "–"
