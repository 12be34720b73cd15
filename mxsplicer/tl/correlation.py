"""Correlation of every marker with every feature, with p-values and partial correlations.

The matrix is that of Farndale et al. 2025 (arXiv 2503.07444), figure 3c. Features are read once, a few at a time for
all cells, so the representation may lie on disk.
"""

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.stats import false_discovery_control

from mxsplicer.errors import InputError
from mxsplicer.system.memory import give_back
from mxsplicer.system.progress import track
from mxsplicer.system.workers import map_in_order
from mxsplicer.tl.confounders import check_given, find_confounders, neighbourhood_intensity
from mxsplicer.tl.defaults import MAX_R2_CELLS, N_PARTNERS
from mxsplicer.tl.features import feature_names
from mxsplicer.tl.held_out import MIN_CELLS, add_r2, fold_sample
from mxsplicer.tl.reading import count_column_groups, read_columns, rows_by_slide
from mxsplicer.tl.representations import learned_key, representation
from mxsplicer.tl.significance import PairClasses, classify_pairs, p_values
from mxsplicer.tl.standardized_columns import StandardizedColumns, rank_columns

logger = logging.getLogger(__name__)

_FALSE_DISCOVERY_RATE = 0.05
_MATRICES = ("spearman", "partial_correlation", "correlation_p")  # of varm, in addition to Pearson's r
_COLUMNS = ("mean_abs_r", "max_abs_r", "r2_mean", "r2_texture", "r2_localisation")  # of var


def correlate(
    adata: AnnData,
    *,
    use_rep: str = "X_splicer",
    key_added: str | None = None,
    given: Sequence[str] | None = None,
    max_cells: int = MAX_R2_CELLS,
    lean: bool = False,
    seed: int = 0,
) -> None:
    """Correlate the intensity of every marker with every feature.

    A marker or a feature that is constant over all cells has the correlation 0. docs/correlation-numbers.md explains
    each number. Without ``obsm["spatial"]``, what needs centroids is left out, and ``uns[...]["left_out"]`` gives the
    reason.

    Parameters
    ----------
    adata
        Cells with marker intensities in ``X`` and a representation in ``obsm``, which may lie on disk.
    use_rep
        Key of the representation (cells, features).
    key_added
        Key of Pearson's r; ``splicer_correlation`` for ``X_splicer``, ``joint_correlation`` for ``X_joint``. The other
        keys begin with the same word.
    given
        Markers that the partial correlation holds fixed, by default the nuclear stain and the autofluorescence
        channels, found by their names. The neighbourhood intensity in the marker is held fixed too.
    max_cells
        Largest number of cells, drawn at random, for ridge regression.
    lean
        Keep no copies of the markers in memory. This saves 12 bytes per cell and marker, and is slower. ``embed`` sets
        it.
    seed
        Seed of that sample, and of the pairs of cells for the null distribution.

    Sets
    ----
    ``adata.varm["splicer_correlation"]``, ``["splicer_spearman"]``, ``["splicer_partial_correlation"]``
        Pearson's r, Spearman's rho and the partial correlation (markers, features), float32.
    ``adata.varm["splicer_correlation_p"]``
        P-value of Pearson's r for marker and feature that are unrelated, but each as similar in neighbouring cells as
        it is here; float64, see :mod:`mxsplicer.tl.significance`.
    ``adata.var["splicer_mean_abs_r"]``, ``["splicer_max_abs_r"]``
        Mean (the paper's) and maximum of the absolute r over the features.
    ``adata.var["splicer_r2_mean"]``, ``["splicer_r2_texture"]``, ``["splicer_r2_localisation"]``
        Held-out R² of ridge regression from all features to the log of the marker's mean; to the log of its standard
        deviation within the cell; and to its log ring-to-mean ratio. The last two are given the mean, and need the
        layers ``std`` (or an upper percentile) and ``ring`` (or ``nucleus``).
    ``adata.uns["splicer_correlation"]``
        Settings; ``effective_cells`` of each marker; ``p_5pct_fdr``, the largest p-value that is significant at a false
        discovery rate of 5 %; ``diagonal`` (markers, markers), the absolute r of the prediction of each marker from z
        with every marker; ``left_out``.

    Raises
    ------
    InputError
        If the representation or a marker of ``given`` was not found, or a value is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from anndata import AnnData
    >>> intensity = np.array([[1.0], [2.0], [4.0]])
    >>> adata = AnnData(intensity, obsm={"X_splicer": np.hstack([-intensity, 0 * intensity])})
    >>> correlate(adata)
    >>> adata.varm["splicer_correlation"]
    array([[-1.,  0.]], dtype=float32)
    """
    z = representation(adata, use_rep)
    key = key_added or f"{use_rep.removeprefix('X_')}_correlation"
    prefix = key.removesuffix("_correlation")
    fixed = list(find_confounders(adata.var_names) if given is None else given)
    check_given(fixed, list(adata.var_names))
    _delete_earlier(adata, key, prefix)

    left_out: list[str] = []
    markers = _prepare_markers(adata, left_out, seed, copy=not lean)
    sample, folds = fold_sample(adata, max_cells, seed, left_out)
    give_back()
    z_of_sample = np.empty((len(sample), z.shape[1]), dtype=np.float32)
    n_groups = count_column_groups(z, lean=lean)
    blocks = track(read_columns(z, lean=lean), "Correlating markers with features", total=n_groups)
    found = _correlate_blocks(markers, sample, z_of_sample, blocks)
    _log_constants(adata, use_rep, markers.x.varies, found.pop("varies")[0])
    about: dict[str, Any] = {
        "use_rep": use_rep,
        "n_cells": adata.n_obs,
        "given": np.array(fixed, dtype=object),
        "seed": seed,
        "max_cells": max_cells,
    }
    _set_matrices(adata, key, prefix, markers, found, about)
    if folds is not None:
        add_r2(adata, prefix, z_of_sample, sample, folds, about, left_out)
    about["left_out"] = np.array(left_out, dtype=object)
    adata.uns[key] = about


