"""The arena: learned and classical descriptions of the same cells, scored in the same way, in one table.

    python workflows/arena/arena.py --data tissue0 --classical-only

What is made (slides, statistics, embeddings) is kept in the folder ``--work``, and the next call reads it again: remove
the result folders in it to embed with changed code.
"""

import argparse
import logging
import os
import pickle
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cellprofiler
import descriptions
import learned
import numpy as np
import pandas as pd
import robustness
import scores
import sets

from mxsplicer.errors import InputError
from mxsplicer.tl.tasks import set_task

GUARD_UM = 16.0
CP_MEASURE = "cp_measure"
VERSION = 2  # of the statistics that are kept


@dataclass(frozen=True, eq=False)
class Described:
    """A description of some cells of a data set: its features (n, d) of the cells in ``rows``, and what it costs.

    The costs are seconds of processor time per 1,000 cells. ``seed`` is that of the training.
    """

    name: str
    rows: np.ndarray
    features: np.ndarray
    training_s: float
    embedding_s: float
    seed: int = 0


def main() -> None:
    """Make the tables and write them."""
    logging.getLogger("mxsplicer").setLevel(logging.ERROR)
    given = arguments().parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    folds, about, changes = [], [], []
    for name, load in sets.choose(given.data, given.work, given.public, given.size_px):
        started = time.process_time()
        data = load()
        cells = sets.read_cells(data)
        for one in describe(data, cells, given):
            folds += score_labels(data, cells, one)
            about.append(describe_costs(data, cells, one))
        if name == given.robustness:
            changes += score_robustness(data, cells, given)
        show(f"{name}: {len(cells.inside)} cells, {time.process_time() - started:.0f} s of processor time")
    if not folds:
        msg = "none of the data sets was found."
        raise SystemExit(msg)
    table = tabulate(pd.DataFrame(folds), pd.DataFrame(about))
    table.to_csv(given.out, index=False, float_format="%.4f")
    show(to_read(table))
    if changes:
        summary = robustness.summarise(pd.DataFrame(changes))
        summary.to_csv(given.out.with_name(f"{given.out.stem}_robustness.csv"), index=False, float_format="%.4f")
        show(summary.to_string(index=False, float_format=lambda value: f"{value:.3f}"))
    show(str(given.out))


def arguments() -> argparse.ArgumentParser:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = "tissue,arrangements,mibi,cell_cycle,translocation,pancreas,breast_mif"
    public = os.environ.get("MXSPLICER_DATA")
    parser.add_argument("--data", type=lambda text: text.split(","), default=every.split(","), help=every)
    parser.add_argument("--public", type=Path, default=Path(public) if public else None, help="or $MXSPLICER_DATA")
    parser.add_argument("--work", type=Path, default=Path("results/arena"), help="folder for what is made")
    parser.add_argument("--out", type=Path, default=Path("results/arena/arena.csv"), help="table to write")
    parser.add_argument("--size-px", type=int, default=2048, help="side of simulated slides")
    parser.add_argument("--cells-of-cp-measure", type=int, default=2000, help="of a data set; 0 for none")
    parser.add_argument("--classical-only", action="store_true", help="train and embed nothing")
    parser.add_argument("--training-seeds", type=int, default=1, help="trainings of --train; 0 for none")
    parser.add_argument("--without-joint", action="store_true", help="do not train joint embedding")
    parser.add_argument("--paper", action="store_true", help="also train --preset paper; slow")
    parser.add_argument(
        "--embed-options", type=str.split, default=[], help="for mxsplicer embed, in place of its default"
    )
    parser.add_argument("--robustness", default="tissue0", help="data set whose cells are changed; '' for none")
    return parser


