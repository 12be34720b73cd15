"""Descriptions of a cell that need no training: the arena's classical baselines, computed from its pixels.

Everything that is fitted (units, scaling, whitening, principal components) is fitted to reference cells, so that the
same numbers can be computed of cells with another staining or mask.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from sets import Cells
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from mxsplicer.tl.representations import log1p_units

CORRELATION_WEIGHT = 0.5  # of correlations next to compartments: there are many of them
_AT_ONCE = 512  # cells
_PCA_CELLS, _COMPONENTS = 2_000, 50
_RIM_PX = 2
_SMALL = 1e-6

Transform = Callable[["Statistics"], np.ndarray]


@dataclass(frozen=True, eq=False)
class Reference:
    """What is measured of the reference cells: the unit of each marker (C), and the components of their pixels."""

    units: np.ndarray
    pixel_pca: PCA


@dataclass(frozen=True, eq=False)
class Statistics:
    """Statistics of cells, by name: (n, C), (n, pairs of markers), (n, components) or (n, shapes)."""

    of: dict[str, np.ndarray]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.of[name]


def measure_reference(cells: Cells) -> Reference:
    """Measure the units and the principal components of the pixels of some cells."""
    means = np.concatenate([_mean(inside, pixels) for pixels, inside in _blocks(cells)])
    units = log1p_units(means)
    rows = np.random.default_rng(0).permutation(len(means))[:_PCA_CELLS]
    pixels = _flat(np.log1p(np.maximum(cells.pixels[rows], 0) / units[:, None, None]), cells.inside[rows])
    pca = PCA(min(_COMPONENTS, len(rows) - 1, pixels.shape[1]), svd_solver="randomized", random_state=0)
    return Reference(units, pca.fit(pixels))


def measure(cells: Cells, reference: Reference) -> Statistics:
    """Measure the statistics that all descriptions are made of."""
    blocks = [_measure_block(pixels, inside, reference) for pixels, inside in _blocks(cells)]
    return Statistics({name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]})


def fit(name: str, reference: Statistics) -> Transform:
    """Fit a description to reference cells, and return the function that computes it."""
    return DESCRIPTIONS[name](reference)


def _measure_block(pixels: np.ndarray, inside: np.ndarray, reference: Reference) -> dict[str, np.ndarray]:
    raw = np.maximum(pixels, 0) / reference.units[:, None, None]  # (n, C, P, P)
    x = np.log1p(raw)
    interior = np.stack([ndimage.binary_erosion(cell, iterations=_RIM_PX) for cell in inside])
    interior = np.where(interior.any((1, 2))[:, None, None], interior, inside)
    rim = inside & ~interior
    rim = np.where(rim.any((1, 2))[:, None, None], rim, inside)
    blurred = ndimage.gaussian_filter(raw, (0, 0, 1, 1), truncate=3)
    return {
        "mean": np.log1p(_mean(inside, raw)),
        "blurred mean": np.log1p(_mean(inside, blurred)),
        "shape": _shapes(inside),
        "rim": _mean(rim, x),
        "interior": _mean(interior, x),
        "deviation": _deviation(inside, x),
        "deviation of rim": _deviation(rim, x),
        "deviation of interior": _deviation(interior, x),
        "correlations": _correlations(inside, x),
        "pixels": reference.pixel_pca.transform(_flat(x, inside)),
    }


def _blocks(cells: Cells) -> list[tuple[np.ndarray, np.ndarray]]:
    starts = range(0, len(cells.inside), _AT_ONCE)
    return [(cells.pixels[i : i + _AT_ONCE].astype(np.float32), cells.inside[i : i + _AT_ONCE]) for i in starts]


def _flat(x: np.ndarray, inside: np.ndarray) -> np.ndarray:
    return np.asarray((x * inside[:, None]).reshape(len(x), -1), dtype=np.float32)


def _mean(inside: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.asarray(np.einsum("ncyx,nyx->nc", x, inside, optimize=True) / inside.sum((1, 2))[:, None])


def _deviation(inside: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.asarray(np.sqrt(np.maximum(_mean(inside, x * x) - _mean(inside, x) ** 2, 0)))


def _correlations(inside: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return the correlation of every two markers over the pixels of each cell."""
    centred = _flat(x - _mean(inside, x)[:, :, None, None], inside).reshape(*x.shape[:2], -1)
    covariance = centred @ centred.transpose(0, 2, 1)
    spread = np.sqrt(np.einsum("ncc->nc", covariance))
    pairs = np.triu_indices(x.shape[1], 1)
    return np.asarray((covariance / (spread[:, :, None] * spread[:, None] + _SMALL))[:, pairs[0], pairs[1]])