def partners(adata: AnnData, *, key: str = "splicer_correlation", top: int = N_PARTNERS) -> pd.DataFrame:
    """Return the features with the largest absolute correlation with each marker: one row per marker and feature.

    Parameters
    ----------
    adata
        Cells with ``varm[key]``, as :func:`correlate` sets it.
    key
        Key of the correlations.
    top
        Largest number of features per marker.

    Returns
    -------
    ``marker``; ``feature`` (from 0) and its ``name``, "CD4 rim", or "feature 143" without one; ``r``; where they were
    computed ``rho``, ``partial_r``, ``p``, and ``by_chance``: whether the correlation is not significant at a false
    discovery rate of 5 %.
    """
    if key not in adata.varm:
        msg = f"correlations {key!r} were not found in varm."
        raise InputError(msg, "Run mxsplicer.tl.correlate or `mxsplicer correlate` first.")
    r = np.asarray(adata.varm[key], dtype=np.float64)
    prefix = key.removesuffix("_correlation")
    features = np.argsort(-np.abs(r), axis=1, kind="stable")[:, :top]
    table: dict[str, Any] = {
        "marker": np.repeat(adata.var_names.astype(str), features.shape[1]),
        "feature": features.ravel(),
        "name": np.array(correlated_features(adata, key))[features.ravel()],
    }
    values = {"r": r}
    for column, name in (("rho", "spearman"), ("partial_r", "partial_correlation"), ("p", "correlation_p")):
        if f"{prefix}_{name}" in adata.varm:
            values[column] = np.asarray(adata.varm[f"{prefix}_{name}"], dtype=np.float64)
    table |= {column: np.take_along_axis(matrix, features, axis=1).ravel() for column, matrix in values.items()}
    if "p" in values:
        table["by_chance"] = table["p"] > adata.uns[key]["p_5pct_fdr"]
    return pd.DataFrame(table)