def describe(data: sets.DataSet, cells: sets.Cells, given: argparse.Namespace) -> Iterator[Described]:
    """Yield every description of the cells."""
    n, rows = len(cells.inside), np.arange(len(cells.inside))
    (_, statistics), seconds = measured(data, cells, given)
    for name in descriptions.DESCRIPTIONS:
        features = descriptions.fit(name, statistics)(statistics)
        yield Described(name, rows, features, 0.0, 1000 * seconds / n)
    if given.cells_of_cp_measure and cellprofiler.is_installed():
        sample = np.sort(np.random.default_rng(0).permutation(n)[: given.cells_of_cp_measure])
        path = given.work / f"{data.name}_{given.size_px}_cp_measure_{len(sample)}.pickle"
        features, seconds = kept(path, lambda: cellprofiler.measure(cells.take(sample)))
        yield Described(CP_MEASURE, sample, features, 0.0, 1000 * seconds / len(sample))
    elif given.cells_of_cp_measure:
        show("without cp_measure: it is not installed (pip install cp_measure).")
    if not given.classical_only:
        yield from describe_learned(data, cells, given)


def describe_learned(data: sets.DataSet, cells: sets.Cells, given: argparse.Namespace) -> Iterator[Described]:
    """Yield the description of the default command, of a training, of its encoder before it, and other trainings."""
    stem = given.work / f"{data.name.replace(' ', '_')}_{given.size_px}"
    out = Path(f"{stem}_{learned.DEFAULT}_0.mxs")
    yield read_learned(learned.DEFAULT, cells, out, 0.0, learned.embed(data, out, given.embed_options))
    runs = [(learned.TRAINED, seed, ["--train", "--seed", str(seed)]) for seed in range(given.training_seeds)]
    runs += [] if given.without_joint else [(learned.JOINT, 0, ["--method", "joint"])]
    runs += [(learned.PAPER, 0, ["--preset", "paper"])] if given.paper else []
    for name, seed, options in runs:
        out = Path(f"{stem}_{name.replace(' ', '_')}_{seed}.mxs")
        total = learned.embed(data, out, [*given.embed_options, *options])
        again = Path(f"{stem}_{name.replace(' ', '_')}_{seed}_again.mxs")
        embedding = learned.embed(data, again, ["--model", str(learned.model_of(out))])
        yield read_learned(name, cells, out, total - embedding, embedding, seed)
        if (name, seed) == (learned.TRAINED, 0):
            model = learned.make_untrained(learned.model_of(out), Path(f"{stem}_untrained"))
            plain = Path(f"{stem}_untrained.mxs")
            embedding = learned.embed(data, plain, ["--model", str(model)])
            yield read_learned(learned.UNTRAINED, cells, plain, 0.0, embedding)


def read_learned(
    name: str, cells: sets.Cells, out: Path, training: float, embedding: float, seed: int = 0
) -> Described:
    """Return the representation in a result, with its cost."""
    features = learned.read(out, cells.table.obs)
    found = np.flatnonzero(np.isfinite(features).all(axis=1))
    thousands = learned.n_cells(out) / 1000
    return Described(name, found, features[found], training / thousands, embedding / thousands, seed)


def measured(
    data: sets.DataSet, cells: sets.Cells, given: argparse.Namespace
) -> tuple[tuple[descriptions.Reference, descriptions.Statistics], float]:
    """Return the reference and the statistics of the cells, and the seconds they took."""

    def measure() -> tuple[descriptions.Reference, descriptions.Statistics]:
        reference = descriptions.measure_reference(cells)
        return reference, descriptions.measure(cells, reference)

    return kept(given.work / f"{data.name}_{given.size_px}.pickle", measure)


def kept(path: Path, make: Callable[[], Any]) -> tuple[Any, float]:
    """Return what ``make`` returns and the seconds of processor time that it took, from a file if it exists."""
    if path.exists():
        version, made, seconds = pickle.loads(path.read_bytes())
        if version == VERSION:
            return made, seconds
    started = time.process_time()
    made = make()
    seconds = time.process_time() - started
    path.write_bytes(pickle.dumps((VERSION, made, seconds)))
    return made, seconds


