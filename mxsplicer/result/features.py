"""The feature-major copy of z: a viewer reads one feature of all cells at once."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from anndata import AnnData

from mxsplicer.result.folder import Result
from mxsplicer.system.files import atomic_write
from mxsplicer.system.progress import track
from mxsplicer.tl.fingerprints import fingerprint_rows
from mxsplicer.tl.representations import learned_key

logger = logging.getLogger(__name__)

# Part of z in memory: 32 MB, and as wide as an HDF5 chunk of the AnnData file, so that each is read once.
_FEATURES_AT_ONCE, _CELLS_AT_ONCE = 16, 1 << 19


def write_features(path: Path, z: Any, names: Iterable[Any]) -> None:
    """Write z (N, d), an array or an h5py dataset, as a zarr array (d, N); an existing one is replaced.

    A zarr chunk holds one feature of up to 2¹⁹ cells. Memory does not grow with the number of cells: 16 features of
    2¹⁹ cells are held at a time. The attribute ``cells`` is the fingerprint of ``names``, the rows' ``obs_names``.
    """
    n, d = z.shape
    chunks = (1, min(n, _CELLS_AT_ONCE))
    with atomic_write(path) as temporary:
        features = zarr.create_array(temporary, shape=(d, n), chunks=chunks, dtype=z.dtype, zarr_format=3)
        features.update_attributes({"cells": fingerprint_rows(names)})
        for start in track(range(0, n, _CELLS_AT_ONCE), "Writing features"):
            cells = slice(start, min(start + _CELLS_AT_ONCE, n))
            for first in range(0, d, _FEATURES_AT_ONCE):
                some = np.asarray(z[cells, first : first + _FEATURES_AT_ONCE])
                for number, feature in enumerate(some.T, start=first):  # each compressed by itself, without a copy
                    features[number, cells] = np.ascontiguousarray(feature)


def open_features(result: str | Path, names: Iterable[Any]) -> Any:
    """Open ``features.zarr`` (d, N) of a result if its columns are the cells with these names, in this order.

    Parameters
    ----------
    result
        The folder.
    names
        ``obs_names`` of the AnnData whose cells the features are wanted for.

    Returns
    -------
    A zarr array, or None: the result has none, or it was written before cells were sorted, filtered or added in
    ``cells.h5ad``, or by a version that did not record its cells; the two latter are logged. The same numbers are in
    ``obsm`` of ``cells.h5ad``, where reading one feature takes longer.
    """
    place = Result(Path(result))
    if not place.features.exists():
        return None
    features = zarr.open_array(place.features, mode="r")
    written_for = features.attrs.get("cells")
    if written_for == fingerprint_rows(names):
        return features
    reason = "does not record its cells" if written_for is None else "is not of the cells as they are sorted now"
    logger.warning(
        "features.zarr of %s %s, so features are read from cells.h5ad, which takes longer; "
        "`mxsplicer cluster` writes features.zarr again",
        place.path.name,
        reason,
    )
    return None


def update_features(folder: Path, adata: AnnData) -> None:
    """Write ``features.zarr`` of a result again if its cells were sorted or filtered since it was written."""
    path = Result(folder).features
    if path.exists() and zarr.open_array(path, mode="r").attrs.get("cells") != fingerprint_rows(adata.obs_names):
        write_features(path, adata.obsm[learned_key(adata)], adata.obs_names)
