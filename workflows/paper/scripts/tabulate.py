"""Join the scores of a table's runs: one CSV, a Markdown table (.md) and a figure (.png).

Seeds are averaged; the deviation is that over seeds where there are several, else what the scores say themselves.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd


def main() -> None:
    """Read the scores, average, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="CSV to write")
    parser.add_argument("scores", type=Path, nargs="+", help="METHOD-LOSS-VARIANT-SEED.csv, baselines.csv, ...")
    given = parser.parse_args()
    every = pd.concat([read(path) for path in given.scores], ignore_index=True)
    every.drop(columns="singular_values", errors="ignore").to_csv(given.out, index=False)
    means = average(every)
    given.out.with_suffix(".md").write_text(as_text(means), encoding="utf-8")
    draw(means, every, given.out.with_suffix(".png"))


def read(path: Path) -> pd.DataFrame:
    """Return the scores of a file, with what its name says: how it was trained, and the seed."""
    scores = pd.read_csv(path)
    words = path.stem.split("-")
    if len(words) == 4:
        name = " ".join(word for word in words[:3] if word != "plain")
        suffix = scores["representation"].map(lambda one: "" if one == "z" else one.removeprefix("z"))
        return scores.assign(method=name + suffix, seed=int(words[3]))
    return scores.assign(method=scores["representation"], seed=0)


def average(every: pd.DataFrame) -> pd.DataFrame:
    """Return one row per method and label: the mean over seeds, and a deviation."""
    grouped = every.groupby(["method", "label"], sort=False)
    means = grouped.agg(
        score=("balanced_accuracy", "mean"), sd=("balanced_accuracy_sd", "mean"), seeds=("seed", "size")
    )
    over_seeds = grouped["balanced_accuracy"].std()
    means["sd"] = over_seeds.where(means["seeds"] > 1, means["sd"])
    return means.reset_index()


def as_text(means: pd.DataFrame) -> str:
    """Return a Markdown table: methods down, labels across."""
    labels = list(dict.fromkeys(means["label"]))
    lines = ["| | " + " | ".join(labels) + " |", "|---" * (len(labels) + 1) + "|"]
    for method, rows in means.groupby("method", sort=False):
        at = rows.set_index("label")
        cells = [f"{at.score[label]:.3f} ± {at.sd[label]:.3f}" if label in at.index else "" for label in labels]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(means: pd.DataFrame, every: pd.DataFrame, path: Path) -> None:
    """Draw the scores of each label as dots with deviations, and the singular values where they are known."""
    labels, methods = list(dict.fromkeys(means["label"])), list(dict.fromkeys(means["method"]))
    spectra = "singular_values" in every and every["singular_values"].notna().any()
    panels = len(labels) + bool(spectra)
    figure, axes = plt.subplots(
        1, panels, figsize=(2.6 * panels + 2, max(2.4, 0.28 * len(methods) + 1.2)), squeeze=False
    )
    heights = np.arange(len(methods))[::-1]
    for axis, label in zip(axes[0], labels, strict=False):
        at = means[means["label"] == label].set_index("method").reindex(methods)
        axis.errorbar(at["score"], heights, xerr=at["sd"], fmt="o", color="#1f4e79", markersize=4, capsize=2)
        axis.axvline(every.loc[every["label"] == label, "chance"].iloc[0], color="0.7", linewidth=0.8)
        axis.set(title=label, yticks=heights, yticklabels=methods if label == labels[0] else [])
        axis.grid(axis="x", color="0.92")
        axis.set_ylim(-0.8, len(methods) - 0.2)  # a long table has no wide margins
    if spectra:
        for method, rows in every.groupby("method", sort=False):
            values = np.array(rows["singular_values"].iloc[0].split(), dtype=float)
            axes[0][-1].semilogy(np.arange(1, len(values) + 1), values, label=method, linewidth=1)
        axes[0][-1].set(title=f"singular values, {labels[0]}", xlabel="number", ylim=(1e-4, 1.2))
        axes[0][-1].legend(fontsize=5)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
