"""Mixing of slides or batches: how well a representation predicts which one a cell is from."""

import logging
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from sklearn.preprocessing import StandardScaler

from mxsplicer.tl.probing import score
from mxsplicer.tl.representations import available, features_of
from mxsplicer.tl.tasks import QUADRANTS, set_task

logger = logging.getLogger(__name__)

_MAX_CELLS = 20_000
_MAX_CELLS_PER_CLASS = 500  # training cells
_MAX_SCIB_CELLS = 10_000
_N_NEIGHBOURS = 90  # the default of scib-metrics for iLISI


def measure_mixing(
    adata: AnnData,
    *,
    batch: str = "slide",
    representations: Sequence[str] | None = None,
    guard_um: float | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure how well each representation predicts the slide or batch of a cell.

    A linear probe is trained in some quadrants of every slide and predicts the batch of cells in another. At chance the
    batches are mixed. Above chance they differ in staining or in biology, and the measure does not distinguish the two:
    compare with mean intensity, and use batches that should be similar. If scib-metrics is installed (extra
    ``metrics``), iLISI and kBET (1 is mixed, 0 is separate) and PCR (share of the variance of principal components
    that the batch explains) are measured too.

    Parameters
    ----------
    adata
        Cells with ``obs[batch]`` and ``obsm["spatial"]``; a random sample of 20,000 is used.
    batch
        Column of ``obs``.
    representations, guard_um, seed
        As for :func:`~mxsplicer.tl.probing.probe`.

    Returns
    -------
    One row per representation: ``predictability`` (balanced accuracy), its ``_sd`` over quadrants, ``chance``,
    ``n_batches``; and ``ilisi``, ``kbet``, ``pcr`` if scib-metrics is installed.

    Raises
    ------
    InputError
        If fewer than two batches have enough cells in every quadrant.
    """
    task = set_task(adata, label=batch, groups=QUADRANTS, guard_um=guard_um, max_cells=_MAX_CELLS, seed=seed)
    names = list(representations) if representations is not None else available(adata)
    scores = score(adata, task, representations=names, max_cells_per_class=_MAX_CELLS_PER_CLASS, seed=seed)
    scores = scores.set_index("representation")
    chosen = np.sort(np.random.default_rng(seed).permutation(len(task.rows))[:_MAX_SCIB_CELLS])
    rows = []
    for name in names:
        row: dict[str, Any] = {
            "batch": batch,
            "representation": name,
            "predictability": scores["balanced_accuracy"][name],
            "predictability_sd": scores["balanced_accuracy_sd"][name],
            "chance": 1 / len(task.classes),
            "n_batches": len(task.classes),
        }
        if find_spec("scib_metrics") is not None:
            row |= _scib(features_of(adata, name, task.rows[chosen]), task.codes[chosen])
        rows.append(row)
    return pd.DataFrame(rows)


def _scib(features: np.ndarray, batches: np.ndarray) -> dict[str, float]:
    """Return the measures of mixing by scib-metrics for features (n, d) of cells and their batches (n)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # FutureWarnings of jax and scib-metrics
        import scib_metrics
        from scib_metrics.nearest_neighbors import pynndescent

        x = StandardScaler().fit_transform(features).astype(np.float32)
        neighbours = pynndescent(x, n_neighbors=min(_N_NEIGHBOURS, len(x) - 1), random_state=0)
        acceptance, _, _ = scib_metrics.kbet(neighbours, batches)
        return {
            "ilisi": float(scib_metrics.ilisi_knn(neighbours, batches)),
            "kbet": float(acceptance),
            "pcr": float(scib_metrics.utils.principal_component_regression(x, batches, categorical=True)),
        }
