"""Structure of a representation without a probe: its rank, and how well distances and clusters agree with a label.

RankMe is from Garrido et al. 2023 (arXiv 2210.02885), equation 1.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_score
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from mxsplicer.tl.representations import available, features_of
from mxsplicer.tl.scaling import scalers
from mxsplicer.tl.tasks import Task

_SILHOUETTE_CELLS = 4_000  # the cost is quadratic
_KMEANS_CELLS = 10_000
_RANK_CELLS = 25_600  # as in the paper


def measure_structure(
    adata: AnnData, task: Task, *, representations: Sequence[str] | None = None, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure rank, silhouette, and the agreement of k-means clusters with a label, on samples of the scored cells.

    Silhouettes and clusters are of standardised features. k-means has as many clusters as the label has classes. The
    samples have at most 4,000 cells for silhouettes, 10,000 for clusters and 25,600 for ranks.

    Parameters
    ----------
    adata
        Cells with a label in ``obs``; intensities in ``X``; representations in ``obsm``.
    task
        What :func:`~mxsplicer.tl.tasks.set_task` returns.
    representations
        As for :func:`~mxsplicer.tl.probing.probe`.

    Returns
    -------
    One row per representation: ``features``, ``rank_me``, ``silhouette`` (of the classes, -1 to 1), ``nmi`` and ``ari``
    (of clusters and classes; 0 is chance, 1 is identical). And the spectrum: one row per representation and singular
    value.
    """
    names = list(representations) if representations is not None else available(adata)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(task.rows))
    some, few = (np.sort(order[:size]) for size in (_KMEANS_CELLS, _SILHOUETTE_CELLS))
    rows, spectra = [], []
    with threadpool_limits(1):
        for name in names:
            z = features_of(adata, name, task.rows[np.sort(order[:_RANK_CELLS])])
            singular_values = singular_values_of(z)
            scaled = scalers(adata, name)[-1].fit_transform(features_of(adata, name, task.rows[some]))
            clusters = KMeans(len(task.classes), n_init=3, random_state=seed).fit_predict(scaled)
            among_few = np.isin(some, few)
            rows.append(
                {
                    "label": task.label,
                    "representation": name,
                    "features": z.shape[1],
                    "rank_me": rank_me(singular_values),
                    "silhouette": _silhouette(scaled[among_few], task.codes[some[among_few]]),
                    "nmi": float(normalized_mutual_info_score(task.codes[some], clusters)),
                    "ari": float(adjusted_rand_score(task.codes[some], clusters)),
                }
            )
            spectra.append(
                pd.DataFrame(
                    {
                        "label": task.label,
                        "representation": name,
                        "component": np.arange(1, len(singular_values) + 1),
                        "singular_value": singular_values,
                    }
                )
            )
    return pd.DataFrame(rows), pd.concat(spectra, ignore_index=True)


def singular_values_of(z: np.ndarray) -> np.ndarray:
    """Return the singular values of features (n, d), which show their structure, largest first, (d)."""
    z = z.astype(np.float64)  # the eigenvalues of zᵀz have half the digits, so float32 would not do
    return np.asarray(np.sqrt(np.maximum(np.linalg.eigvalsh(z.T @ z)[::-1], 0)))


def rank_me(singular_values: np.ndarray) -> float:
    """Return the rank of a representation as its structure: RankMe, exp of the entropy of its spectrum.

    Garrido et al. 2023 (arXiv 2210.02885), equation 1; features are not centred.

    Examples
    --------
    >>> round(rank_me(np.array([2.0, 2.0, 2.0, 0.0])), 3)
    3.0
    """
    share = singular_values / max(singular_values.sum(), 1e-30) + 1e-7
    return float(np.exp(-(share * np.log(share)).sum()))


def _silhouette(x: np.ndarray, codes: np.ndarray) -> float:
    present = len(np.unique(codes))
    return float(silhouette_score(x, codes)) if 2 <= present < len(codes) else float("nan")
