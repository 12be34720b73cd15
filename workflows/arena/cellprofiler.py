"""CellProfiler's measurements of cells, through the library cp_measure (Muñoz et al. 2025, arXiv 2507.01163).

Cells are measured on a mosaic of their patches, with everything outside each cell set to 0. Of the correlations of two
markers, Costes' is left out: it takes most of the time.
"""

import math
import warnings
from itertools import combinations

import numpy as np
from sets import Cells
from sklearn.preprocessing import StandardScaler

_PER_MOSAIC = 256  # cells
_GAP_PX = 4
_CORRELATED = 0.9
CORRELATIONS = ("pearson", "manders_fold", "rwc")


def is_installed() -> bool:
    """Return whether cp_measure can be imported."""
    try:
        import cp_measure  # noqa: F401
    except ImportError:
        return False
    return True


def measure(cells: Cells) -> np.ndarray:
    """Return all measurements (n, d), scaled to unit variance; constant ones and those with gaps are left out."""
    top = np.percentile(cells.pixels[:, :, ::2, ::2], 99.99, axis=(0, 2, 3))
    blocks = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of measurements that are undefined for a cell
        for start in range(0, len(cells.inside), _PER_MOSAIC):
            part = slice(start, start + _PER_MOSAIC)
            pixels = np.clip(cells.pixels[part] / np.maximum(top, 1e-6)[:, None, None], 0, 1)
            blocks.append(_measure_mosaic(*_mosaic(pixels, cells.inside[part])))
    names = [name for name in blocks[0] if all(name in block for block in blocks)]
    table = np.stack([np.concatenate([block[name] for block in blocks]) for name in names], axis=1)
    table = table[:, np.isfinite(table).mean(axis=0) > 0.95]
    table = np.where(np.isfinite(table), table, np.nanmedian(np.where(np.isfinite(table), table, np.nan), axis=0))
    table = table[:, table.std(axis=0) > 1e-9]
    table = np.clip(StandardScaler().fit_transform(table), -10, 10)
    return table[:, _distinct(table)]


def _distinct(table: np.ndarray) -> list[int]:
    """Return the columns whose correlation with an earlier one that is returned is at most 0.9, as pycytominer does."""
    correlation = np.abs(np.corrcoef(table.T))
    chosen: list[int] = []
    for column in range(table.shape[1]):
        if not chosen or correlation[column, chosen].max() <= _CORRELATED:
            chosen.append(column)
    return chosen


def _mosaic(pixels: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return an image (C, Y, X) and a mask (Y, X) in which cell i has the value i + 1."""
    n, channels, side, _ = pixels.shape
    across = math.ceil(math.sqrt(n))
    pitch = side + _GAP_PX
    image = np.zeros((channels, across * pitch, across * pitch))
    mask = np.zeros(image.shape[1:], dtype=np.int32)
    for i in range(n):
        y, x = (place * pitch for place in divmod(i, across))
        image[:, y : y + side, x : x + side] = pixels[i] * inside[i]
        mask[y : y + side, x : x + side] = inside[i] * (i + 1)
    return image, mask


def _measure_mosaic(image: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    from cp_measure.bulk import get_core_measurements, get_correlation_measurements

    found = {}
    shapes = ("sizeshape", "zernike", "feret")
    for name, function in get_core_measurements().items():
        for channel in range(1 if name in shapes else len(image)):
            for key, values in function(mask, image[channel]).items():
                if not any(word in key for word in ("Location", "Center_", "BoundingBox", "_X", "_Y")):
                    found[f"{name} {key} {channel}"] = np.asarray(values, dtype=float)
    for name, function in get_correlation_measurements().items():
        if name in CORRELATIONS:
            for a, b in combinations(range(len(image)), 2):
                for key, values in function(image[a], image[b], mask).items():
                    found[f"{name} {key} {a} {b}"] = np.asarray(values, dtype=float)
    return found
