"""Rows of a representation that may lie on disk: read some at a time, so that memory does not grow with the cells."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from anndata import AnnData

from mxsplicer.errors import InputError

AT_ONCE = 16_384  # cells: 512 features of them are 67 MB in float64


def representation(adata: AnnData, key: str) -> Any:
    """Return ``adata.obsm[key]``, an array or an h5py dataset, or say which keys there are."""
    if key not in adata.obsm:
        msg = f"the cells have no representation {key!r}; obsm holds: {', '.join(adata.obsm) or 'nothing'}."
        raise InputError(msg)
    return adata.obsm[key]


def learned_features(adata: AnnData) -> str:
    """Return the key of the representation that the cells were embedded by: "X_splicer", or "X_joint"."""
    method = str(adata.uns.get("mxsplicer", {}).get("method", "splicer"))
    return next((key for key in (f"X_{method}", "X_splicer", "X_joint") if key in adata.obsm), "X_splicer")


def slices(n: int) -> Sequence[slice]:
    """Return the stretches in which ``n`` rows are gone through."""
    return [slice(start, min(start + AT_ONCE, n)) for start in range(0, n, AT_ONCE)]


def take(matrix: Any, rows: np.ndarray) -> np.ndarray:
    """Return some rows, given in ascending order, as float32; of what lies on disk each piece is read once."""
    out = np.empty((len(rows), matrix.shape[1]), dtype=np.float32)
    for part in slices(matrix.shape[0]):
        first, last = np.searchsorted(rows, (part.start, part.stop))
        if last > first:
            out[first:last] = matrix[part][rows[first:last] - part.start]
    return out
