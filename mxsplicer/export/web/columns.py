"""Columns of the web page: what cells can be coloured by, in 8 bits, each in a script of its own.

Number 255 (of 16 bits: 65535) is a missing value. Numbers between the percentiles 0.5 and 99.5 become 0 to 254, and
raw intensities are logarithmic before.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from mxsplicer.export.web.scripts import pack, write_script
from mxsplicer.pl import colors
from mxsplicer.system.progress import track
from mxsplicer.tl.explanation import explanation_of
from mxsplicer.tl.features import feature_names
from mxsplicer.tl.naming import names_of_clusters
from mxsplicer.tl.reading import count_column_groups, read_columns
from mxsplicer.tl.representations import intensities_of

_MISSING = 255
_MOST_CATEGORIES = 1000  # more are ids, not categories
_WITHOUT = frozenset(("cell_id", "slide", "x_px", "y_px"))  # columns of obs that the page has elsewhere


def write_columns(
    folder: Path, adata: AnnData, *, groupby: str, use_rep: str | None, features: Any = None
) -> list[dict[str, Any]]:
    """Write the columns of ``obs``, the markers and the features, and return what the page has to know about each.

    Parameters
    ----------
    folder
        Folder of the page.
    adata
        Cells; the representation may lie on disk.
    groupby
        Column of ``obs`` with the clusters, which comes first.
    use_rep
        Key of the representation; None for none.
    features
        The same representation (d, N), where one feature is read at once.
    """
    columns: list[dict[str, Any]] = []

    def add(key: str, codes: np.ndarray, **about: Any) -> None:
        write_script(folder, f"data/{key}", pack(codes))
        columns.append({"key": f"data/{key}", **about})

    for key, name, column in _of_obs(adata, groupby):
        is_number = _is_number(column) and name != groupby
        about, codes = _of_numbers(column) if is_number else _of_categories(column)
        if name == groupby:
            known = names_of_clusters(adata, groupby=groupby)
            about["labels"] = [known.get(one, one) for one in about["categories"]]
            about["notes"] = _verdicts(adata, groupby, about["categories"])
        add(key, codes, name=name, group="Clusters" if name == groupby else "Cells", **about)
    is_raw = intensities_of(adata).form == "raw"
    for key, name, values in _of_markers(adata):
        about, codes = number(np.log1p(np.maximum(values, 0)) if is_raw else values)
        add(key, codes, name=name, group="Markers", is_log=is_raw, **about)
    for key, name, values in _of_features(adata, use_rep, features):
        about, codes = number(values)
        add(key, codes, name=name, group="Features", **about)
    return columns


def number(values: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    """Return the range of a column of numbers, and its values in 8 bits.

    Examples
    --------
    >>> about, codes = number(np.array([0.0, 127.0, 254.0, np.nan]))
    >>> codes.tolist()
    [0, 127, 254, 255]
    """
    finite = np.isfinite(values)
    low, high = np.percentile(values[finite], [0.5, 99.5]) if finite.any() else (0.0, 1.0)
    scaled = (np.where(finite, values, low) - low) / max(high - low, 1e-12)
    codes = np.where(finite, np.clip(scaled, 0, 1) * (_MISSING - 1) + 0.5, _MISSING).astype(np.uint8)
    return {"kind": "number", "low": float(low), "high": float(high)}, codes


def _verdicts(adata: AnnData, groupby: str, clusters: list[str]) -> list[str]:
    """Return the verdict on each cluster and its reason; "" where :func:`mxsplicer.tl.explain_clusters` did not run."""
    if groupby != "leiden" or "mxsplicer_clusters" not in adata.uns:
        return [""] * len(clusters)
    table = explanation_of(adata, groupby)
    found = {str(one): f"Verdict: {row['verdict']}. {row['reason']}" for one, row in table.iterrows()}
    return [found.get(one, "") for one in clusters]


def _of_numbers(values: "pd.Series[Any]") -> tuple[dict[str, Any], np.ndarray]:
    return number(values.to_numpy(dtype=np.float64, na_value=np.nan))


def _of_categories(values: "pd.Series[Any]") -> tuple[dict[str, Any], np.ndarray]:
    names, codes = colors.category_codes(values)
    counts = np.bincount(codes[codes >= 0], minlength=len(names))
    dtype = np.uint8 if len(names) < _MISSING else np.uint16
    about = {
        "kind": "category",
        "categories": names,
        "counts": counts.tolist(),
        "colors": [colors.category_color(code) for code in range(len(names))],
    }
    return about, np.where(codes < 0, np.iinfo(dtype).max, codes.astype(np.int64)).astype(dtype)


def _of_obs(adata: AnnData, groupby: str) -> Iterator[tuple[str, str, "pd.Series[Any]"]]:
    """Yield the columns of ``obs`` to colour by, the clusters first."""
    names = sorted(map(str, adata.obs.columns), key=lambda name: name != groupby)
    for place, name in enumerate(name for name in names if name not in _WITHOUT and name != f"{groupby}_name"):
        values = adata.obs[name]
        if name == groupby or _is_number(values) or values.nunique() <= _MOST_CATEGORIES:
            yield f"obs_{place}", name, values


def _of_markers(adata: AnnData) -> Iterator[tuple[str, str, np.ndarray]]:
    x = adata.X.toarray() if hasattr(adata.X, "toarray") else adata.X
    for some, values in read_columns(x):
        for place, column in zip(range(some.start, some.stop), values.T, strict=True):
            yield f"marker_{place}", str(adata.var_names[place]), column


def _of_features(adata: AnnData, use_rep: str | None, features: Any) -> Iterator[tuple[str, str, np.ndarray]]:
    if use_rep is None:
        return
    names = feature_names(adata, use_rep=use_rep)
    if features is not None:
        for place in track(range(len(names)), "Writing features"):
            yield f"feature_{place}", names[place], np.asarray(features[place])
        return
    z = adata.obsm[use_rep]
    for some, values in track(read_columns(z), "Writing features", total=count_column_groups(z)):
        for place, column in zip(range(some.start, some.stop), values.T, strict=True):
            yield f"feature_{place}", names[place], column


def _is_number(values: "pd.Series[Any]") -> bool:
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