def _delete_earlier(adata: AnnData, key: str, prefix: str) -> None:
    """Delete correlations that were set under ``key`` before, since not all of them may be set again."""
    earlier = [(adata.varm, key), (adata.uns, key)]
    earlier += [(adata.varm, f"{prefix}_{name}") for name in _MATRICES]
    earlier += [(adata.var, f"{prefix}_{name}") for name in _COLUMNS]
    for store, name in earlier:
        if name in store:
            del store[name]


@dataclass(frozen=True, eq=False)
class _Markers:
    """What is computed of the markers before the features that correlate with them are read; each (N, m)."""

    x: StandardizedColumns
    ranks: StandardizedColumns
    around: StandardizedColumns | None = None  # neighbourhood intensity
    around_from: str = ""
    pairs: PairClasses | None = None
    autocovariance: np.ndarray | None = None  # (m, K)


def _prepare_markers(adata: AnnData, left_out: list[str], seed: int, *, copy: bool) -> _Markers:
    intensities = np.asarray(adata.X.toarray() if hasattr(adata.X, "toarray") else adata.X, dtype=np.float32)
    x = StandardizedColumns.of(intensities, "X", copy=copy)
    ranks = rank_columns(intensities, x.varies, copy=copy)
    points = np.asarray(adata.obsm["spatial"]) if "spatial" in adata.obsm else None
    around, around_from, pairs, autocovariance = None, "", None, None
    if points is None and "surroundings" not in adata.layers:
        left_out.append('the partial correlation: it needs obsm["spatial"] or layers["surroundings"]')
    else:
        values, around_from = neighbourhood_intensity(adata, intensities)
        around = StandardizedColumns.of(values, "the neighbourhood intensity", copy=copy)
    if points is None or adata.n_obs < MIN_CELLS or not np.ptp(points, axis=0).all():
        left_out.append(f'p-values: they need obsm["spatial"] of at least {MIN_CELLS} cells')
    else:
        codes = np.zeros(adata.n_obs, dtype=np.int64)
        for code, rows in enumerate(rows_by_slide(adata).values()):
            codes[rows] = code
        pairs = classify_pairs(points, codes, seed=seed)
        autocovariance = np.concatenate([pairs.autocovariance(x.column(marker)) for marker in range(x.shape[1])])
    return _Markers(x, ranks, around, around_from, pairs, autocovariance)


