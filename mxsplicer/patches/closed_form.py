"""Descriptions of cells in closed form, from their patches: statistics of compartments, and means of the blurred image.

They need no training and cost seconds, so they are baselines of a learned representation.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from scipy.sparse import csr_matrix

from mxsplicer.patches.store import NUCLEUS, THIS_CELL

RIM_PX = 2
STATISTICS = (
    "mean of the rim",
    "mean of the interior",
    "standard deviation in the rim",
    "standard deviation in the interior",
    "standard deviation in the cell",
)
MIN_BRIGHT_UNITS = 100  # bright pixels and cells of each marker in its units, at least, so that log1p is a logarithm

_AT_ONCE = 256  # cells whose pixels are in memory
_CROSS = ndimage.generate_binary_structure(2, 1)[None]  # erodes each mask of a stack by itself
_BLUR_PX = 1.0  # standard deviation of the Gaussian


def log_units(bright: np.ndarray) -> np.ndarray:
    """Return, per marker, the intensity that counts as 1 in closed-form statistics, from that of bright pixels (C).

    It is 1, except for markers with small values: counts of a few ions, or intensities between 0 and 1. There log1p
    would be almost linear.
    """
    return np.where(bright > 0, np.minimum(1, bright / MIN_BRIGHT_UNITS), 1).astype(np.float32)


def compartment_statistics(patches: np.ndarray, regions: np.ndarray, *, units: np.ndarray) -> np.ndarray:
    """Describe each cell in closed form by mean and deviation of log intensities in rim and interior, (n, 5 C) float32.

    The rim is the outer two pixels of the cell. A cell too small for an interior has its own values there. Pixels
    beyond the patch count as the cell's if the patch cuts it. The columns of a marker are consecutive, in the order of
    ``STATISTICS``.

    Parameters
    ----------
    patches, regions
        (n, C, P, P) raw intensities and (n, P, P), as a patch store has them.
    units
        Intensity of each marker that counts as 1 before log1p (C); see :func:`log_units`.

    Examples
    --------
    >>> patches, regions = np.ones((1, 1, 8, 8), np.uint16), np.zeros((1, 8, 8), np.uint8)
    >>> regions[0, 1:7, 1:7] = 1
    >>> patches[0, 0, 3:5, 3:5] = 7
    >>> (np.expm1(compartment_statistics(patches, regions, units=np.ones(1)))[0, :2]).round(3).tolist()
    [1.0, 7.0]
    """
    n, n_markers = patches.shape[:2]
    out = np.empty((n, n_markers, len(STATISTICS)), dtype=np.float32)
    for start in range(0, n, _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        inside = _inside(regions[some])
        interior = ndimage.binary_erosion(inside, _CROSS, iterations=RIM_PX, border_value=1)
        cell, y, x = np.nonzero(inside)
        values = np.log1p(np.maximum(patches[some][cell, :, y, x].astype(np.float32), 0) / units)  # (pixels, C)
        in_interior = interior[cell, y, x]
        whole = _averages(cell, np.ones(len(cell), dtype=bool), len(inside))
        deviations = values - (whole @ values)[cell]
        rim, middle = (_averages(cell, pixels, len(inside)) for pixels in (~in_interior, in_interior))
        out[some, :, 0], out[some, :, 1] = rim @ values, middle @ values
        for column, average in ((2, rim), (3, middle), (4, whole)):
            out[some, :, column] = _deviation(average, deviations)
    return np.nan_to_num(out, copy=False).reshape(n, -1)


def mean_of_blurred(patches: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Return the mean of each marker over the cell in the blurred image, a closed-form description (n, C) float32.

    Parameters
    ----------
    patches, regions
        (n, C, P, P) raw intensities with the surroundings of the cell, and (n, P, P).
    """
    out = np.empty(patches.shape[:2], dtype=np.float32)
    for start in range(0, len(patches), _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        # Blurring the mask once is the same as blurring the image of every marker.
        weights = _inside(regions[some]).astype(np.float32)
        for axis in (1, 2):
            weights = ndimage.gaussian_filter1d(weights, _BLUR_PX, axis=axis, mode="constant")
        weights /= np.maximum(weights.sum(axis=(1, 2), keepdims=True), 1e-12)
        out[some] = np.einsum("ncyx,nyx->nc", patches[some].astype(np.float32), weights, optimize=True)
    return np.nan_to_num(out, copy=False)


def _inside(regions: np.ndarray) -> np.ndarray:
    return np.asarray((regions == THIS_CELL) | (regions == NUCLEUS))


def _averages(cell: np.ndarray, chosen: np.ndarray, n: int) -> csr_matrix:
    """Return the matrix (n, pixels) that averages the chosen pixels of each cell, for closed-form statistics."""
    pixels = np.bincount(cell, minlength=n)
    n_chosen = np.bincount(cell[chosen], minlength=n)
    counted = (chosen | (n_chosen == 0)[cell]).astype(np.float32)
    weights = counted / np.where(n_chosen > 0, n_chosen, pixels)[cell].astype(np.float32)
    ends = np.concatenate([[0], np.cumsum(pixels)])
    return csr_matrix((weights, np.arange(len(cell)), ends), shape=(n, len(cell)))


def _deviation(average: csr_matrix, values: np.ndarray) -> np.ndarray:
    mean = average @ values
    return np.asarray(np.sqrt(np.maximum(average @ np.square(values) - np.square(mean), 0)))


def describe_in_closed_form(
    patches: np.ndarray, regions: np.ndarray, channels: Sequence[int], *, bright: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the closed-form baselines by their key of ``obsm``, for raw patches (n, C, P, P) and their regions.

    Parameters
    ----------
    channels
        The channel of each marker; -1 for a marker that the slide lacks, whose columns are 0.
    bright
        The intensity of bright pixels of each marker, which decides the unit of log1p.
    """
    missing = [marker for marker, channel in enumerate(channels) if channel < 0]
    shown = patches if list(channels) == [*range(patches.shape[1])] else patches[:, list(channels)]
    compartments = compartment_statistics(shown, regions, units=log_units(bright))
    blurred = mean_of_blurred(shown, regions)
    for of_cells in (compartments, blurred):
        of_cells.reshape(len(patches), len(channels), -1)[:, missing] = 0
    return {"X_compartments": compartments, "X_blurred": blurred}
