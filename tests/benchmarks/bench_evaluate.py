"""Time the evaluation, and count how often the verdict reports a difference between equally good representations.

    python tests/benchmarks/bench_evaluate.py --cells 100000 --features 512
    python tests/benchmarks/bench_evaluate.py --null 300

The cells are simulated: ten types that 19 markers distinguish, and features that mix the markers nonlinearly and with
noise. They are stored in an h5ad file without patches; the cost of patches depends on the encoder, and `--image-cells`
and `--importance-cells` limit it. The limit is 180 s on two cores. Processor time is printed next to elapsed time, for
machines that others use.

With ``--null``, pairs of equally good representations are simulated. The share of pairs is printed that differ by the
rule of the verdict, and by one standard deviation across folds.
"""

import argparse
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.stats import t as t_distribution
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score

from mxsplicer import evaluation
from mxsplicer.system.memory import measured_peak

N_MARKERS, N_TYPES = 19, 10
LIMIT_S = 180


def write_cells(path: Path, n: int, features: int, learned: int) -> None:
    """Write cells with some learned representations."""
    rng = np.random.default_rng(0)
    kind = rng.choice(N_TYPES, n, p=rng.dirichlet(np.full(N_TYPES, 3)))
    intensity = np.exp(rng.normal(size=(N_TYPES, N_MARKERS))[kind] * 0.5 + rng.normal(size=(n, N_MARKERS)) + 3)
    obs = pd.DataFrame(
        {
            "cell_id": np.arange(n),
            "slide": pd.Categorical(np.full(n, "S01")),
            "type": pd.Categorical([f"type {one}" for one in kind]),
            "area_um2": rng.gamma(9, 8, n),
            "eccentricity": rng.uniform(size=n),
            "major_axis_um": rng.uniform(8, 14, n),
            "minor_axis_um": rng.uniform(5, 8, n),
        },
        index=[f"S01_{i}" for i in range(n)],
    )
    adata = AnnData(intensity.astype(np.float32), obs=obs, obsm={"spatial": rng.uniform(0, 8000, (n, 2))})
    standard = (np.log(intensity) - 3).astype(np.float32)
    for key in ("X_splicer", "X_untrained", "X_joint")[:learned]:
        weights = rng.normal(size=(N_MARKERS, features)).astype(np.float32)
        z = np.tanh(standard @ weights / 4)
        adata.obsm[key] = z + rng.normal(scale=0.3, size=z.shape).astype(np.float32)
    adata.write_h5ad(path)


def bench(n: int, features: int, learned: int) -> None:
    """Time an evaluation."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cells.h5ad"
        write_cells(path, n, features, learned)
        began, worked = time.perf_counter(), time.process_time()
        found = evaluation.evaluate(path, label=["type"])
        seconds, worked = time.perf_counter() - began, time.process_time() - worked
    print(found.scores[["representation", "balanced_accuracy", "gain", "rank_me"]].to_string(index=False))  # noqa: T201
    print(  # noqa: T201
        f"{n:,} cells x {features} features x {N_MARKERS} markers, {learned} learned: {seconds:.0f} s, of which the "
        f"processors worked {worked:.0f} s; {seconds / LIMIT_S:.2f} of the limit; peak {measured_peak() / 1e9:.2f} GB"
    )


def bench_null(n_pairs: int) -> None:
    """Count how often equally good representations are called different."""
    rng = np.random.default_rng(0)
    for n_folds in (3, 4, 5):
        gains = np.array([_gains(2000, 4, n_folds, rng) for _ in range(n_pairs)])
        size = abs(gains.mean(axis=1))
        deviations = size / gains.std(axis=1, ddof=1)
        needed = t_distribution.ppf(0.975, n_folds - 1) / np.sqrt(n_folds)
        by_rule, by_one = ((deviations > limit) & (size >= 0.01) for limit in (needed, 1))
        print(  # noqa: T201
            f"{n_folds} folds, {n_pairs} pairs: {by_rule.mean():.1%} called different by the rule "
            f"({(deviations > needed).mean():.1%} were one point not asked for), {by_one.mean():.1%} by one deviation"
        )


def _gains(n: int, n_types: int, n_folds: int, rng: np.random.Generator) -> np.ndarray:
    kind, fold = rng.integers(0, n_types, n), rng.integers(0, n_folds, n)
    centres = rng.normal(size=(n_types, 8)) * 0.7
    scores = np.empty((2, n_folds))
    for one in range(2):
        x = centres[kind] + rng.normal(size=(n, 8))
        for number in range(n_folds):
            test = fold == number
            model = LogisticRegression(class_weight="balanced", tol=1e-2).fit(x[~test], kind[~test])
            scores[one, number] = balanced_accuracy_score(kind[test], model.predict(x[test]))
    return scores[1] - scores[0]


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--learned", type=int, default=3, help="representations, at most 3")
    parser.add_argument("--null", type=int, default=0, metavar="PAIRS")
    arguments = parser.parse_args()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if arguments.null:
            bench_null(arguments.null)
        else:
            bench(arguments.cells, arguments.features, arguments.learned)


if __name__ == "__main__":
    main()