def score_labels(data: sets.DataSet, cells: sets.Cells, one: Described) -> list[dict[str, Any]]:
    """Return one row per label and fold."""
    rows, table = [], cells.table[one.rows].copy()
    for label in data.labels:
        try:
            task = set_task(table, label=label, groups=data.fold_by, guard_um=GUARD_UM, min_cells=data.min_cells)
        except InputError as error:
            show(f"{data.name}: {error}")
            continue
        scored = scores.score_folds(one.features[task.rows], task)
        scored["fold"] = [f"{data.name} {fold}" for fold in scored["fold"]]
        about = {"data": data.group, "label": label, "description": one.name, "seed": one.seed}
        about |= {"cells": len(task.rows), "classes": len(task.classes)}
        rows += [about | row for row in scored.to_dict("records")]
    return rows


def describe_costs(data: sets.DataSet, cells: sets.Cells, one: Described) -> dict[str, Any]:
    """Return the costs of a description, and how its clusters agree with a label."""
    about = {"data": data.group, "description": one.name, "dimensions": one.features.shape[1]}
    about |= {"training_s": one.training_s, "embedding_s": one.embedding_s}
    if data.clusters:
        labels = cells.table.obs[data.clusters].fillna("").to_numpy(dtype=object)[one.rows]
        about |= {"label": data.clusters, **scores.score_clusters(one.features, labels)}
    return about


def score_robustness(data: sets.DataSet, cells: sets.Cells, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Return one row per description, label and change of the cells."""
    variants = robustness.make_variants(data, given.work / f"robustness_{data.name}_{given.size_px}")
    changed = sets.read_cells(variants)
    changed_table, half = changed.table.obs, robustness.trained_half(cells.table.obsm["spatial"])
    (reference, statistics), _ = measured(data, cells, given)
    changed_statistics = descriptions.measure(changed, reference)
    pairs = []
    for name in descriptions.DESCRIPTIONS:
        transform = descriptions.fit(name, statistics)
        pairs.append((name, transform(statistics), transform(changed_statistics)))
    if not given.classical_only:
        stem = given.work / f"{data.name.replace(' ', '_')}_{given.size_px}"
        out = Path(f"{stem}_{learned.DEFAULT}_0.mxs")
        of_changed = Path(f"{stem}_{learned.DEFAULT}_changed.mxs")
        learned.embed(variants, of_changed, ["--model", str(learned.model_of(out))])
        pairs.append((learned.DEFAULT, learned.read(out, cells.table.obs), learned.read(of_changed, changed_table)))
    rows = []
    for name, features, of_changed_cells in pairs:
        found = robustness.score(features[half], cells.table.obs[half], of_changed_cells, changed_table)
        rows += [{"description": name, **row} for row in found]
    return rows


def tabulate(folds: pd.DataFrame, about: pd.DataFrame) -> pd.DataFrame:
    """Join the scores with the costs and clusters; trainings and slides of a data set are averaged."""
    metrics = list(scores.METRICS)
    of_cells = folds.groupby(["data", "label"], sort=False)[["cells", "classes"]].max().reset_index()
    folds = folds.groupby(["data", "label", "description", "fold"], sort=False)[metrics].mean().reset_index()
    table = of_cells.merge(scores.summarise(folds, {*descriptions.DESCRIPTIONS, CP_MEASURE}), on=["data", "label"])
    keys = ["data", "description"]
    costs = about.groupby(keys, sort=False)[["dimensions", "training_s", "embedding_s"]].mean().reset_index()
    table = table.merge(costs, on=keys)
    if "ari_best" in about:
        keys = ["data", "label", "description"]
        clusters = about.dropna(subset="label").groupby(keys, sort=False)[["ari_best", "ari_1.0"]].mean()
        table = table.merge(clusters.reset_index(), on=keys, how="left")
    return table


def to_read(table: pd.DataFrame) -> str:
    """Return the columns that matter most, as text."""
    columns = ["data", "label", "description", "linear", "neighbours", "few_labels", "linear_difference", "linear_p"]
    columns += ["neighbours_difference", "neighbours_p"]
    columns += [name for name in ("ari_best", "ari_1.0", "training_s", "embedding_s") if name in table]
    return table[columns].to_string(index=False, float_format=lambda value: f"{value:.3f}", na_rep="")


def show(line: str) -> None:
    """Write a line for the reader."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
