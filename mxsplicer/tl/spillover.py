"""What makes a marker bright in a cell that has none of it: nuclei, autofluorescence, light of the neighbours."""

from collections.abc import Sequence

import numpy as np
from anndata import AnnData
from scipy.sparse import csr_array
from scipy.spatial import KDTree

from mxsplicer.errors import InputError
from mxsplicer.images.markers import find_nuclear_marker, is_control
from mxsplicer.tl.rows import rows_by_slide, slices

_NEIGHBOURS, _REACH_UM, _DECAY_UM = 8, 30.0, 10.0  # light falls to 1/e in 10 µm between centres: about one cell


def find_confounders(markers: Sequence[str]) -> list[str]:
    """Return the markers that say how much of any signal is not of its protein: the nuclear one and the controls.

    Examples
    --------
    >>> find_confounders(["CD3e", "Hoechst", "AF1", "Autofluorescence 2", "AFP", "Blank"])
    ['Hoechst', 'AF1', 'Autofluorescence 2', 'Blank']
    """
    nuclear = find_nuclear_marker(markers)
    return [marker for marker in markers if marker == nuclear or is_control(marker)]


def check_given(given: Sequence[str], markers: Sequence[str]) -> None:
    """Raise InputError if a marker to be held fixed is none of the cells'."""
    for marker in given:
        if marker not in markers:
            msg = f"the cells have no marker {marker!r} to hold fixed; they have {', '.join(markers)}."
            raise InputError(msg)


def neighbourhood_intensity(adata: AnnData, intensities: np.ndarray) -> tuple[np.ndarray, str]:
    """Return how bright it is around each cell in each marker (N, m), and in words where that is from.

    It is ``layers["surroundings"]`` where that was measured, and where a cell has no value the marker's mean. Otherwise
    it is the sum over the eight nearest cells within 30 µm of their mean intensity times ``exp(-distance / 10 µm)``.
    """
    if "surroundings" in adata.layers:
        light = np.array(_dense(adata.layers["surroundings"]), dtype=np.float32)
        missing = ~np.isfinite(light)
        if missing.any():
            light[missing] = 0
            means = light.sum(axis=0, dtype=np.float64) / np.maximum((~missing).sum(axis=0), 1)
            light[missing] = np.broadcast_to(means.astype(np.float32), light.shape)[missing]
        return light, 'layers["surroundings"]'
    points = np.asarray(adata.obsm["spatial"], dtype=np.float64)
    light = np.zeros(intensities.shape, dtype=np.float32)
    for rows in rows_by_slide(adata).values():
        tree = KDTree(points[rows])
        for part in slices(len(rows)):
            here = rows[part]
            k = min(_NEIGHBOURS + 1, len(rows))
            distance, other = tree.query(points[here], k=range(1, k + 1), distance_upper_bound=_REACH_UM, workers=-1)
            weight = np.where(other == np.arange(part.start, part.stop)[:, None], 0, np.exp(-distance / _DECAY_UM))
            other[~np.isfinite(distance)] = 0  # no neighbour there: its weight is 0
            # Each row of a matrix of weights, mostly empty, gathers the neighbours of one cell.
            starts = np.arange(0, other.size + 1, k)
            near, columns = np.unique(other, return_inverse=True)
            weights = csr_array(
                (weight.ravel().astype(np.float32), columns.ravel(), starts), shape=(len(here), len(near))
            )
            light[here] = weights @ intensities[rows[near]]
    return light, f"the {_NEIGHBOURS} nearest cells within {_REACH_UM:g} µm"


def partial_correlation(
    r: np.ndarray, of_markers: np.ndarray, of_light: np.ndarray, light_r: np.ndarray, given: Sequence[int]
) -> np.ndarray:
    """Return the correlation of each marker with each feature among cells alike in the confounders and in light.

    Parameters
    ----------
    r
        Correlation of markers with features (m, d).
    of_markers
        Of markers with markers (m, m).
    of_light
        Of markers, with the light around the cell in each marker (m, m).
    light_r
        Of that light with features (m, d).
    given
        Which markers are confounders. A marker is not held fixed against itself.
    """
    out = np.zeros_like(r)
    for marker in range(len(r)):
        fixed = [one for one in given if one != marker]
        # Covariances of what is held fixed: the confounders, then the light around the cell in this marker.
        among = np.ones((len(fixed) + 1, len(fixed) + 1))
        among[:-1, :-1] = of_markers[np.ix_(fixed, fixed)]
        among[:-1, -1] = among[-1, :-1] = of_light[fixed, marker]
        with_marker = np.append(of_markers[fixed, marker], of_light[marker, marker])
        with_features = np.vstack([r[fixed], light_r[marker]])
        solved = np.linalg.pinv(among, rcond=1e-6, hermitian=True) @ np.column_stack([with_marker, with_features])
        left_of_marker = 1 - with_marker @ solved[:, 0]
        left_of_features = 1 - (with_features * solved[:, 1:]).sum(axis=0)
        scale = np.sqrt(np.maximum(left_of_marker, 0) * np.maximum(left_of_features, 0))
        shared = r[marker] - with_marker @ solved[:, 1:]
        np.divide(shared, scale, out=out[marker], where=(scale > 1e-4) & (r[marker] != 0))
    return np.asarray(np.clip(out, -1, 1))


def _dense(matrix: object) -> np.ndarray:
    return np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix)
