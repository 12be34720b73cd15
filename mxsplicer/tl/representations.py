"""Learned representations and baselines that are compared, by their names in tables of scores."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from anndata import AnnData
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from mxsplicer.errors import InputError
from mxsplicer.patches.compartments import STATISTICS, log_units
from mxsplicer.tl.rows import take

METHOD_TITLES = {"splicer": "SpliCER", "sigma": "Σ-JE", "trident": "TriDeNT", "joint": "joint"}
UNTRAINED = "untrained encoder"
LEARNED = {title: f"X_{method}" for method, title in METHOD_TITLES.items()} | {UNTRAINED: "X_untrained"}  # keys of obsm
COMPARTMENTS = "compartment statistics"  # mean of the rim, mean of the interior, standard deviation in the cell
MOMENTS = "moments of each compartment"  # mean and standard deviation in the rim, and in the interior
BLURRED = "mean of the blurred image"
PIXEL_PCA = "PCA of pixels"
MEAN_INTENSITY = "mean intensity"
INTENSITY_AND_SHAPE = "mean intensity and shape"
INTENSITY_PCA = "PCA of mean intensity"
SHAPE = ("area_um2", "eccentricity", "major_axis_um", "minor_axis_um")

CONCATENATED = " + "  # between the names of two representations whose features are concatenated
_FIRST_WEIGHTS = (0.0, 0.1, 1.0)  # of the first of two concatenated representations

_UNIT_CELLS = 2_000
_STATISTICS_OF = {COMPARTMENTS: (0, 1, 4), MOMENTS: (0, 1, 2, 3)}  # columns of X_compartments, of each marker
_FROM_PIXELS = {COMPARTMENTS: "X_compartments", MOMENTS: "X_compartments", BLURRED: "X_blurred"}
_KEYS = {**LEARNED, **_FROM_PIXELS, PIXEL_PCA: "X_pixel_pca"}
_COMPUTED = (MEAN_INTENSITY, INTENSITY_AND_SHAPE, INTENSITY_PCA)  # from X and obs
_INTENSITIES = (MEAN_INTENSITY, INTENSITY_AND_SHAPE, BLURRED)  # scaled before neighbours are searched
_NOISE = 1e-6  # variance of a log intensity that counts as nothing


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
    pixels = [name for name in (*_FROM_PIXELS, PIXEL_PCA) if _KEYS[name] in adata.obsm]
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
    return name in (*_COMPUTED, *_FROM_PIXELS, PIXEL_PCA, UNTRAINED)


def closed_form_keys(adata: AnnData) -> list[str]:
    """Return the keys of ``obsm`` that hold baselines without training."""
    return [key for key in dict.fromkeys(_FROM_PIXELS.values()) if key in adata.obsm]


def check_representation(adata: AnnData, name: str) -> None:
    """Raise InputError if a representation, or one of the two in ``"A + B"``, was not found."""
    for one in _split(adata, name):
        if one not in _COMPUTED:
            representation(adata, key_of(one))


def features_of(adata: AnnData, name: str, rows: np.ndarray) -> np.ndarray:
    """Return a representation of some cells, given in ascending order, as float32 (n, features).

    Mean intensity is log1p of ``X`` in :func:`units_of` each marker, and so is the mean of the blurred image. For
    ``"A + B"`` the features of A come first.
    """
    if len(names := _split(adata, name)) > 1:
        return np.hstack([features_of(adata, one, rows) for one in names])
    if name in _COMPUTED:
        features = np.log1p(np.maximum(_intensity(adata, rows), 0) / _units(adata))
        if name == INTENSITY_AND_SHAPE:
            features = np.hstack([features, adata.obs[list(SHAPE)].to_numpy()[rows]])
    else:
        features = take(representation(adata, key_of(name)), rows)
    if name in _STATISTICS_OF:
        columns = features.reshape(len(rows), -1, len(STATISTICS))[:, :, _STATISTICS_OF[name]]
        features = columns.reshape(len(rows), -1)
    elif name == BLURRED:
        features = np.log1p(np.maximum(features, 0) / units_of(_some(representation(adata, key_of(name)))))
    if not np.isfinite(features).all():
        n_cells = (~np.isfinite(features)).any(axis=1).sum()
        msg = f"representation {name!r} has values that are not finite in {n_cells} cells."
        raise InputError(msg)
    return np.asarray(features, dtype=np.float32)


def _intensity(adata: AnnData, rows: np.ndarray) -> np.ndarray:
    return np.asarray(adata.X[rows].toarray() if hasattr(adata.X, "toarray") else np.asarray(adata.X)[rows])


def _units(adata: AnnData) -> np.ndarray:
    return units_of(_intensity(adata, _unit_rows(adata.n_obs)))


def _some(matrix: Any) -> np.ndarray:
    return take(matrix, _unit_rows(matrix.shape[0]))


def _unit_rows(n: int) -> np.ndarray:
    return np.unique(np.linspace(0, n - 1, _UNIT_CELLS, dtype=np.int64))


def units_of(intensity: np.ndarray) -> np.ndarray:
    """Return, per marker, the intensity that counts as 1 before log1p of intensities (n, C).

    It is 1, except for markers with small values: counts of a few ions, or intensities between 0 and 1. There log1p
    would be almost linear, and the linear probe on it too weak a baseline (docs/paper.md, MIBI).
    """
    return log_units(np.percentile(np.maximum(intensity, 0), 99, axis=0))


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


def neighbour_scaler(name: str) -> Any:
    """Return the scikit-learn transformer of a representation before neighbours are searched by Euclidean distance.

    Learned representations stay as scanpy takes them from ``obsm``. Intensities are prepared as an analyst would: mean
    intensities are scaled (their log is taken already), their principal components stay as they are, and compartment
    statistics are whitened per marker.
    """
    if name in _STATISTICS_OF:
        return _scaler(name)
    if name == INTENSITY_PCA:
        return make_pipeline(StandardScaler(), PCA(0.95, svd_solver="full"))
    return StandardScaler() if name in _INTENSITIES else FunctionTransformer()


def whiten_markers(adata: AnnData, name: str = COMPARTMENTS) -> np.ndarray:
    """Return compartment statistics whitened per marker, (cells, features) float32, as neighbours are searched in them.

    Parameters
    ----------
    adata
        Cells with ``obsm["X_compartments"]``.
    name
        ``"compartment statistics"`` or ``"moments of each compartment"``.

    Raises
    ------
    InputError
        If the statistics were not found.
    """
    if name not in _STATISTICS_OF:
        msg = f"{name!r} has no statistics of markers; those that have are {' and '.join(_STATISTICS_OF)}."
        raise InputError(msg)
    features = features_of(adata, name, np.arange(adata.n_obs))
    return np.asarray(_scaler(name).fit_transform(features))


class WhitenMarkers(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Whiten the columns of each marker: uncorrelated, with variance 1, except where nothing varies.

    Parameters
    ----------
    n_statistics
        Number of consecutive columns of a marker.
    """

    def __init__(self, n_statistics: int) -> None:
        self.n_statistics = n_statistics

    def fit(self, x: np.ndarray, _y: object = None) -> "WhitenMarkers":
        """Measure mean and covariance of the columns of each marker."""
        of_marker = self._by_marker(np.asarray(x, dtype=np.float64))
        self.mean_ = of_marker.mean(axis=0)
        centred = of_marker - self.mean_
        covariance = np.einsum("ncj,nck->cjk", centred, centred) / max(len(x) - 1, 1)
        variance, vectors = np.linalg.eigh(covariance)
        self.weights_ = vectors / np.sqrt(np.maximum(variance, 0) + _NOISE)[:, None]
        return self

    def transform(self, x: np.ndarray) -> np.ndarray:
        """Return the whitened columns."""
        centred = self._by_marker(x) - self.mean_
        whitened = np.einsum("ncj,cjk->nck", centred, self.weights_)
        return np.asarray(whitened.reshape(len(x), -1), dtype=np.float32)

    def _by_marker(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), -1, self.n_statistics)


def _scaler(name: str) -> Any:
    if name in _STATISTICS_OF:
        return WhitenMarkers(len(_STATISTICS_OF[name]))
    if name == INTENSITY_PCA:  # the components that explain 95 % of the variance
        return make_pipeline(StandardScaler(), PCA(0.95, svd_solver="full"), StandardScaler())
    return StandardScaler()


def _split(adata: AnnData, name: str) -> list[str]:
    return [name] if name in adata.obsm else name.split(CONCATENATED, 1)
