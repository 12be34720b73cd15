"""The ceiling: the same encoder trained on the labels themselves, in the folds that the probes have.

One linear head per label on one encoder; a cell without a label has no part in the loss of that label. The number of
steps is that of the run. The fold after the tested one, which chooses the regularisation of a probe, is trained on too.
"""

from itertools import cycle

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from score import COLUMNS, arguments, read_cells
from sklearn.metrics import balanced_accuracy_score
from torch import nn

import mxsplicer
from mxsplicer import tl
from mxsplicer.splicer.run import untrained
from mxsplicer.splicer.views import ViewInput


def main() -> None:
    """Train once per fold, and write one row per label."""
    given = arguments(__doc__).parse_args()
    run = mxsplicer.load_run(given.run)
    cells = [read_cells(store, table) for store, table in zip(given.stores, given.labels, strict=True)]
    adata = mxsplicer.embed(run, [store for store, _ in cells])
    table = pd.concat([labels for _, labels in cells])
    for name in [*given.label, *([given.groups] if given.groups else [])]:
        adata.obs[name] = table[name].fillna("").astype(str).to_numpy()
    patches = np.concatenate([store.patches[:] for store, _ in cells])
    regions = np.concatenate([store.regions[:] for store, _ in cells])
    tasks = [tl.set_task(adata, label=label, groups=given.groups, max_cells=given.max_cells) for label in given.label]
    found: dict[str, list[float]] = {task.label: [] for task in tasks}
    for fold in range(tasks[0].folds.n):
        model = train(run, patches, regions, tasks, fold)
        for task, guess in zip(tasks, predict(model, run, patches, regions, tasks, fold), strict=True):
            test = task.folds.of_cell == fold
            found[task.label].append(balanced_accuracy_score(task.codes[test], guess))
    rows = [
        {
            **task.about,
            "representation": "supervised",
            "balanced_accuracy": np.mean(found[task.label]),
            "balanced_accuracy_sd": np.std(found[task.label], ddof=1),
        }
        for task in tasks
    ]
    pd.DataFrame(rows).reindex(columns=COLUMNS).to_csv(given.out, index=False)


def train(run: mxsplicer.Run, patches: np.ndarray, regions: np.ndarray, tasks: list, fold: int) -> nn.Module:
    """Return the encoder with a head per label, trained on all folds but one."""
    torch.manual_seed(fold)
    encoder = untrained(run, seed=fold).encoder.train()
    model = nn.ModuleList([encoder, *(nn.Linear(run.features, len(task.classes)) for task in tasks)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
    steps, batch, views = run.settings["steps"], run.settings["batch_size"], mxsplicer.Views()
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    generator, rng = torch.Generator().manual_seed(fold), np.random.default_rng(fold)
    classes = np.full((len(tasks), len(patches)), -1)  # of each cell in each label, -1 where it does not train
    for of_task, task in zip(classes, tasks, strict=True):
        kept = task.folds.of_cell != fold
        of_task[task.rows[kept]] = task.codes[kept]
    weights = [torch.tensor(balance(of_task), dtype=torch.float32) for of_task in classes]
    # A label that few cells have gets its share: batches go round the labels.
    for _, number in zip(range(steps), cycle(range(len(tasks))), strict=False):
        rows = rng.choice(np.flatnonzero(classes[number] >= 0), batch)
        (seen,) = views(ViewInput(run.normalize(patches[rows], regions[rows])), generator=generator)
        z = model[0](seen)
        loss = sum(
            F.cross_entropy(head(z), torch.from_numpy(of_task[rows]), weight=weight, ignore_index=-1)
            for head, of_task, weight in zip(list(model)[1:], classes, weights, strict=True)
            if (of_task[rows] >= 0).any()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def balance(codes: np.ndarray) -> np.ndarray:
    """Return a weight per class, inverse to its number of cells."""
    counts = np.bincount(codes[codes >= 0])
    return counts.sum() / (len(counts) * np.maximum(counts, 1))


@torch.no_grad()
def predict(
    model: nn.Module, run: mxsplicer.Run, patches: np.ndarray, regions: np.ndarray, tasks: list, fold: int
) -> list[np.ndarray]:
    """Return the guessed class of every tested cell, for each label."""
    guesses, batch = [], run.settings["batch_size"]
    for task, head in zip(tasks, list(model)[1:], strict=True):
        rows = task.rows[task.folds.of_cell == fold]
        parts = [rows[start : start + batch] for start in range(0, len(rows), batch)]
        logits = [head(model[0](run.normalize(patches[part], regions[part]))) for part in parts]
        guesses.append(torch.cat(logits).argmax(dim=1).numpy())
    return guesses


if __name__ == "__main__":
    main()