def _correlate_blocks(
    markers: _Markers, sample: np.ndarray, z_of_sample: np.ndarray, blocks: Iterable[tuple[slice, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Return the matrices (markers, features) of all features, and copy z of the sample into ``z_of_sample``."""
    work = partial(_correlate_block, markers, sample, z_of_sample)
    done = list(map_in_order(work, blocks, min(2, os.cpu_count() or 1)))
    return {name: np.concatenate([block[name] for block in done], axis=1) for name in done[0]}


def _correlate_block(
    markers: _Markers, sample: np.ndarray, z_of_sample: np.ndarray, block: tuple[slice, np.ndarray]
) -> dict[str, np.ndarray]:
    features, values = block
    z_of_sample[:, features] = values[sample]
    standardized = StandardizedColumns.of(values, "the representation")
    z, varies = standardized[:], standardized.varies
    out = {
        "r": markers.x.correlate(z),
        "rho": markers.ranks.correlate(rank_columns(values, varies)),
        "varies": varies[None],
    }
    if markers.around is not None:
        out["around_r"] = markers.around.correlate(z)
    if markers.pairs is not None and markers.autocovariance is not None:
        out["effective"] = markers.pairs.effective_cells(markers.autocovariance, markers.pairs.autocovariance(z))
    return out


def _set_matrices(
    adata: AnnData, key: str, prefix: str, markers: _Markers, found: dict[str, np.ndarray], about: dict[str, Any]
) -> None:
    """Write correlations and p-values into ``varm`` and ``var``, and what they were computed from into ``about``."""
    r = found["r"]
    adata.varm[key] = r.astype(np.float32)
    adata.varm[f"{prefix}_spearman"] = found["rho"].astype(np.float32)
    adata.var[f"{prefix}_mean_abs_r"] = np.abs(r).mean(axis=1)
    adata.var[f"{prefix}_max_abs_r"] = np.abs(r).max(axis=1)
    if markers.around is not None:
        among_markers, with_around = (markers.x.correlate(other) for other in (markers.x, markers.around))
        given = [adata.var_names.get_loc(name) for name in about["given"]]
        partial_r = partial_correlation(r, among_markers, with_around, found["around_r"], given)
        adata.varm[f"{prefix}_partial_correlation"] = partial_r.astype(np.float32)
        about["light_from"] = markers.around_from
    if markers.pairs is not None:
        p = np.where(r == 0, 1.0, p_values(r, found["effective"]))
        adata.varm[f"{prefix}_correlation_p"] = p
        about["effective_cells"] = np.median(found["effective"], axis=1)
        # The procedure of Benjamini and Hochberg 1995 (J. R. Stat. Soc. B 57:289).
        significant = p[false_discovery_control(p.ravel()).reshape(p.shape) <= _FALSE_DISCOVERY_RATE]
        about["p_5pct_fdr"] = float(significant.max(initial=0.0))


def _log_constants(adata: AnnData, use_rep: str, markers_vary: np.ndarray, features_vary: np.ndarray) -> None:
    if not markers_vary.all():
        names = ", ".join(adata.var_names[~markers_vary])
        logger.info("Markers that are constant over all cells have the correlation 0: %s", names)
    if not features_vary.all():
        n_constant, n = (~features_vary).sum(), len(features_vary)
        logger.warning("%d of %d features of %s are constant over all cells", n_constant, n, use_rep)


def correlation_key(adata: AnnData) -> str | None:
    """Return the key in ``varm`` of the correlations of the embedding, or None if they were not computed."""
    of_method = f"{learned_key(adata).removeprefix('X_')}_correlation"
    return next((key for key in ("splicer_correlation", of_method) if key in adata.varm), None)


def correlated_features(adata: AnnData, key: str) -> list[str]:
    """Return the names of the features whose correlations are ``varm[key]``."""
    use_rep = str(adata.uns.get(key, {}).get("use_rep", learned_key(adata)))
    n = adata.varm[key].shape[1]
    names = feature_names(adata, use_rep=use_rep) if use_rep in adata.obsm else []
    return names if len(names) == n else [f"feature {number}" for number in range(n)]


def partial_correlation(
    r: np.ndarray, among_markers: np.ndarray, with_around: np.ndarray, around_r: np.ndarray, given: Sequence[int]
) -> np.ndarray:
    """Return the partial correlation of each marker with each feature (m, d).

    The confounders and the neighbourhood intensity of the marker are held fixed.

    Parameters
    ----------
    r
        Correlation of markers with features (m, d).
    among_markers
        Correlation of markers with markers (m, m).
    with_around
        Correlation of markers with the neighbourhood intensity of each marker (m, m).
    around_r
        Correlation of the neighbourhood intensity with features (m, d).
    given
        Which markers are confounders. A confounder is not held fixed in its own row.
    """
    out = np.zeros_like(r)
    for marker in range(len(r)):
        fixed = [one for one in given if one != marker]
        # Covariance of the fixed variables: the confounders, then the neighbourhood intensity of this marker.
        among = np.ones((len(fixed) + 1, len(fixed) + 1))
        among[:-1, :-1] = among_markers[np.ix_(fixed, fixed)]
        among[:-1, -1] = among[-1, :-1] = with_around[fixed, marker]
        with_marker = np.append(among_markers[fixed, marker], with_around[marker, marker])
        with_features = np.vstack([r[fixed], around_r[marker]])
        solved = np.linalg.pinv(among, rcond=1e-6, hermitian=True) @ np.column_stack([with_marker, with_features])
        variance_of_marker = 1 - with_marker @ solved[:, 0]
        variance_of_features = 1 - (with_features * solved[:, 1:]).sum(axis=0)
        scale = np.sqrt(np.maximum(variance_of_marker, 0) * np.maximum(variance_of_features, 0))
        covariance = r[marker] - with_marker @ solved[:, 1:]
        np.divide(covariance, scale, out=out[marker], where=(scale > 1e-4) & (r[marker] != 0))
    return np.asarray(np.clip(out, -1, 1))
