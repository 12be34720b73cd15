"""Marker-correlation maps: which learned feature follows which marker, how surely, and what else would explain it.

The matrix is that of Farndale et al. 2025 (arXiv 2503.07444), figure 3c; the rest says how far to believe it. Features
are gone through once, some at a time for all cells, so the representation may lie on disk.
"""

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.stats import rankdata

from mxsplicer.errors import InputError
from mxsplicer.images.tiles import in_order
from mxsplicer.system.memory import give_back
from mxsplicer.system.progress import track
from mxsplicer.tl.folds import LEFT_OUT, Folds, fold_by_group, fold_by_quadrant
from mxsplicer.tl.nulls import PairClasses, classify_pairs, p_values
from mxsplicer.tl.ridge import predict_held_out
from mxsplicer.tl.rows import columns, count_blocks, representation, rows_by_slide, slices
from mxsplicer.tl.spillover import check_given, find_confounders, neighbourhood_intensity, partial_correlation

logger = logging.getLogger(__name__)

_FEWEST_CELLS = 40  # in every fold, and for a null: fewer say nothing
_CODES = 1 << 16  # steps of a feature's range in which its ranks are found
_CROWDED = 256  # no step may hold more than this part of the cells, unless they are ties
_MATRICES = ("spearman", "partial_correlation", "correlation_p")  # beside Pearson's, in varm
_COLUMNS = ("mean_abs_r", "max_abs_r", "r2_mean", "r2_texture", "r2_localisation")  # in var


