"""Learned representations and baselines that are compared, by their names in tables of scores."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from anndata import AnnData
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mxsplicer.errors import InputError
from mxsplicer.tl.rows import take

METHOD_TITLES = {"splicer": "SpliCER", "sigma": "Σ-JE", "trident": "TriDeNT", "joint": "joint"}
UNTRAINED = "untrained encoder"
LEARNED = {title: f"X_{method}" for method, title in METHOD_TITLES.items()} | {UNTRAINED: "X_untrained"}  # keys of obsm
PIXEL_PCA = "PCA of pixels"
MEAN_INTENSITY = "mean intensity"
INTENSITY_AND_SHAPE = "mean intensity and shape"
INTENSITY_PCA = "PCA of mean intensity"
SHAPE = ("area_um2", "eccentricity", "major_axis_um", "minor_axis_um")

CONCATENATED = " + "  # between the names of two representations whose features are concatenated
_FIRST_WEIGHTS = (0.0, 0.1, 1.0)  # of the first of two concatenated representations

_UNIT_CELLS = 2_000
_MIN_BRIGHT_UNITS = 100  # 99th percentile in units of each marker, at least, so that log1p is a logarithm

_KEYS = {**LEARNED, PIXEL_PCA: "X_pixel_pca"}
_COMPUTED = (MEAN_INTENSITY, INTENSITY_AND_SHAPE, INTENSITY_PCA)  # from X and obs


def representation(adata: AnnData, key: str) -> Any:
    """Return ``adata.obsm[key]``, an array or an h5py dataset, or raise InputError with the keys that it has."""
    if key not in adata.obsm:
        msg = f"representation {key!r} was not found; obsm has the keys {', '.join(adata.obsm) or '(none)'}."
        raise InputError(msg)
    return adata.obsm[key]


def learned_features(adata: AnnData) -> str:
    """Return the key of the representation of the run that embedded the cells, such as "X_splicer" or "X_joint"."""
    method = str(adata.uns.get("mxsplicer", {}).get("method", "splicer"))
    return next((key for key in (f"X_{method}", "X_splicer", "X_joint") if key in adata.obsm), "X_splicer")


def key_of(name: str) -> str:
    """Return the key of ``obsm`` of a representation; any other name is the key itself."""
    return _KEYS.get(name, name)


def learned(adata: AnnData) -> dict[str, str]:
    """Return the keys of the representations that encoders computed, by name; first that of the run."""
    titles = {key: name for name, key in LEARNED.items()}
    keys = dict.fromkeys((learned_features(adata), *LEARNED.values()))
    return {titles.get(key, key): key for key in keys if key in adata.obsm}


def available(adata: AnnData) -> list[str]:
    """Return the names of the representations that cells have, the learned ones first."""
    pixels = [PIXEL_PCA] if _KEYS[PIXEL_PCA] in adata.obsm else []
    shape = [INTENSITY_AND_SHAPE] if set(SHAPE) <= set(adata.obs.columns) else []
    pca = [INTENSITY_PCA] if adata.n_vars > 1 else []
    return [*learned(adata), *pixels, MEAN_INTENSITY, *shape, *pca]


def names_with_reference(adata: AnnData, representations: Sequence[str] | None) -> list[str]:
    """Return the names of representations to score, all by default, with mean intensity among them."""
    names = list(representations) if representations is not None else available(adata)
    if MEAN_INTENSITY not in names:
        names.append(MEAN_INTENSITY)  # gains are over mean intensity
    for name in names:
        check_representation(adata, name)
    return names


def trained(names: Sequence[str]) -> str:
    """Return the representation that a verdict is about: the first learned one, in the order of :func:`available`."""
    return next((name for name in names if not is_baseline(name) and CONCATENATED not in name), names[0])


def is_baseline(name: str) -> bool:
    """Return whether a representation is a baseline: something that learned ones are compared with."""
    return name in (*_COMPUTED, PIXEL_PCA, UNTRAINED)


def check_representation(adata: AnnData, name: str) -> None:
    """Raise InputError if a representation, or one of the two in ``"A + B"``, was not found."""
    for one in _split(adata, name):
        if one not in _COMPUTED:
            representation(adata, key_of(one))


def features_of(adata: AnnData, name: str, rows: np.ndarray) -> np.ndarray:
    """Return a representation of some cells, given in ascending order, as float32 (n, features).

    Mean intensity is log1p of ``X`` in :func:`units_of` each marker. For ``"A + B"`` the features of A come first.
    """
    if len(names := _split(adata, name)) > 1:
        return np.hstack([features_of(adata, one, rows) for one in names])
    if name in _COMPUTED:
        features = np.log1p(np.maximum(_intensity(adata, rows), 0) / _units(adata))
        if name == INTENSITY_AND_SHAPE:
            features = np.hstack([features, adata.obs[list(SHAPE)].to_numpy()[rows]])
    else:
        features = take(representation(adata, key_of(name)), rows)
    if not np.isfinite(features).all():
        n_cells = (~np.isfinite(features)).any(axis=1).sum()
        msg = f"representation {name!r} has values that are not finite in {n_cells} cells."
        raise InputError(msg)
    return np.asarray(features, dtype=np.float32)


def _intensity(adata: AnnData, rows: np.ndarray) -> np.ndarray:
    return np.asarray(adata.X[rows].toarray() if hasattr(adata.X, "toarray") else np.asarray(adata.X)[rows])


def _units(adata: AnnData) -> np.ndarray:
    rows = np.unique(np.linspace(0, adata.n_obs - 1, _UNIT_CELLS, dtype=np.int64))
    return units_of(_intensity(adata, rows))


def units_of(intensity: np.ndarray) -> np.ndarray:
    """Return, per marker, the intensity that counts as 1 before log1p of intensities (n, C).

    It is 1, except for markers with small values: counts of a few ions, or intensities between 0 and 1. There log1p
    would be almost linear, and the linear probe on it too weak a baseline (docs/paper.md, MIBI).
    """
    bright = np.percentile(np.maximum(intensity, 0), 99, axis=0)
    return np.where(bright > 0, np.minimum(1, bright / _MIN_BRIGHT_UNITS), 1).astype(np.float32)


def scalers(adata: AnnData, name: str) -> list[Any]:
    """Return scikit-learn transformers, any of which may standardise a representation; fit them on training cells.

    There is one, except for ``"A + B"``: there A has a weight of 0, 0.1 or 1, and the caller chooses on validation
    cells. Otherwise many features of A that add nothing could crowd out the few of B.
    """
    first, *second = _split(adata, name)
    if not second:
        return [_scaler(name)]
    width = features_of(adata, first, np.arange(1)).shape[1]
    second_block = ("second", _scaler(second[0]), slice(width, None))
    return [
        ColumnTransformer(
            [("first", _scaler(first) if weight else "drop", slice(width)), second_block],
            transformer_weights={"first": weight},
        )
        for weight in _FIRST_WEIGHTS
    ]


def _scaler(name: str) -> Any:
    if name == INTENSITY_PCA:  # the components that explain 95 % of the variance
        return make_pipeline(StandardScaler(), PCA(0.95, svd_solver="full"), StandardScaler())
    return StandardScaler()


def _split(adata: AnnData, name: str) -> list[str]:
    return [name] if name in adata.obsm else name.split(CONCATENATED, 1)