def _shapes(inside: np.ndarray) -> np.ndarray:
    """Return log area, and log of the long and the short axis, of each cell."""
    area = inside.sum((1, 2))
    y, x = (axis[None] * np.ones_like(inside) for axis in np.mgrid[: inside.shape[1], : inside.shape[2]])
    centred = [axis - ((axis * inside).sum((1, 2)) / area)[:, None, None] for axis in (y, x)]
    yy, xx, yx = (
        (centred[i] * centred[j] * inside).sum((1, 2)) / area + (i == j) / 12 for i, j in ((0, 0), (1, 1), (0, 1))
    )
    root = np.sqrt((yy - xx) ** 2 + 4 * yx**2)
    return np.log(np.stack([area, (yy + xx + root), np.maximum(yy + xx - root, 0.1)], axis=1))


def _scaled(*names: str, weights: tuple[float, ...] = ()) -> Callable[[Statistics], Transform]:
    """Return a description: statistics, each scaled to unit variance, times a weight."""

    def fit_scales(reference: Statistics) -> Transform:
        scalers = [StandardScaler().fit(reference[name]) for name in names]
        factors = weights or (1.0,) * len(names)

        def transform(of: Statistics) -> np.ndarray:
            parts = zip(names, scalers, factors, strict=True)
            return np.hstack([factor * scaler.transform(of[name]) for name, scaler, factor in parts])

        return transform

    return fit_scales


def _whitened(*names: str, correlations: bool = False) -> Callable[[Statistics], Transform]:
    """Return a description: statistics of a marker, decorrelated and scaled to unit variance."""

    def fit_whitening(reference: Statistics) -> Transform:
        stacked = np.stack([reference[name] for name in names], axis=2)  # (n, C, k)
        middle = stacked.mean(axis=0)
        whitening = []
        for marker in range(stacked.shape[1]):
            values, vectors = np.linalg.eigh(np.cov((stacked[:, marker] - middle[marker]).T))
            whitening.append(vectors / np.sqrt(values + _SMALL))
        scaled = _scaled("correlations", weights=(CORRELATION_WEIGHT,))(reference) if correlations else None

        def transform(of: Statistics) -> np.ndarray:
            centred = np.stack([of[name] for name in names], axis=2) - middle
            white = np.einsum("nck,ckj->ncj", centred, np.stack(whitening)).reshape(len(centred), -1)
            return white if scaled is None else np.hstack([white, scaled(of)])

        return transform

    return fit_whitening


THREE = ("rim", "interior", "deviation")
FOUR = ("rim", "interior", "deviation of rim", "deviation of interior")
DESCRIPTIONS: dict[str, Callable[[Statistics], Transform]] = {
    "mean": _scaled("mean"),
    "mean, blurred": _scaled("blurred mean"),
    "mean and shape": _scaled("mean", "shape"),
    "compartments": _scaled(*FOUR),
    "compartments, whitened": _whitened(*FOUR),
    "compartments (3), whitened": _whitened(*THREE),
    "compartments and correlations": _scaled(*FOUR, "correlations", weights=(1.0,) * 4 + (CORRELATION_WEIGHT,)),
    "compartments, whitened, and correlations": _whitened(*FOUR, correlations=True),
    "compartments, correlations and shape": _scaled(
        *FOUR, "correlations", "shape", weights=(1.0,) * 4 + (CORRELATION_WEIGHT, 1.0)
    ),
    "correlations": _scaled("correlations"),
    "PCA of pixels": _scaled("pixels"),
}