def correlate(
    adata: AnnData,
    *,
    use_rep: str = "X_splicer",
    key_added: str | None = None,
    given: Sequence[str] | None = None,
    max_cells: int = 50_000,
    lean: bool = False,
    seed: int = 0,
) -> None:
    """Correlate the intensity of every marker with every learned feature, and say how far to believe it.

    A marker or a feature that has one value in all cells follows nothing: its correlations are 0. docs/maps.md
    explains each number. What needs places in the tissue is left out where ``obsm["spatial"]`` lacks, and
    ``uns[...]["left_out"]`` says what and why.

    Parameters
    ----------
    adata
        Cells with marker intensities in ``X`` and a representation in ``obsm``, which may lie on disk.
    use_rep
        Key of the representation (cells, features).
    key_added
        Where Pearson's r goes; ``splicer_correlation`` for ``X_splicer``, ``joint_correlation`` for ``X_joint``. The
        other names begin with the same word.
    given
        Markers that the partial correlation holds fixed; by default the nuclear one and those of autofluorescence, by
        their names. The light around a cell in the marker itself is held fixed as well.
    max_cells
        Cells that ridge regression is done on, at most: a random sample.
    lean
        Keep no copies of the markers: 12 bytes less of each cell and marker, and slower. ``embed`` does so.
    seed
        Of that sample, and of the pairs of cells that the null looks at.

    Sets
    ----
    ``adata.varm["splicer_correlation"]``, ``["splicer_spearman"]``, ``["splicer_partial_correlation"]``
        Pearson's r, Spearman's rho and the partial correlation (markers, features), float32.
    ``adata.varm["splicer_correlation_p"]``
        How often Pearson's r is at least that far from 0 where marker and feature have nothing to do with each other,
        but each resembles itself in neighbouring cells as it does here; float64, see :mod:`mxsplicer.tl.nulls`.
    ``adata.var["splicer_mean_abs_r"]``, ``["splicer_max_abs_r"]``
        Mean (the paper's) and maximum of the absolute r over the features.
    ``adata.var["splicer_r2_mean"]``, ``["splicer_r2_texture"]``, ``["splicer_r2_localisation"]``
        Held-out R² of ridge regression from all features to the log of the marker's mean; to the log of its standard
        deviation within the cell; and to its log ring-to-mean ratio; the latter two given the mean, where the layers
        ``std`` (or an upper percentile) and ``ring`` (or ``nucleus``) were measured.
    ``adata.uns["splicer_correlation"]``
        Settings; ``effective_cells`` of each marker; ``p_5pct_fdr``, below which at most 5 % are expected to be chance;
        ``diagonal`` (markers, markers): absolute r of what z says of one marker with every marker; ``left_out``.

    Raises
    ------
    InputError
        If the representation or a marker of ``given`` is missing, or a value is not finite.

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
    fixed = list(find_confounders(adata.var_names) if given is None else given)
    check_given(fixed, list(adata.var_names))
    for name in names_of(adata, key):
        del getattr(adata, name.store)[name.key]

    left_out: list[str] = []
    markers = _prepare_markers(adata, left_out, seed, hold=not lean)
    sample, folds = _sample(adata, max_cells, seed, left_out)
    give_back()
    z_of_sample = np.empty((len(sample), z.shape[1]), dtype=np.float32)
    blocks = track(columns(z, lean=lean), "Correlating markers with features", total=count_blocks(z, lean=lean))
    work = partial(_correlate_block, markers, sample, z_of_sample)
    done = list(in_order(work, blocks, min(2, os.cpu_count() or 1)))
    found = {name: np.concatenate([block[name] for block in done], axis=1) for name in done[0]}
    _tell_constants(adata, use_rep, markers.x.vary, found.pop("vary")[0])

    r = found["r"]
    adata.varm[key] = r.astype(np.float32)
    prefix = key.removesuffix("_correlation")
    adata.varm[f"{prefix}_spearman"] = found["rho"].astype(np.float32)
    adata.var[f"{prefix}_mean_abs_r"] = np.abs(r).mean(axis=1)
    adata.var[f"{prefix}_max_abs_r"] = np.abs(r).max(axis=1)
    about: dict[str, Any] = {
        "use_rep": use_rep,
        "n_cells": adata.n_obs,
        "given": np.array(fixed, dtype=object),
        "seed": seed,
        "max_cells": max_cells,
    }
    if markers.light is not None:
        among, of_light = _products(markers.x, markers.x), _products(markers.x, markers.light)
        places = [adata.var_names.get_loc(name) for name in fixed]
        partial_r = partial_correlation(r, among, of_light, found["light_r"], places)
        adata.varm[f"{prefix}_partial_correlation"] = partial_r.astype(np.float32)
        about["light_from"] = markers.light_from
    if markers.pairs is not None:
        p = np.where(r == 0, 1.0, p_values(r, found["effective"]))
        adata.varm[f"{prefix}_correlation_p"] = p
        about["effective_cells"] = np.median(found["effective"], axis=1)
        about["p_5pct_fdr"] = _largest_p(p, 0.05)
    if folds is not None:
        _add_r2(adata, prefix, z_of_sample, sample, folds, about, left_out)
    about["left_out"] = np.array(left_out, dtype=object)
    adata.uns[key] = about


def partners(adata: AnnData, *, key: str = "splicer_correlation", top: int = 3) -> pd.DataFrame:
    """Return the features that follow each marker most, strongest first: one row per marker and feature.

    Parameters
    ----------
    adata
        Cells with ``varm[key]``, as :func:`correlate` sets it.
    key
        Which correlations.
    top
        Features per marker, at most.

    Returns
    -------
    ``marker``, ``feature`` (from 0), ``r``; where they were computed ``rho``, ``partial_r``, ``p``, and ``by_chance``:
    whether p is too large to be told from chance among all of them.
    """
    if key not in adata.varm:
        msg = f"the cells have no correlations {key!r}; run mxsplicer.tl.correlate or `mxsplicer correlate` first."
        raise InputError(msg)
    r = np.asarray(adata.varm[key], dtype=np.float64)
    prefix = key.removesuffix("_correlation")
    features = np.argsort(-np.abs(r), axis=1, kind="stable")[:, :top]
    table = {"marker": np.repeat(adata.var_names.astype(str), features.shape[1]), "feature": features.ravel()}
    values = {"r": r}
    for column, name in (("rho", "spearman"), ("partial_r", "partial_correlation"), ("p", "correlation_p")):
        if f"{prefix}_{name}" in adata.varm:
            values[column] = np.asarray(adata.varm[f"{prefix}_{name}"], dtype=np.float64)
    table |= {column: np.take_along_axis(matrix, features, axis=1).ravel() for column, matrix in values.items()}
    if "p" in values:
        table["by_chance"] = table["p"] > adata.uns[key]["p_5pct_fdr"]
    return pd.DataFrame(table)


@dataclass(frozen=True)
class Name:
    """A place in an AnnData: ``getattr(adata, store)[key]``."""

    store: str
    key: str


def names_of(adata: AnnData, key: str) -> list[Name]:
    """Return what :func:`correlate` set under ``key`` in these cells before."""
    prefix = key.removesuffix("_correlation")
    there = [Name("varm", key), *(Name("varm", f"{prefix}_{name}") for name in _MATRICES)]
    there += [Name("uns", key), *(Name("var", f"{prefix}_{name}") for name in _COLUMNS)]
    return [name for name in there if name.key in getattr(adata, name.store)]


@dataclass(frozen=True, eq=False)
class _Standard:
    """Columns (N, m) with mean 0 and variance 1, worked out as they are asked for; those that do not vary are 0.

    Of millions of cells copies of all markers are hundreds of megabytes; where they are held, all takes half the time.
    """

    values: np.ndarray
    mean: np.ndarray  # (m,), and what rounding leaves of a large one
    left: np.ndarray
    scale: np.ndarray
    vary: np.ndarray
    held: bool = False  # whether the values are those already

    @classmethod
    def of(cls, values: np.ndarray, what: str, *, hold: bool = False) -> "_Standard":
        mean = values.mean(axis=0, dtype=np.float64)
        if not np.isfinite(mean).all():
            msg = f"{what} holds values that are not finite in {(~np.isfinite(values)).any(axis=1).sum()} cells."
            raise InputError(msg)
        rough, n, parts = mean.astype(np.float32), len(values), slices(len(values))
        left = sum((values[part] - rough).sum(axis=0, dtype=np.float64) for part in parts) / n
        left = np.asarray(left, dtype=np.float32)
        squares = sum(np.square(values[part] - rough - left).sum(axis=0, dtype=np.float64) for part in parts)
        sd = np.sqrt(squares / n)
        vary = sd > 1e-6 * np.abs(mean)  # what float32 rounding leaves of a constant is no variation
        scale = np.divide(1, sd, out=np.zeros_like(sd), where=vary).astype(np.float32)
        made = cls(values, rough, left, scale, vary)
        return cls(made[:], rough, left, scale, vary, held=True) if hold else made

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape[0], self.values.shape[1]

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, part: slice) -> np.ndarray:
        if self.held:
            return self.values[part]
        out: np.ndarray = self.values[part] - self.mean
        out -= self.left
        out *= self.scale
        return out

    def column(self, number: int) -> np.ndarray:
        """Return one column (N, 1)."""
        one = slice(number, number + 1)
        own = (self.values[:, one], self.mean[one], self.left[one], self.scale[one], self.vary[one])
        return np.ascontiguousarray(_Standard(*own, held=self.held)[:])


@dataclass(frozen=True, eq=False)
class _Markers:
    """All that is known of the markers before the features are gone through, of each (N, m)."""

    x: _Standard
    ranks: _Standard
    light: _Standard | None = None  # around each cell
    light_from: str = ""
    pairs: PairClasses | None = None
    autocovariance: np.ndarray | None = None  # (m, K)


def _prepare_markers(adata: AnnData, left_out: list[str], seed: int, *, hold: bool) -> _Markers:
    intensities = np.asarray(adata.X.toarray() if hasattr(adata.X, "toarray") else adata.X, dtype=np.float32)
    x = _Standard.of(intensities, "X", hold=hold)
    ranks = _ranked(intensities, x.vary, hold=hold)
    points = np.asarray(adata.obsm["spatial"]) if "spatial" in adata.obsm else None
    light, light_from, pairs, autocovariance = None, "", None, None
    if points is None and "surroundings" not in adata.layers:
        left_out.append('the partial correlation: there is neither obsm["spatial"] nor layers["surroundings"]')
    else:
        of_light, light_from = neighbourhood_intensity(adata, intensities)
        light = _Standard.of(of_light, "the surroundings", hold=hold)
    if points is None or adata.n_obs < _FEWEST_CELLS or not np.ptp(points, axis=0).all():
        left_out.append(f'p-values: they need obsm["spatial"] of at least {_FEWEST_CELLS} cells')
    else:
        codes = np.zeros(adata.n_obs, dtype=np.int64)
        for code, rows in enumerate(rows_by_slide(adata).values()):
            codes[rows] = code
        pairs = classify_pairs(points, codes, seed=seed)
        autocovariance = np.concatenate([pairs.autocovariance(x.column(marker)) for marker in range(x.shape[1])])
    return _Markers(x, ranks, light, light_from, pairs, autocovariance)


def _correlate_block(
    markers: _Markers, sample: np.ndarray, z_of_sample: np.ndarray, block: tuple[slice, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return all that is wanted of some features (w), the last axis being theirs, and keep them of the sample."""
    some, raw = block
    z_of_sample[:, some] = raw[sample]
    standard = _Standard.of(raw, "the representation")
    z, vary = standard[:], standard.vary
    out = {"r": _products(markers.x, z), "rho": _products(markers.ranks, _ranked(raw, vary)), "vary": vary[None]}
    if markers.light is not None:
        out["light_r"] = _products(markers.light, z)
    if markers.pairs is not None and markers.autocovariance is not None:
        out["effective"] = markers.pairs.effective_cells(markers.autocovariance, markers.pairs.autocovariance(z))
    return out


