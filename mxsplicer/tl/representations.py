"""Learned representations and baselines that are compared, by their names in tables of scores."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from mxsplicer.errors import InputError
from mxsplicer.patches.closed_form import STATISTICS, log_units
from mxsplicer.splicer.moment_names import MOMENTS as WITHOUT_TRAINING
from mxsplicer.tl.reading import read_rows

logger = logging.getLogger(__name__)

METHOD_TITLES = {"splicer": "SpliCER", "sigma": "Σ-JE", "trident": "TriDeNT", "joint": "joint"}
BUILT_IN = "built-in model"  # the title of "splicer" where nothing was trained
UNTRAINED = "untrained encoder"
LEARNED = {title: f"X_{method}" for method, title in METHOD_TITLES.items()} | {UNTRAINED: "X_untrained"}  # keys of obsm
COMPARTMENTS = "compartment statistics"  # mean of the rim, mean of the interior, standard deviation in the cell
MOMENTS = "moments of each compartment"  # mean and standard deviation in the rim, and in the interior
BLURRED = "mean of the blurred image"
PIXEL_PCA = "PCA of pixels"
MEAN_INTENSITY = "mean intensity"
LOG_INTENSITY = "logarithm of mean intensity"  # next to mean intensity where X has negative values
INTENSITY_AND_SHAPE = "mean intensity and shape"
INTENSITY_PCA = "PCA of mean intensity"
SHAPE = ("area_um2", "eccentricity", "major_axis_um", "minor_axis_um")

CONCATENATED = " + "  # between the names of two representations whose features are concatenated

_ONE_MODEL = "Embed all slides in one call, or each with one `model`, and combine them by mxsplicer merge."
_UNIT_CELLS, _FORM_CELLS = 2_000, 20_000
_MAX_LOG = 30  # above log1p of any intensity, whatever the base
_MAX_LISTED = 5
STATISTICS_OF = {COMPARTMENTS: (0, 1, 4), MOMENTS: (0, 1, 2, 3)}  # columns of X_compartments, of each marker
_FROM_PIXELS = {COMPARTMENTS: "X_compartments", MOMENTS: "X_compartments", BLURRED: "X_blurred"}
_KEYS = {**LEARNED, BUILT_IN: LEARNED[METHOD_TITLES["splicer"]], **_FROM_PIXELS, PIXEL_PCA: "X_pixel_pca"}
_COMPUTED = (MEAN_INTENSITY, LOG_INTENSITY, INTENSITY_AND_SHAPE, INTENSITY_PCA)  # from X and obs


@dataclass(frozen=True)
class Intensities:
    """What ``X`` holds, which decides how the baseline representations of mean intensity are made.

    Attributes
    ----------
    form
        ``"raw"``; ``"log"`` after ``scanpy.pp.log1p``; ``"negative"`` with values below 0, which are scaled, centred or
        background-subtracted. Only raw intensities are made logarithmic; others are used as they are.
    lacking
        Markers without a value in some cells, such as those of an outer join; a missing value is the marker's median.
    """

    form: str = "raw"
    lacking: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return a sentence on what is not raw, "" if all is."""
        n = len(self.lacking)
        listed = ", ".join(self.lacking[:_MAX_LISTED]) + (", ..." if n > _MAX_LISTED else "")
        sentences = {
            "raw": "",
            "log": "X is logarithmic already, so mean intensity is used as it is.",
            "negative": (
                f"X has values below 0, so it is not raw: mean intensity is used as it is, and {LOG_INTENSITY} has the "
                "negative values at 0."
            ),
        }
        missing = f"X lacks values of {n} markers ({listed}), which are replaced by the marker's median." if n else ""
        return f"{sentences[self.form]} {missing}".strip()


