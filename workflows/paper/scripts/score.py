"""Score how well labels are predicted from z of a run, or from baselines that need no training.

Cells are scored in folds (mxsplicer.tl.probe): whole patients, or quadrants of a slide. Images with a column
``split`` in their labels are scored by a classifier that is fitted on ``train`` and tested on ``test``, each set alone.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import mxsplicer
from mxsplicer import tl
from mxsplicer.splicer.run import untrained
from mxsplicer.tl.representations import key_of, log1p_units

COLUMNS = [
    "label",
    "representation",
    "balanced_accuracy",
    "balanced_accuracy_sd",
    "gain",  # over mean intensity in the same folds
    "gain_sd",
    "chance",
    "n_cells",
    "folds_by",
]


def main() -> None:
    """Embed the stores with the run, and write one row per label and representation."""
    parser = arguments(__doc__)
    parser.add_argument("--baselines", action="store_true", help="score the baselines instead of the run")
    given = parser.parse_args()
    run = mxsplicer.load_run(given.run)
    every = [read_cells(store, table) for store, table in zip(given.stores, given.labels, strict=True)]
    score = score_split if given.split else score_folds
    tables = []
    for cells in [[one] for one in every] if given.each else [every]:
        features = baselines(run, cells) if given.baselines else of_run(run, cells)
        of_slide = f"{cells[0][0].slide_name}: " if given.each else ""
        found = score(cells, features, given)
        tables.append(found.assign(label=of_slide + found["label"]))
    pd.concat(tables).to_csv(given.out, index=False)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return the arguments that whatever scores labels has in common."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("out", type=Path, help="CSV to write")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--stores", type=Path, nargs="+", required=True)
    parser.add_argument("--labels", type=Path, nargs="+", required=True, help="one table per store")
    parser.add_argument("--label", nargs="+", default=["class"], help="columns to score")
    parser.add_argument("--groups", help="column whose values stay in one fold; quadrants of slides by default")
    parser.add_argument("--split", action="store_true", help="the labels say what trains and what tests")
    parser.add_argument("--each", action="store_true", help="score each slide by itself")
    parser.add_argument("--max-cells", type=int, default=100_000)
    return parser


def read_cells(path: Path, table: Path) -> tuple[mxsplicer.PatchStore, pd.DataFrame]:
    """Return a store and the labels of its cells, in its order."""
    store = mxsplicer.PatchStore.open(path)
    labels = pd.read_csv(table).set_index("cell_id").reindex(store.cells["cell_id"])
    return store, labels


def of_run(run: mxsplicer.Run, cells: list) -> dict[str, np.ndarray]:
    """Return z of all cells."""
    adata = mxsplicer.embed(run, [store for store, _ in cells])
    return {"adata": adata, "z": np.asarray(adata.obsm[f"X_{run.method}"])}


def baselines(run: mxsplicer.Run, cells: list) -> dict[str, np.ndarray]:
    """Return what needs no training: the same encoder untrained, principal components of pixels, means of patches."""
    adata = mxsplicer.embed(untrained(run), [store for store, _ in cells])
    pixels = np.concatenate([seen(run, store) for store, _ in cells])
    rng = np.random.default_rng(0)
    sample = rng.choice(len(pixels), min(2000, len(pixels)), replace=False)
    pca = PCA(min(64, len(sample) - 1), random_state=0).fit(pixels[sample])
    means = np.concatenate([store.patches[:].mean(axis=(2, 3)) for store, _ in cells])
    return {
        "adata": adata,
        "untrained": np.asarray(adata.obsm[f"X_{run.method}"]),
        "PCA of pixels": pca.transform(pixels),
        "mean of the patch": np.log1p(means / log1p_units(means)),
    }


def seen(run: mxsplicer.Run, store: mxsplicer.PatchStore) -> np.ndarray:
    """Return the pixels of all cells as the encoder sees them, at half the resolution, (N, features) float32."""
    blocks = (store.read_block(number) for number in range(store.n_blocks))
    halved = []
    for block in blocks:
        shown = run.normalize(block.patches, block.regions).numpy()  # (n, C, P, P)
        n, channels, side, _ = shown.shape
        halved.append(shown.reshape(n, channels, side // 2, 2, side // 2, 2).mean(axis=(3, 5)).reshape(n, -1))
    return np.concatenate(halved).astype(np.float32)


def score_folds(cells: list, features: dict, given: argparse.Namespace) -> pd.DataFrame:
    """Return balanced accuracy in folds, mean and standard deviation."""
    features = dict(features)
    adata = features.pop("adata")
    labels = pd.concat([table for _, table in cells])
    wanted = [*given.label, *([given.groups] if given.groups else [])]
    for name in wanted:
        adata.obs[name] = labels[name].fillna("").astype(str).to_numpy()
    for name, values in features.items():
        adata.obsm[key_of(name)] = values
    # For a run: whether z adds to the measurements of a cell.
    compared = ["mean intensity", "mean intensity and shape", "PCA of mean intensity"]
    if not given.baselines:
        compared = [f"z + {name}" for name in compared[:2]]
    names = [*features, *compared]
    how = {"representations": names, "groups": given.groups, "max_cells": given.max_cells}
    scores = pd.concat([tl.probe(adata, label=label, **how) for label in given.label])
    return scores.loc[scores["representation"].isin(names), COLUMNS]  # mean intensity is in every table of the probe


def score_split(cells: list, features: dict, given: argparse.Namespace) -> pd.DataFrame:
    """Return the accuracy on the test images of each set, and chance level for as many images."""
    features = dict(features)
    adata = features.pop("adata")
    rows = []
    for store, labels in cells:
        here = (adata.obs["slide"] == store.slide_name).to_numpy()
        train = (labels["split"] == "train").to_numpy()
        truth = labels[given.label[0]].to_numpy()
        for name, values in features.items():
            x = values[here]
            model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
            # Three folds of the training images choose the regularisation.
            probe = GridSearchCV(model, {"logisticregression__C": [1e-4, 1e-3, 1e-2, 0.1, 1]}, cv=3)
            accuracy = probe.fit(x[train], truth[train]).score(x[~train], truth[~train])
            n = int((~train).sum())
            rows.append(
                {
                    "label": store.slide_name,
                    "representation": name,
                    "balanced_accuracy": accuracy,
                    "balanced_accuracy_sd": np.sqrt(accuracy * (1 - accuracy) / n),
                    "chance": 1 / len(set(truth)),
                    "n_cells": n,
                    "folds_by": "test part; sd is the standard error",
                    "singular_values": " ".join(f"{value:.4g}" for value in spectrum(x[~train])),
                }
            )
    return pd.DataFrame(rows)


def spectrum(z: np.ndarray) -> np.ndarray:
    """Return the singular values of centred z over the largest."""
    values = np.linalg.svd(z - z.mean(axis=0), compute_uv=False)
    return values / values[0]


if __name__ == "__main__":
    main()
