"""Remedies in the classifier: can they find what training left in z, or must training put it there.

A linear head is fitted where both halves of an image predict the class, and tested where the digit is shuffled: it is
right as far as it uses the photograph. The plain head is compared with one that is fitted with half of the features
dropped at random (channel dropout), and one that is fitted after the most predictive directions were removed from z,
one after the other (a sieve of features, in the linear form of Ravfogel et al. 2020, arXiv 2004.07667).
"""

import numpy as np
import pandas as pd
from score import COLUMNS, arguments, of_run, read_cells
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import mxsplicer

COPIES, SIEVED = 5, (8, 32)  # directions


def main() -> None:
    """Fit the heads on the first set, test them on all, and write one row per set and head."""
    given = arguments(__doc__).parse_args()
    cells = [read_cells(store, table) for store, table in zip(given.stores, given.labels, strict=True)]
    found = of_run(mxsplicer.load_run(given.run), cells)
    slides, z = found["adata"].obs["slide"].to_numpy(), found["z"]
    parts = {}
    for store, labels in cells:
        train = (labels["split"] == "train").to_numpy()
        parts[store.slide_name] = z[slides == store.slide_name], labels[given.label[0]].to_numpy(), train
    x, truth, train = next(iter(parts.values()))
    scale = StandardScaler().fit(x[train])
    x, truth = scale.transform(x[train]), truth[train]
    rng = np.random.default_rng(0)
    dropped = np.tile(x, (COPIES, 1)) * (rng.random((COPIES * len(x), x.shape[1])) < 0.5) * 2
    heads = {
        "z": (fit(x, truth), np.eye(x.shape[1])),
        "z + channel dropout": (fit(dropped, np.tile(truth, COPIES)), np.eye(x.shape[1])),
    }
    for n in SIEVED:
        kept = sieve(x, truth, n)
        heads[f"z + sieve of {n}"] = fit(x @ kept, truth), kept
    rows = []
    for name, (features, answers, trains) in parts.items():
        for head, (model, projection) in heads.items():
            tested = scale.transform(features[~trains]) @ projection
            accuracy, n = model.score(tested, answers[~trains]), int((~trains).sum())
            rows.append(
                {
                    "label": f"head of {next(iter(parts))}, tested on {name}",
                    "representation": head,
                    "balanced_accuracy": accuracy,
                    "balanced_accuracy_sd": np.sqrt(accuracy * (1 - accuracy) / n),
                    "chance": 1 / len(set(answers)),
                    "n_cells": n,
                    "folds_by": "test part; sd is the standard error",
                }
            )
    pd.DataFrame(rows).reindex(columns=COLUMNS).to_csv(given.out, index=False)


def fit(x: np.ndarray, truth: np.ndarray) -> LogisticRegression:
    """Return a logistic regression."""
    return LogisticRegression(C=0.01, max_iter=1000).fit(x, truth)


def sieve(x: np.ndarray, truth: np.ndarray, n: int) -> np.ndarray:
    """Return the projection (d, d) that removes the n most predictive directions."""
    projection = np.eye(x.shape[1])
    for _ in range(n):
        direction = projection @ fit(x @ projection, truth).coef_[0]
        direction /= np.linalg.norm(direction)
        projection -= np.outer(direction, direction)
    return projection


if __name__ == "__main__":
    main()
