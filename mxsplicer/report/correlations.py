"""The section "Correlation of features with markers": heatmaps, and the strongest feature of each marker."""

from collections.abc import Callable
from typing import Any

import numpy as np
from anndata import AnnData

from mxsplicer import pl
from mxsplicer.report.figures import InlineImage, inline_figure, new_figure
from mxsplicer.tl.correlation import correlated_features, correlation_key

# Columns of the table about the strongest feature of each marker: suffix of the key in varm, and how to write it.
_OF_STRONGEST: dict[str, tuple[str, Callable[[float], str]]] = {
    "Spearman": ("spearman", lambda value: f"{value:+.2f}"),
    "partial r": ("partial_correlation", lambda value: f"{value:+.2f}"),
    "p": ("correlation_p", lambda value: "< 0.001" if value < 1e-3 else f"{value:.3f}"),
}
# Columns about all features together: suffix of the column in var.
_OF_ALL = {"R² of mean": "r2_mean", "R² of texture": "r2_texture", "R² of localisation": "r2_localisation"}


def correlations_section(adata: AnnData) -> dict[str, Any] | None:
    """Return heatmaps of the correlations and partial correlations, and one row per marker, strongest first."""
    key = correlation_key(adata)
    if key is None:
        return None
    prefix = key.removesuffix("_correlation")
    about = adata.uns.get(key, {})
    r = np.asarray(adata.varm[key], dtype=np.float64)
    partial = None
    if f"{prefix}_partial_correlation" in adata.varm:
        partial = _draw(adata, f"{prefix}_partial_correlation", "partial correlation", order_by=key)
    strongest = np.abs(r).argmax(axis=1)
    r_of_strongest = r[np.arange(len(r)), strongest]
    names = [name.removeprefix("feature ") for name in correlated_features(adata, key)]
    columns = _columns(adata, prefix, r, strongest)
    markers = [str(name) for name in adata.var_names]
    return {
        "heatmap": _draw(adata, key, "correlation"),
        "partial": partial,
        "given": ", ".join(str(one) for one in about.get("given", [])),
        "columns": list(columns),
        "rows": [
            {
                "marker": markers[i],
                "feature": names[strongest[i]],
                "bar": float(abs(r_of_strongest[i])),
                "cells": [column[i] for column in columns.values()],
            }
            for i in np.argsort(-np.abs(r_of_strongest), kind="stable")
        ],
        "left_out": [str(one) for one in about.get("left_out", [])],
        "has_p": "p" in columns,
        "has_r2": any(column in columns for column in _OF_ALL),
    }


def _draw(adata: AnnData, key: str, name: str, order_by: str | None = None) -> InlineImage:
    figure = new_figure(9.6, 1.1 + 0.19 * adata.n_vars)
    pl.correlation(adata, key=key, order_by=order_by, ax=figure.subplots())
    return inline_figure(figure, f"Heatmap: {name} of every marker with every feature.", vector=True)


def _columns(adata: AnnData, prefix: str, r: np.ndarray, strongest: np.ndarray) -> dict[str, list[str]]:
    at = (np.arange(len(r)), strongest)
    columns = {
        "r": [f"{one:+.2f}" for one in r[at]],
        "mean |r|": [f"{one:.2f}" for one in np.abs(r).mean(axis=1)],
    }
    for heading, (suffix, write) in _OF_STRONGEST.items():
        if f"{prefix}_{suffix}" in adata.varm:
            columns[heading] = [write(one) for one in np.asarray(adata.varm[f"{prefix}_{suffix}"], np.float64)[at]]
    for heading, suffix in _OF_ALL.items():
        if f"{prefix}_{suffix}" in adata.var:
            values = adata.var[f"{prefix}_{suffix}"].to_numpy(dtype=np.float64)
            columns[heading] = [f"{one:.2f}" if np.isfinite(one) else "–" for one in values]
    return columns
