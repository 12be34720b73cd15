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
    """Take out of a representation what tells batches apart, through ``scanpy.external.pp.harmony_integrate``.

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
    import scanpy.external as sce

    z = np.asarray(representation(adata, use_rep)[...], dtype=np.float64)
    alone = AnnData(obs=adata.obs[[batch]].astype(str), obsm={"z": z})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scanpy and harmonypy tell of their own future
        sce.pp.harmony_integrate(alone, batch, basis="z", adjusted_basis="z_adjusted", random_state=seed)
    adata.obsm[key_added] = np.asarray(alone.obsm["z_adjusted"], dtype=np.float32)
