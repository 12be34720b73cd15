"""Which learned feature follows which marker: Pearson correlation over cells.

Farndale et al. 2025 (arXiv 2503.07444), figure 3c.
"""

import logging
from typing import Any

import numpy as np
from anndata import AnnData

from mxsplicer.progress import track
from mxsplicer.tl.rows import representation, slices

logger = logging.getLogger(__name__)


def correlate(adata: AnnData, *, use_rep: str = "X_splicer", key_added: str | None = None) -> None:
    """Correlate the intensity of every marker with every learned feature.

    The cells are gone through once, a slice at a time, so memory does not grow with their number, and the
    representation may lie on disk. A marker or a feature that has one value in all cells follows nothing: its
    correlations are 0.

    Parameters
    ----------
    adata
        Cells with marker intensities in ``X`` and a representation in ``obsm``.
    use_rep
        Key of the representation (cells, features).
    key_added
        Where the result goes; ``splicer_correlation`` for ``X_splicer``, ``joint_correlation`` for ``X_joint``.

    Sets
    ----
    ``adata.varm[key_added]``
        Pearson's r (markers, features), float32.

    Examples
    --------
    >>> import numpy as np
    >>> from anndata import AnnData
    >>> intensity = np.array([[1.0], [2.0], [4.0]])
    >>> adata = AnnData(intensity, obsm={"X_splicer": np.hstack([-intensity, 0 * intensity])})
    >>> correlate(adata)
    >>> adata.varm["splicer_correlation"]
    array([[-1.,  0.]], dtype=float32)
    """
    z = representation(adata, use_rep)
    key_added = key_added or f"{use_rep.removeprefix('X_')}_correlation"
    n = 0
    mean_x, mean_z = np.zeros(adata.n_vars), np.zeros(z.shape[1])
    squares_x, squares_z = np.zeros(adata.n_vars), np.zeros(z.shape[1])
    products = np.zeros((adata.n_vars, z.shape[1]))
    for part in track(slices(adata.n_obs), "Correlating markers with features"):
        # Sums about the mean of the slice, then moved to the mean of all so far: exact whatever the offset of a marker.
        x_part, z_part = _rows(adata.X, part), _rows(z, part)
        n_part = len(x_part)
        to_x, to_z = x_part.mean(axis=0) - mean_x, z_part.mean(axis=0) - mean_z
        x_part -= mean_x + to_x
        z_part -= mean_z + to_z
        weight = n * n_part / (n + n_part)
        products += x_part.T @ z_part + weight * np.outer(to_x, to_z)
        squares_x += np.square(x_part).sum(axis=0) + weight * to_x**2
        squares_z += np.square(z_part, out=z_part).sum(axis=0) + weight * to_z**2
        n += n_part
        mean_x += to_x * n_part / n
        mean_z += to_z * n_part / n

    varies_x = _varies(squares_x, mean_x, adata.n_obs)
    varies_z = _varies(squares_z, mean_z, adata.n_obs)
    if not varies_x.all():
        logger.info("Correlation 0 for markers with one value in all cells: %s", ", ".join(adata.var_names[~varies_x]))
    if not varies_z.all():
        logger.warning("%d of %d features of %s have one value in all cells", (~varies_z).sum(), len(varies_z), use_rep)
    scale = np.sqrt(np.outer(squares_x, squares_z))
    defined = np.outer(varies_x, varies_z)
    r = np.divide(products, scale, out=np.zeros_like(products), where=defined)
    adata.varm[key_added] = np.clip(r, -1, 1).astype(np.float32)


def _rows(matrix: Any, part: slice) -> np.ndarray:
    rows = matrix[part]
    return np.array(rows.toarray() if hasattr(rows, "toarray") else rows, dtype=np.float64)


def _varies(squares: np.ndarray, mean: np.ndarray, n: int) -> np.ndarray:
    # What float32 rounding leaves of a constant is no variation.
    return np.asarray(np.sqrt(squares / n) > 1e-6 * np.abs(mean))
