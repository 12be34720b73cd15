"""Batch correction of a representation by Harmony (Korsunsky et al. 2019)."""

import warnings
from importlib.util import find_spec

import numpy as np
from anndata import AnnData

from mxsplicer.errors import InputError
from mxsplicer.tl.representations import representation


def harmonize(
    adata: AnnData, *, batch: str = "slide", use_rep: str = "X_splicer", key_added: str = "X_harmony", seed: int = 0
) -> None:
    """Remove differences between batches from a representation, like ``scanpy.external.pp.harmony_integrate``.

    This needs the package harmonypy, and the whole representation in memory. Biological differences between batches are
    removed too, so use it only for batches that should be similar.

    Parameters
    ----------
    batch
        Column of ``obs``.
    use_rep, key_added
        Keys of ``obsm``: the representation to correct, and the result (N, d), float32.
    seed
        Seed of Harmony's clusters.

    Raises
    ------
    InputError
        If harmonypy is not installed, or the column has fewer than two batches.
    """
    if batch not in adata.obs or adata.obs[batch].nunique() < 2:
        found = "was not found in obs" if batch not in adata.obs else "has one value"
        msg = f"Harmony needs a column with two or more batches, but {batch!r} {found}."
        raise InputError(msg, "Name another column.")
    if find_spec("harmonypy") is None:
        msg = "Harmony needs the package harmonypy, which is not installed."
        raise InputError(msg, "Run `pip install harmonypy`.")
    import harmonypy

    z = np.asarray(representation(adata, use_rep)[...], dtype=np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # FutureWarnings of harmonypy
        corrected = harmonypy.run_harmony(z, adata.obs[[batch]].astype(str), batch, random_state=seed).Z_corr
    # Before harmonypy 1 cells were in columns; since then they are in rows, which scanpy.external still transposes.
    corrected = np.asarray(corrected if len(corrected) == len(z) else corrected.T, dtype=np.float32)
    adata.obsm[key_added] = corrected
