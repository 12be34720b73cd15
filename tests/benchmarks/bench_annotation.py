"""How many names a classifier needs, and what it calls cells of classes that have no name.

    python tests/benchmarks/bench_annotation.py cells.h5ad --label lineage [--by patient] [--folds 5] [--seeds 3]

    python tests/benchmarks/bench_annotation.py --cells 1000000

The labels answer: the queue proposes cells of the training slides, each gets its label, and the classifier is judged on
cells that were not asked about; with --by, on those of other patients, one fifth at a time. Compared are random cells,
and all labels: this classifier and a logistic regression on standardised features. The second table names some cells of
two classes only, for pairs of classes, and judges the same cells: how many of the others are unknown, how many of the
two are named right, how many names are right, and the expected calibration error of the confidence in ten bins, over
all cells and over those that got a name.

With --cells, the features of so many simulated cells are written to a temporary file, and the time of an answer is
measured: to name a cell, train the classifier and propose the next cell. Processor time is printed, too,
for machines that others use.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler

from mxsplicer import open_cells, tl
from mxsplicer.tl.representations import learned_key

ANSWERS = (20, 40, 60, 80, 100, 150, 200)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("--label", default="lineage")
    parser.add_argument("--cells", type=int, help="measure the time of an answer for so many cells")
    parser.add_argument("--by", help="column of obs whose values stay together: test on others")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--folds", type=int, default=5, help="of five, with --by")
    parser.add_argument("--at-once", type=int, default=1, help="answers before the queue is asked again")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--named", type=int, nargs="+", default=[30], help="named cells of each of the two classes")
    parser.add_argument("--only", choices=("answers", "two"))
    given = parser.parse_args()
    if given.cells:
        time_answers(given.cells)
    if given.file is None:
        return
    with open_cells(given.file) as opened:
        key = learned_key(opened)
        labels = opened.obs[given.label].astype(object).where(opened.obs[given.label].notna(), "").astype(str)
        rows = np.flatnonzero((labels != "").to_numpy())
        adata = AnnData(obs=opened.obs.iloc[rows].copy(), obsm={key: np.asarray(opened.obsm[key][:])[rows]})
        adata.uns = dict(opened.uns)
    labels = labels.iloc[rows].to_numpy(dtype=str)
    folds = list(split(adata, given.by))[: given.folds]
    if given.only != "two":
        curves = [
            curve(adata, key, labels, *fold, seed, given.at_once) for seed in range(given.seeds) for fold in folds
        ]
        print(pd.DataFrame(curves).mean().round(3).to_string(), flush=True)  # noqa: T201
    if given.only != "answers":
        for n in given.named:
            print(f"{n} named cells of each of two classes", flush=True)  # noqa: T201
            found = pd.DataFrame(
                row
                for seed in range(given.seeds)
                for fold in folds
                for row in two_of_many(adata, key, labels, *fold, seed, n, given.pairs)
            )
            print(found.to_string(index=False, float_format="{:.3f}".format))  # noqa: T201
            print(found.mean(numeric_only=True).round(3).to_string(), flush=True)  # noqa: T201


def time_answers(n: int, d: int = 250, n_kinds: int = 8) -> None:
    """Print the time of a queue and of its answers for n simulated cells whose features lie on disk."""
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, n_kinds, 50_000)
    some = rng.normal(size=(50_000, d)).astype(np.float32) + 3 * rng.normal(size=(n_kinds, d))[kinds] * (
        np.arange(d) < 9
    )
    with tempfile.TemporaryDirectory() as folder, h5py.File(Path(folder) / "z.h5", "w") as file:
        z = file.create_dataset("z", (n, d), np.float32, chunks=(4096, 16))
        for start in range(0, n, len(some)):
            z[start : start + len(some)] = some[: n - start]
        start, cpu = time.perf_counter(), time.process_time()
        queue = tl.NamingQueue(lambda rows: tl.read_features(z, rows), n, feature_names=[str(i) for i in range(d)])
        _report(f"queue of {n:,} cells", start, cpu)
        for _ in range(40):
            for one in queue.next(5):
                queue.name(one.row, str(kinds[one.row % len(kinds)]))
        start, cpu = time.perf_counter(), time.process_time()
        for _ in range(5):
            one = queue.next()[0]
            queue.name(one.row, str(kinds[one.row % len(kinds)]))
        _report("five answers, of 205", start, cpu)
        start, cpu = time.perf_counter(), time.process_time()
        assert queue.classifier is not None
        for _ in tl.predict_all(queue.classifier, lambda rows: tl.read_features(z, rows), n):
            pass
        _report("names of all cells", start, cpu)


def _report(what: str, start: float, cpu: float) -> None:
    elapsed, processor = time.perf_counter() - start, time.process_time() - cpu
    print(f"{what}: {elapsed:.2f} s, {processor:.2f} s of processor", flush=True)  # noqa: T201


def split(adata: AnnData, by: str | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield rows to ask about and rows to test on."""
    if by is None:
        yield np.arange(adata.n_obs), np.arange(adata.n_obs)
        return
    groups = adata.obs[by].astype(str)
    yield from GroupKFold(5).split(np.zeros(adata.n_obs), groups=groups)


