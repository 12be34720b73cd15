"""A representation with what is a batch's own taken out, by Harmony (Korsunsky et al. 2019)."""

import warnings
from importlib.util import find_spec

import numpy as np
from anndata import AnnData

from mxsplicer.errors import InputError
from mxsplicer.tl.rows import representation


def harmonize(
    adata: AnnData, *, batch: str = "slide", use_rep: str = "X_splicer", key_added: str = "X_harmony", seed: int = 0
) -> None:
    """Take out of a representation what tells batches apart, as ``scanpy.external.pp.harmony_integrate`` does.

    It needs the package harmonypy, and all of the representation in memory. What is biology and differs between batches
    goes too: use it where batches should be alike.

    Parameters
    ----------
    batch
        Column of ``obs``.
    use_rep, key_added
        Keys of ``obsm``: what is taken, and where the outcome goes, (N, d) float32.
    seed
        Of Harmony's clusters.

    Raises
    ------
    InputError
        If harmonypy is not installed, or there are no two batches.
    """
    if batch not in adata.obs or adata.obs[batch].nunique() < 2:
        found = "is not in obs" if batch not in adata.obs else "has one value"
        msg = f"Harmony needs a column of two or more batches, and {batch!r} {found}. Name another one."
        raise InputError(msg)
    if find_spec("harmonypy") is None:
        msg = "Harmony needs the package harmonypy, which is not installed: pip install harmonypy."
        raise InputError(msg)
    import harmonypy

    z = np.asarray(representation(adata, use_rep)[...], dtype=np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # harmonypy tells of its own future
        corrected = harmonypy.run_harmony(z, adata.obs[[batch]].astype(str), batch, random_state=seed).Z_corr
    # Cells are its columns until version 1, and its rows since, where scanpy.external still turns them.
    corrected = np.asarray(corrected if len(corrected) == len(z) else corrected.T, dtype=np.float32)
    adata.obsm[key_added] = corrected