def _ranked(values: np.ndarray, vary: np.ndarray, *, hold: bool = False) -> _Standard:
    """Return the ranks of each column, of many cells in steps of a 65,536th of their number; 0 if it does not vary."""
    n = len(values)
    step, dtype = (n / (_CODES - 1), np.uint16) if n > _CODES else (1.0, np.float32)
    out = np.zeros(values.shape, dtype=dtype)
    for column in np.flatnonzero(vary):
        ranks = _mid_ranks(np.ascontiguousarray(values[:, column])) / step
        out[:, column] = ranks.round() if n > _CODES else ranks
    return _Standard.of(out, "the ranks", hold=hold)


def _mid_ranks(values: np.ndarray) -> np.ndarray:
    """Return ranks, ties sharing their mean; of many cells to within 1/512 of their number.

    Cells whose values fall into the same of 65,536 equal steps share a rank. Where a step holds more than 1/256 of the
    cells that are not all alike, the steps end at the values of every so-manieth cell instead, and hold about as many
    cells each, beside those that are alike. Spearman's rho is off by less than 2e-5 of itself.
    """
    if len(values) <= _CODES:
        return np.asarray(rankdata(values))
    low, high = float(values.min()), float(values.max())
    codes = ((values - low) * ((_CODES - 1) / (high - low))).astype(np.uint16)
    counts = np.bincount(codes, minlength=_CODES)
    for code in np.flatnonzero(counts > len(values) / _CROWDED):
        together = values[codes == code]
        if together.min() < together.max():
            ends = np.unique(values[:: len(values) // (_CODES - 1) + 1])
            codes = np.searchsorted(ends, values).astype(np.uint16)
            counts = np.bincount(codes, minlength=_CODES)
            break
    return np.asarray((np.cumsum(counts) - counts / 2).astype(np.float32)[codes])


def _products(a: _Standard, b: _Standard | np.ndarray) -> np.ndarray:
    """Return the mean product of columns and of standardised ones (N, B), which is their correlation (A, B)."""
    # Off what is not held comes its mean alone, and the rest is done to the sums: it is gone through for a few of b.
    out, sums = np.zeros((a.shape[1], b.shape[1])), np.zeros(b.shape[1])
    for part in slices(len(a)):  # float32 within a slice, float64 over them
        of_b = b[part]
        out += (a[part] if a.held else a.values[part] - a.mean).T @ of_b
        sums += of_b.sum(axis=0, dtype=np.float64)
    if not a.held:
        out = (out - a.left[:, None] * sums) * a.scale[:, None]
    return np.asarray(np.clip(out / len(a), -1, 1))


def _largest_p(p: np.ndarray, rate: float) -> float:
    """Return the largest p of those of which at most ``rate`` are expected to be chance; 0 where there is none.

    Benjamini, Hochberg 1995 (J. R. Stat. Soc. B 57:289).
    """
    ascending = np.sort(p, axis=None)
    passed = np.flatnonzero(ascending <= rate * np.arange(1, ascending.size + 1) / ascending.size)
    return float(ascending[passed[-1]]) if len(passed) else 0.0


def _tell_constants(adata: AnnData, use_rep: str, markers_vary: np.ndarray, features_vary: np.ndarray) -> None:
    if not markers_vary.all():
        names = ", ".join(adata.var_names[~markers_vary])
        logger.info("Correlation 0 for markers with one value in all cells: %s", names)
    if not features_vary.all():
        n_constant, n = (~features_vary).sum(), len(features_vary)
        logger.warning("%d of %d features of %s have one value in all cells", n_constant, n, use_rep)


def _sample(adata: AnnData, max_cells: int, seed: int, left_out: list[str]) -> tuple[np.ndarray, Folds | None]:
    """Return the cells for ridge regression and their folds: by slide where there are three, else by quadrant."""
    none = np.empty(0, dtype=np.int64)
    if "spatial" not in adata.obsm:
        left_out.append('R²: folds need obsm["spatial"]')
        return none, None
    rng = np.random.default_rng(seed)
    if "slide" in adata.obs and adata.obs["slide"].nunique() >= 3:
        rows = np.sort(rng.choice(adata.n_obs, min(max_cells, adata.n_obs), replace=False))
        folds = fold_by_group(adata.obs["slide"].iloc[rows], np.full(len(rows), "cell", dtype=object), seed=seed)
    else:
        guard_um = float(adata.uns.get("mxsplicer", {}).get("patch_size_um", 32.0))
        of_all = fold_by_quadrant(adata, guard_um=guard_um)
        rows = np.flatnonzero(of_all.of_cell != LEFT_OUT)
        rows = np.sort(rng.choice(rows, min(max_cells, len(rows)), replace=False))
        folds = Folds(of_all.of_cell[rows], of_all.by)
    if len(rows) == 0 or np.bincount(folds.of_cell, minlength=folds.n).min() < _FEWEST_CELLS or folds.n < 3:
        left_out.append(f"R²: every fold ({folds.by}) needs {_FEWEST_CELLS} cells")
        return none, None
    return rows, folds


def _add_r2(
    adata: AnnData,
    prefix: str,
    z: np.ndarray,
    sample: np.ndarray,
    folds: Folds,
    about: dict[str, Any],
    left_out: list[str],
) -> None:
    """Set R² to the mean, and to texture and localisation where they were measured, and the diagonal."""
    known, targets = _rows(adata.X, sample), {}
    said = {"mean": "log(1 + mean)"}
    targets["mean"] = known
    for name, chosen in (("texture", _texture_layer(adata)), ("localisation", _place_layer(adata))):
        if chosen is None:
            wanted = "std or p75 and above" if name == "texture" else "ring or nucleus"
            left_out.append(f"R² to {name}: no layer {wanted}; measure it by `mxsplicer embed --measure`")
            continue
        values = _rows(adata.layers[chosen], sample)
        targets[name] = values if name == "texture" else values - known
        said[name] = f"log(1 + {chosen})" + (
            " given log(1 + mean)" if name == "texture" else " - log(1 + mean), given it"
        )
    whole = np.all([np.isfinite(values).all(axis=1) for values in targets.values()], axis=0)
    if np.bincount(folds.of_cell[whole], minlength=folds.n).min() < _FEWEST_CELLS:
        left_out.append("R²: too few cells have a value in every layer")
        return
    held = predict_held_out(
        z[whole],
        {name: values[whole] for name, values in targets.items()},
        known[whole],
        Folds(folds.of_cell[whole], folds.by),
    )
    for name, r2 in held.r2.items():
        adata.var[f"{prefix}_r2_{name}"] = r2
    about |= {"targets": said, "folds_by": folds.by, "n_cells_r2": int(whole.sum())}
    predicted = _Standard.of(held.predictions.astype(np.float32), "predictions")
    true = _Standard.of(known[whole].astype(np.float32), "X")
    about["diagonal"] = np.abs(_products(predicted, true)).astype(np.float32)
    about["among_markers"] = np.abs(_products(true, true)).astype(np.float32)


def _rows(matrix: Any, rows: np.ndarray) -> np.ndarray:
    values = matrix[rows]
    dense = np.asarray(values.toarray() if hasattr(values, "toarray") else values, dtype=np.float64)
    return np.log1p(np.maximum(dense, 0))


def _texture_layer(adata: AnnData) -> str | None:
    if "std" in adata.layers:
        return "std"
    percents = {name: float(name[1:]) for name in adata.layers if re.fullmatch(r"p\d+(\.\d+)?", name)}
    upper = [name for name, percent in percents.items() if percent >= 75]
    return max(upper, key=lambda name: percents[name], default=None)


def _place_layer(adata: AnnData) -> str | None:
    return next((name for name in ("ring", "nucleus") if name in adata.layers), None)