def intensities_of(adata: AnnData) -> Intensities:
    """Return what ``X`` holds, for baseline representations; a sample drawn by ``evaluate`` has it of all cells."""
    stored = adata.uns.get("mxsplicer", {}).get("intensities")
    if isinstance(stored, Intensities):
        return stored
    x = _intensity(adata, np.unique(np.linspace(0, adata.n_obs - 1, _FORM_CELLS, dtype=np.int64)))
    lacking = tuple(str(name) for name, some in zip(adata.var_names, np.isnan(x).any(axis=0), strict=True) if some)
    if (x < 0).any():
        return Intensities("negative", lacking)
    is_log = "log1p" in adata.uns and np.nanmax(x, initial=0) < _MAX_LOG
    return Intensities("log" if is_log else "raw", lacking)


def representation(adata: AnnData, key: str) -> Any:
    """Return a representation, ``adata.obsm[key]``.

    Raises
    ------
    InputError
        If it was not found, or several models computed it, as after ``anndata.concat`` of slides embedded apart.
    """
    if key not in adata.obsm:
        msg = f"representation {key!r} was not found; obsm has the keys {', '.join(adata.obsm) or '(none)'}."
        raise InputError(msg)
    models = [*adata.uns.get("mxsplicer", {}).get("models", {})]
    if len(models) > 1 and key in LEARNED.values():
        msg = (
            f"{len(models)} models computed {key} of these cells ({', '.join(models)}); its columns cannot be compared."
        )
        raise InputError(msg, _ONE_MODEL)
    return adata.obsm[key]


def warn_of_several_models(adata: AnnData, key: str) -> None:
    """Warn if cells of several slides are analysed together and nothing records that one model embedded them."""
    if key not in LEARNED.values() or "slide" not in adata.obs:
        return
    slides = adata.obs["slide"].astype(str).unique()
    known = adata.uns.get("mxsplicer", {}).get("ledger", {})
    others = [slide for slide in slides if slide not in known]
    if len(slides) > 1 and others:
        logger.warning(
            "It is not recorded that one model embedded these %d slides (%s, ...), as after anndata.concat: slides "
            "embedded apart have scales of their own, so their columns of %s cannot be compared. %s",
            len(slides),
            others[0],
            key,
            _ONE_MODEL,
        )


def learned_key(adata: AnnData) -> str:
    """Return the key of the representation of the run that embedded the cells, such as "X_splicer" or "X_joint"."""
    method = str(adata.uns.get("mxsplicer", {}).get("method", "splicer"))
    return next((key for key in (f"X_{method}", "X_splicer", "X_joint") if key in adata.obsm), "X_splicer")


def title_of_method(adata: AnnData) -> str:
    """Return the title of what embedded the cells: that of the method, or of the built-in model."""
    method = learned_key(adata).removeprefix("X_")
    return BUILT_IN if _is_built_in(adata) else METHOD_TITLES.get(method, method)


def _is_built_in(adata: AnnData) -> bool:
    settings = adata.uns.get("mxsplicer", {}).get("settings", {})
    return bool(settings.get("encoder") == WITHOUT_TRAINING)


def key_of(name: str) -> str:
    """Return the key of ``obsm`` of a representation; any other name is the key itself."""
    return _KEYS.get(name, name)


def learned(adata: AnnData) -> dict[str, str]:
    """Return the keys of the representations that encoders computed, by name; first that of the run."""
    titles = {key: name for name, key in LEARNED.items()}
    if _is_built_in(adata):
        titles[learned_key(adata)] = BUILT_IN
    keys = dict.fromkeys((learned_key(adata), *LEARNED.values()))
    return {titles.get(key, key): key for key in keys if key in adata.obsm}


def available(adata: AnnData) -> list[str]:
    """Return the names of the representations that cells have, the learned ones first."""
    pixels = [name for name in (*_FROM_PIXELS, PIXEL_PCA) if _KEYS[name] in adata.obsm]
    shape = [INTENSITY_AND_SHAPE] if set(SHAPE) <= set(adata.obs.columns) else []
    pca = [INTENSITY_PCA] if adata.n_vars > 1 else []
    log = [LOG_INTENSITY] if intensities_of(adata).form == "negative" else []
    return [*learned(adata), *pixels, MEAN_INTENSITY, *log, *shape, *pca]


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
    """Return the keys of ``obsm`` that hold baseline representations without training."""
    return [key for key in dict.fromkeys(_FROM_PIXELS.values()) if key in adata.obsm]


