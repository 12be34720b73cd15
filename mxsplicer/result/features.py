"""The feature-major copy of z: a viewer reads one feature of all cells at once."""

from pathlib import Path
from typing import Any

import numpy as np
import zarr

from mxsplicer.system.files import atomic_write
from mxsplicer.system.progress import track

# Part of z in memory: 32 MB, and as wide as an HDF5 chunk of the AnnData file, so that each is read once.
_FEATURES_AT_ONCE, _CELLS_AT_ONCE = 16, 1 << 19


def write_features(path: Path, z: Any) -> None:
    """Write z (N, d), an array or an h5py dataset, as a zarr array (d, N); an existing one is replaced.

    A zarr chunk holds one feature of up to 2¹⁹ cells. Memory does not grow with the number of cells: 16 features of
    2¹⁹ cells are held at a time.
    """
    n, d = z.shape
    chunks = (1, min(n, _CELLS_AT_ONCE))
    with atomic_write(path) as temporary:
        features = zarr.create_array(temporary, shape=(d, n), chunks=chunks, dtype=z.dtype, zarr_format=3)
        for start in track(range(0, n, _CELLS_AT_ONCE), "Writing features"):
            cells = slice(start, min(start + _CELLS_AT_ONCE, n))
            for first in range(0, d, _FEATURES_AT_ONCE):
                some = np.asarray(z[cells, first : first + _FEATURES_AT_ONCE])
                for number, feature in enumerate(some.T, start=first):  # each compressed by itself, without a copy
                    features[number, cells] = np.ascontiguousarray(feature)
