"""What is compared: the learned representations of cells and the baselines a reviewer would ask for, by their names."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from anndata import AnnData
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mxsplicer.errors import InputError
from mxsplicer.tl.rows import learned_features, representation, take

UNTRAINED = "untrained encoder"
LEARNED = {  # keys of obsm
    "SpliCER": "X_splicer",
    "Σ-JE": "X_sigma",
    "TriDeNT": "X_trident",
    "joint": "X_joint",
    UNTRAINED: "X_untrained",
}
PIXEL_PCA = "PCA of pixels"
MEAN_INTENSITY = "mean intensity"
INTENSITY_AND_SHAPE = "mean intensity and shape"
INTENSITY_PCA = "PCA of mean intensity"
SHAPE = ("area_um2", "eccentricity", "major_axis_um", "minor_axis_um")

BESIDE = " + "  # between the names of two that are scored side by side
_WEIGHTS = (0.0, 0.1, 1.0)  # of the first of two

_CELLS_FOR_UNITS = 2_000
_BRIGHT = 100  # units that the brightest hundredth of the cells has at least, so that log1p is a logarithm

_KEYS = {**LEARNED, PIXEL_PCA: "X_pixel_pca"}
_COMPUTED = (MEAN_INTENSITY, INTENSITY_AND_SHAPE, INTENSITY_PCA)  # from X and obs


def key_of(name: str) -> str:
    """Return the key of ``obsm`` under which a representation lies; any other name is the key itself."""
    return _KEYS.get(name, name)


def learned(adata: AnnData) -> dict[str, str]:
    """Return the keys of what encoders made of the cells, by name; first that which they were embedded by."""
    named = {key: name for name, key in LEARNED.items()}
    keys = dict.fromkeys((learned_features(adata), *LEARNED.values()))
    return {named.get(key, key): key for key in keys if key in adata.obsm}


def available(adata: AnnData) -> list[str]:
    """Return the names of the representations that cells have, the learned ones first."""
    pixels = [PIXEL_PCA] if _KEYS[PIXEL_PCA] in adata.obsm else []
    shape = [INTENSITY_AND_SHAPE] if set(SHAPE) <= set(adata.obs.columns) else []
    pca = [INTENSITY_PCA] if adata.n_vars > 1 else []
    return [*learned(adata), *pixels, MEAN_INTENSITY, *shape, *pca]


def trained(names: Sequence[str]) -> str:
    """Return which of some representations is judged: the first that was learned, as :func:`available` orders them."""
    return next((name for name in names if not is_baseline(name) and BESIDE not in name), names[0])


def is_baseline(name: str) -> bool:
    """Return whether a representation stands beside for comparison and is not itself judged."""
    return name in (*_COMPUTED, PIXEL_PCA, UNTRAINED)


def check_representation(adata: AnnData, name: str) -> None:
    """Raise if there is no representation of this name, or of one of the two in ``"A + B"``."""
    for one in _parts(adata, name):
        if one not in _COMPUTED:
            representation(adata, key_of(one))


def features_of(adata: AnnData, name: str, rows: np.ndarray) -> np.ndarray:
    """Return a representation of some cells, given in ascending order, as float32 (n, features).

    Mean intensity is log1p of ``X`` in :func:`units_of` each marker. Of ``"A + B"`` they are those of A and then of B.
    """
    if len(parts := _parts(adata, name)) > 1:
        return np.hstack([features_of(adata, one, rows) for one in parts])
    if name in _COMPUTED:
        features = np.log1p(np.maximum(_intensity(adata, rows), 0) / _units(adata))
        if name == INTENSITY_AND_SHAPE:
            features = np.hstack([features, adata.obs[list(SHAPE)].to_numpy()[rows]])
    else:
        features = take(representation(adata, key_of(name)), rows)
    if not np.isfinite(features).all():
        msg = f"{name!r} holds values that are not finite in {(~np.isfinite(features)).any(axis=1).sum()} cells."
        raise InputError(msg)
    return np.asarray(features, dtype=np.float32)


def _intensity(adata: AnnData, rows: np.ndarray) -> np.ndarray:
    return np.asarray(adata.X[rows].toarray() if hasattr(adata.X, "toarray") else np.asarray(adata.X)[rows])


def _units(adata: AnnData) -> np.ndarray:
    rows = np.unique(np.linspace(0, adata.n_obs - 1, _CELLS_FOR_UNITS, dtype=np.int64))
    return units_of(_intensity(adata, rows))


def units_of(intensity: np.ndarray) -> np.ndarray:
    """Return, per marker, what is counted as 1 before log1p of intensities (n, C).

    It is 1, but for markers that hardly reach it: counts of a few ions, or intensities between 0 and 1. There log1p
    would be linear, and a probe of it worse than it need be (docs/paper.md, MIBI).
    """
    bright = np.percentile(np.maximum(intensity, 0), 99, axis=0)
    return np.where(bright > 0, np.minimum(1, bright / _BRIGHT), 1).astype(np.float32)


def scalers(adata: AnnData, name: str) -> list[Any]:
    """Return what may bring the features of a representation to one scale, to be fitted on the cells that train.

    There is one, but for ``"A + B"``: there A weighs nothing, less than B or, last, as much, and whoever fits a
    classifier chooses. So many features that add nothing need not drown the few that are there already.
    """
    first, *second = _parts(adata, name)
    if not second:
        return [_scaler(name)]
    width = features_of(adata, first, np.arange(1)).shape[1]
    second_block = ("second", _scaler(second[0]), slice(width, None))
    return [
        ColumnTransformer(
            [("first", _scaler(first) if weight else "drop", slice(width)), second_block],
            transformer_weights={"first": weight},
        )
        for weight in _WEIGHTS
    ]


def _scaler(name: str) -> Any:
    if name == INTENSITY_PCA:  # to the components that hold 95 % of the variance
        return make_pipeline(StandardScaler(), PCA(0.95, svd_solver="full"), StandardScaler())
    return StandardScaler()


def _parts(adata: AnnData, name: str) -> list[str]:
    return [name] if name in adata.obsm else name.split(BESIDE, 1)