def check_representation(adata: AnnData, name: str) -> None:
    """Raise InputError if a representation, or one of the two in ``"A + B"``, was not found."""
    for one in split_concatenated(adata, name):
        if one not in _COMPUTED:
            representation(adata, key_of(one))


def features_of(adata: AnnData, name: str, rows: np.ndarray) -> np.ndarray:
    """Return a representation of some cells, given in ascending order, as float32 (n, features).

    Mean intensity is log1p of ``X`` in :func:`log1p_units` each marker, and so is the mean of the blurred image; if
    ``X`` is not raw (:func:`intensities_of`), mean intensity is ``X`` as it is. For ``"A + B"`` the features of A
    come first.
    """
    if len(names := split_concatenated(adata, name)) > 1:
        return np.hstack([features_of(adata, one, rows) for one in names])
    if name in _COMPUTED:
        features = _mean_intensity(adata, rows, logarithmic=name == LOG_INTENSITY)
        if name == INTENSITY_AND_SHAPE:
            features = np.hstack([features, adata.obs[list(SHAPE)].to_numpy()[rows]])
    else:
        features = read_rows(representation(adata, key_of(name)), rows)
    if name in STATISTICS_OF:
        columns = features.reshape(len(rows), -1, len(STATISTICS))[:, :, STATISTICS_OF[name]]
        features = columns.reshape(len(rows), -1)
    elif name == BLURRED:
        features = np.log1p(np.maximum(features, 0) / log1p_units(_some(representation(adata, key_of(name)))))
    if not np.isfinite(features).all():
        n_cells = (~np.isfinite(features)).any(axis=1).sum()
        msg = f"representation {name!r} has values that are not finite in {n_cells} cells."
        raise InputError(msg)
    return np.asarray(features, dtype=np.float32)


def _intensity(adata: AnnData, rows: np.ndarray) -> np.ndarray:
    return np.asarray(adata.X[rows].toarray() if hasattr(adata.X, "toarray") else np.asarray(adata.X)[rows])


def _mean_intensity(adata: AnnData, rows: np.ndarray, *, logarithmic: bool) -> np.ndarray:
    x, found = _intensity(adata, rows), intensities_of(adata)
    some = _intensity(adata, _unit_rows(adata.n_obs))
    if found.lacking or np.isnan(x).any():
        median = pd.DataFrame(some).median().fillna(0).to_numpy()
        x, some = np.where(np.isnan(x), median, x), np.where(np.isnan(some), median, some)
    if found.form != "raw" and not logarithmic:
        return x
    return np.asarray(np.log1p(np.maximum(x, 0) / log1p_units(some)))


def _some(matrix: Any) -> np.ndarray:
    return read_rows(matrix, _unit_rows(matrix.shape[0]))


def _unit_rows(n: int) -> np.ndarray:
    return np.unique(np.linspace(0, n - 1, _UNIT_CELLS, dtype=np.int64))


def log1p_units(intensity: np.ndarray) -> np.ndarray:
    """Return, per marker, the intensity that counts as 1 in the baseline representation by log1p of intensities (n, C).

    It is 1, except for markers with small values: counts of a few ions, or intensities between 0 and 1. There log1p
    would be almost linear, and the linear probe on it too weak a baseline (docs/paper.md, MIBI).
    """
    return log_units(np.percentile(np.maximum(intensity, 0), 99, axis=0))


def split_concatenated(adata: AnnData, name: str) -> list[str]:
    """Return the names of the two representations in ``"A + B"``, or the one name."""
    return [name] if name in adata.obsm else name.split(CONCATENATED, 1)
