"""Signal in a cell that is not of its protein: nuclear stain, autofluorescence, and spill-over from its neighbours."""

from collections.abc import Sequence

import numpy as np
from anndata import AnnData
from scipy.sparse import csr_array
from scipy.spatial import KDTree

from mxsplicer.errors import InputError
from mxsplicer.images.markers import find_nuclear_marker, is_control
from mxsplicer.tl.reading import row_slices, rows_by_slide

# Spill-over falls to 1/e in 10 µm between centroids, which is about one cell.
_N_NEIGHBOURS, _RADIUS_UM, _DECAY_UM = 8, 30.0, 10.0


def find_confounders(markers: Sequence[str]) -> list[str]:
    """Return the markers that measure unspecific signal: the nuclear stain and the controls.

    Examples
    --------
    >>> find_confounders(["CD3e", "Hoechst", "AF1", "Autofluorescence 2", "AFP", "Blank"])
    ['Hoechst', 'AF1', 'Autofluorescence 2', 'Blank']
    """
    nuclear = find_nuclear_marker(markers)
    return [marker for marker in markers if marker == nuclear or is_control(marker)]


def check_given(given: Sequence[str], markers: Sequence[str]) -> None:
    """Raise InputError if a confounder, a marker to hold fixed, is not a marker of the cells."""
    for marker in given:
        if marker not in markers:
            msg = f"marker {marker!r} was not found; the cells have the markers {', '.join(markers)}."
            raise InputError(msg, "Change `given`.")


def neighbourhood_intensity(adata: AnnData, intensities: np.ndarray) -> tuple[np.ndarray, str]:
    """Return a confounder of each cell in each marker, the intensity around it (N, m), and where it comes from.

    It is ``layers["surroundings"]`` where this was measured, with the mean of the marker for cells that have no value.
    Otherwise it is the sum over the eight nearest cells within 30 µm of their mean intensity times
    ``exp(-distance / 10 µm)``.
    """
    if "surroundings" in adata.layers:
        return _with_means(_dense(adata.layers["surroundings"])), 'layers["surroundings"]'
    points = np.asarray(adata.obsm["spatial"], dtype=np.float64)
    around = np.zeros(intensities.shape, dtype=np.float32)
    for rows in rows_by_slide(adata).values():
        tree = KDTree(points[rows])
        for part in row_slices(len(rows)):
            here = rows[part]
            k = min(_N_NEIGHBOURS + 1, len(rows))
            distance, other = tree.query(points[here], k=range(1, k + 1), distance_upper_bound=_RADIUS_UM, workers=-1)
            weight = np.where(other == np.arange(part.start, part.stop)[:, None], 0, np.exp(-distance / _DECAY_UM))
            other[~np.isfinite(distance)] = 0  # no neighbour; its weight is 0
            # Each row of this sparse matrix holds the weights of the neighbours of one cell.
            starts = np.arange(0, other.size + 1, k)
            near, columns = np.unique(other, return_inverse=True)
            weights = csr_array(
                (weight.ravel().astype(np.float32), columns.ravel(), starts), shape=(len(here), len(near))
            )
            around[here] = weights @ intensities[rows[near]]
    return around, f"the {_N_NEIGHBOURS} nearest cells within {_RADIUS_UM:g} µm"


def _with_means(layer: np.ndarray) -> np.ndarray:
    """Return a confounder (N, m) whose missing values are replaced by the mean of their marker."""
    values = np.array(layer, dtype=np.float32)
    missing = ~np.isfinite(values)
    if missing.any():
        values[missing] = 0
        means = values.sum(axis=0, dtype=np.float64) / np.maximum((~missing).sum(axis=0), 1)
        values[missing] = np.broadcast_to(means.astype(np.float32), values.shape)[missing]
    return values


def _dense(matrix: object) -> np.ndarray:
    return np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix)
