"""Whether a representation tells slides, or batches, apart: what it knows of them besides biology."""

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

_CELLS = 20_000
_CELLS_OF_NEIGHBOURS = 10_000
_NEIGHBOURS = 90  # as scib-metrics has it for iLISI


def measure_mixing(
    adata: AnnData,
    *,
    batch: str = "slide",
    representations: Sequence[str] | None = None,
    guard_um: float | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure how well slides or batches can be told apart by each representation.

    A linear probe, trained in some quadrants of every slide and tested in another, guesses the batch of a cell. At
    chance the batches are mixed. Above it they differ in staining or in biology: which of the two, this cannot tell;
    compare with mean intensity, and among batches that should be alike. Where scib-metrics is installed (extra
    ``metrics``), iLISI and kBET (1 is mixed, 0 is apart) and PCR (share of the variance of principal components that
    follows the batch) stand beside.

    Parameters
    ----------
    adata
        Cells with ``obs[batch]`` and ``obsm["spatial"]``; 20,000 of them are taken at random.
    batch
        Column of ``obs``.
    representations, guard_um, seed
        As for :func:`~mxsplicer.tl.probing.probe`.

    Returns
    -------
    One row per representation: ``predictability`` (balanced accuracy), its ``_sd`` over quadrants, ``chance``,
    ``n_batches``; and ``ilisi``, ``kbet``, ``pcr`` where they could be measured.

    Raises
    ------
    InputError
        If fewer than two batches have enough cells in every quadrant.
    """
    task = set_task(adata, label=batch, groups=QUADRANTS, guard_um=guard_um, max_cells=_CELLS, seed=seed)
    names = list(representations) if representations is not None else available(adata)
    scores = score(adata, task, representations=names, max_cells_per_class=500, seed=seed).set_index("representation")
    chosen = np.sort(np.random.default_rng(seed).permutation(len(task.rows))[:_CELLS_OF_NEIGHBOURS])
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
    """Return the measures of scib-metrics for features (n, d) of cells and their batches (n)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jax and scib-metrics tell of their own future, not of these cells
        import scib_metrics
        from scib_metrics.nearest_neighbors import pynndescent

        x = StandardScaler().fit_transform(features).astype(np.float32)
        neighbours = pynndescent(x, n_neighbors=min(_NEIGHBOURS, len(x) - 1), random_state=0)
        acceptance, _, _ = scib_metrics.kbet(neighbours, batches)
        return {
            "ilisi": float(scib_metrics.ilisi_knn(neighbours, batches)),
            "kbet": float(acceptance),
            "pcr": float(scib_metrics.utils.principal_component_regression(x, batches, categorical=True)),
        }
