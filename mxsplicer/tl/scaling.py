"""Scale representations before they are probed or their neighbours are searched."""

from typing import Any

import numpy as np
from anndata import AnnData
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from mxsplicer.errors import InputError
from mxsplicer.tl.representations import (
    BLURRED,
    COMPARTMENTS,
    INTENSITY_AND_SHAPE,
    INTENSITY_PCA,
    LOG_INTENSITY,
    MEAN_INTENSITY,
    STATISTICS_OF,
    features_of,
    split_concatenated,
)

_FIRST_WEIGHTS = (0.0, 0.1, 1.0)  # of the first of two concatenated representations
_INTENSITIES = (MEAN_INTENSITY, LOG_INTENSITY, INTENSITY_AND_SHAPE, BLURRED)  # scaled before neighbours are searched
_NOISE = 1e-6  # variance of a log intensity that counts as nothing


def scalers(adata: AnnData, name: str) -> list[Any]:
    """Return scikit-learn transformers, any of which may scale a representation; fit them on training cells.

    The caller chooses on validation cells: every representation as it stands, with the weights that it gives its
    features, or each feature with unit variance (compartment statistics whitened). For ``"A + B"`` A has a weight of 0,
    0.1 or 1. Otherwise many features of A that add nothing could crowd out the few of B.
    """
    first, *second = split_concatenated(adata, name)
    if not second:
        return [StandardScaler(with_std=False), _make_scaler(name)]
    width = features_of(adata, first, np.arange(1)).shape[1]
    second_block = ("second", _make_scaler(second[0]), slice(width, None))
    return [
        ColumnTransformer(
            [("first", _make_scaler(first) if weight else "drop", slice(width)), second_block],
            transformer_weights={"first": weight},
        )
        for weight in _FIRST_WEIGHTS
    ]


def neighbour_scaler(name: str) -> Any:
    """Return the transformer that scales a representation before neighbours are searched by Euclidean distance.

    Learned representations stay as scanpy takes them from ``obsm``. Intensities are prepared as an analyst would: mean
    intensities are scaled (their log is taken already), their principal components stay as they are, and compartment
    statistics are whitened per marker.
    """
    if name in STATISTICS_OF:
        return _make_scaler(name)
    if name == INTENSITY_PCA:
        return make_pipeline(StandardScaler(), PCA(0.95, svd_solver="full"))
    return StandardScaler() if name in _INTENSITIES else FunctionTransformer()


def whiten_markers(adata: AnnData, name: str = COMPARTMENTS) -> np.ndarray:
    """Scale compartment statistics for neighbour search: whiten them per marker, (cells, features) float32.

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
    if name not in STATISTICS_OF:
        msg = f"{name!r} has no statistics of markers; those that have are {' and '.join(STATISTICS_OF)}."
        raise InputError(msg)
    features = features_of(adata, name, np.arange(adata.n_obs))
    return np.asarray(_make_scaler(name).fit_transform(features))


class WhitenMarkers(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Scale by whitening the columns of each marker: uncorrelated, with variance 1, except where nothing varies.

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


def _make_scaler(name: str) -> Any:
    if name in STATISTICS_OF:
        return WhitenMarkers(len(STATISTICS_OF[name]))
    if name == INTENSITY_PCA:  # the components that explain 95 % of the variance
        return make_pipeline(StandardScaler(), PCA(0.95, svd_solver="full"), StandardScaler())
    return StandardScaler()