def curve(
    adata: AnnData, key: str, labels: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int, at_once: int
) -> dict[str, float]:
    """Return the balanced accuracy after so many answers of one fold."""
    own, y = adata[train].copy(), labels[train]
    z, rng = adata.obsm[key], np.random.default_rng(seed)
    scores: dict[str, float] = {}
    same = np.array_equal(train, test)

    def judge(name: str, classifier: tl.CellClassifier | None, asked: np.ndarray) -> None:
        rest = np.setdiff1d(test, asked) if same else test
        names = classifier.predict(z[rest]).names if classifier else np.full(len(rest), "")
        scores[name] = _balanced(labels[rest], np.asarray(names).astype(str))

    queue = tl.NamingQueue.of(own, use_rep=key, seed=seed)
    for how in ("queue", "random"):
        queue.set_names(pd.Categorical([None] * len(y)))
        order, seconds = list(rng.permutation(len(train))), []
        asked: list[int] = []
        while len(asked) < ANSWERS[-1]:
            start = time.process_time()
            some = [one.row for one in queue.next(at_once)] if how == "queue" else [order.pop() for _ in range(at_once)]
            seconds.append(time.process_time() - start)
            for row in some:
                queue.name(row, y[row])
            asked += some
            if len(asked) in ANSWERS:
                judge(f"{how} {len(asked)}", queue.classifier, train[asked])
        if how == "queue":
            scores["CPU seconds per refresh"] = float(np.mean(seconds))
    queue.set_names(pd.Categorical(y))
    judge("all labels, this classifier", queue.classifier, np.empty(0, int))
    scaler = StandardScaler().fit(z[train])
    sample = rng.permutation(train)[:10_000]
    model = LogisticRegression(C=0.01, class_weight="balanced", max_iter=200).fit(
        scaler.transform(z[sample]), labels[sample]
    )
    scores["all labels, regression"] = _balanced(labels[test], model.predict(scaler.transform(z[test])))
    print({name: round(value, 3) for name, value in scores.items()}, flush=True)  # noqa: T201
    return scores


def two_of_many(
    adata: AnnData, key: str, labels: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int, n: int, n_pairs: int
) -> Iterator[dict[str, object]]:
    """Yield how well a classifier of two classes abstains, for pairs of classes, in one fold."""
    rng, z, y = np.random.default_rng([seed, *test[:1]]), adata.obsm[key], labels[train]
    own = adata[train].copy()
    kinds, counts = np.unique(y, return_counts=True)
    pairs = list(itertools.combinations(kinds[counts >= 2 * n], 2))
    rng.shuffle(pairs)
    queue = tl.NamingQueue.of(own, use_rep=key, seed=seed)
    for pair in pairs[:n_pairs]:
        asked = np.concatenate([rng.choice(np.flatnonzero(y == one), n, replace=False) for one in pair])
        names = pd.Series(index=own.obs_names, dtype=object)
        names.iloc[asked] = y[asked]
        queue.set_names(names)
        assert queue.classifier is not None
        rest = np.setdiff1d(test, train[asked])
        predictions, truth = queue.classifier.predict(z[rest]), labels[rest]
        found, known = np.asarray(predictions.names).astype(str), np.isin(truth, pair)
        right = found == np.where(known, truth, tl.UNKNOWN)
        got_name = found != tl.UNKNOWN
        yield {
            "classes": " + ".join(pair),
            "foreign unknown": (found[~known] == tl.UNKNOWN).mean(),
            "named right": np.mean([right[truth == one].mean() for one in pair if (truth == one).any()]),
            "names right": right[got_name].mean(),
            "ECE": _calibration_error(predictions.confidence, right),
            "ECE of names": _calibration_error(predictions.confidence[got_name], right[got_name]),
        }


def _balanced(truth: np.ndarray, found: np.ndarray) -> float:
    return float(np.mean([(found[truth == one] == one).mean() for one in np.unique(truth)]))


def _calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    bins = np.minimum((confidence * 10).astype(int), 9)
    return float(sum(abs(confidence[bins == b].sum() - right[bins == b].sum()) for b in range(10)) / max(len(right), 1))


if __name__ == "__main__":
    main()
