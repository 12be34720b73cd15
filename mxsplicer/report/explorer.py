"""The interactive part of the section "UMAP of the cells": a sample of cells to hover over and to filter."""

import base64
from typing import Any

import numpy as np
from anndata import AnnData

from mxsplicer.pl import colors
from mxsplicer.tl.clustering import cluster_codes

_CELLS, _FEWEST_OF_CLUSTER, _MOST_MARKERS = 15_000, 30, 80
_STEPS = 65_535


def explorer_data(adata: AnnData, names: dict[str, str]) -> dict[str, Any] | None:
    """Return what the script of the page draws: positions, clusters and intensities of cells, as small integers.

    The cells are a random sample of 15,000 cells of the UMAP, with at least 30 of each cluster.

    Parameters
    ----------
    adata
        Clustered cells with a UMAP and positions in the tissue.
    names
        Suggested names of the clusters.
    """
    if "X_umap" not in adata.obsm or "leiden" not in adata.obs or "spatial" not in adata.obsm:
        return None
    clusters, codes = cluster_codes(adata, "leiden")
    on_umap = np.flatnonzero(np.isfinite(np.asarray(adata.obsm["X_umap"])).all(axis=1))
    chosen = on_umap[_sample(codes[on_umap], len(clusters))]
    slides, slide_of = _slides_of(adata, chosen)
    tissue, spans = _tissue_positions(np.asarray(adata.obsm["spatial"])[chosen], slide_of, len(slides))
    markers, values = _intensities(adata, chosen)
    identity = adata.obs["cell_id"].to_numpy()[chosen] if "cell_id" in adata.obs else chosen
    return {
        "n": len(chosen),
        "clusters": [
            {"name": name, "suggested": names.get(name, ""), "color": colors.category_color(code)}
            for code, name in enumerate(clusters)
        ],
        "slides": [{"name": name, "um": round(span)} for name, span in zip(slides, spans, strict=True)],
        "markers": markers,
        "umap": _encode((_umap_positions(adata, chosen) * _STEPS).astype("<u2")),
        "tissue": _encode((np.clip(tissue, 0, 1) * _STEPS).astype("<u2")),
        "slide": _encode(slide_of.astype("<u2")),
        "cluster": _encode(codes[chosen].astype("<u2")),  # the number of clusters for a cell without one
        "id": _encode(identity.astype("<u4")),
        "values": _encode(values),
    }


def _slides_of(adata: AnnData, chosen: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Return the names of the slides and the code of each cell's slide, for the explorer."""
    if "slide" not in adata.obs:
        return [""], np.zeros(len(chosen), np.int64)
    slides = adata.obs["slide"].astype("category").cat.remove_unused_categories().cat
    return [str(name) for name in slides.categories], slides.codes.to_numpy()[chosen]


def _tissue_positions(points: np.ndarray, slide_of: np.ndarray, n_slides: int) -> tuple[np.ndarray, list[float]]:
    """Return the explorer's positions, 0 to 1 within each slide, and the side of the square around each slide."""
    spans, scaled = [], np.zeros((len(points), 2))
    for code in range(n_slides):
        here = slide_of == code
        low, span = _bounding_square(points[here])
        scaled[here] = (points[here] - low) / span
        spans.append(span)
    return scaled, spans


def _umap_positions(adata: AnnData, chosen: np.ndarray) -> np.ndarray:
    points = np.asarray(adata.obsm["X_umap"])[chosen, :2]
    low, span = _bounding_square(points)
    scaled = (points - low) / span
    scaled[:, 1] = 1 - scaled[:, 1]  # y grows upwards on a UMAP and downwards on a screen
    return np.asarray(scaled)


def _intensities(adata: AnnData, chosen: np.ndarray) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Return the explorer's markers with contrast limits, and log intensities as uint8, marker after marker."""
    markers, values = [], []
    for number, marker in list(enumerate(adata.var_names.astype(str)))[:_MOST_MARKERS]:
        column = adata.X[chosen, number]
        column = column.toarray() if hasattr(column, "toarray") else np.asarray(column)
        logged = np.log1p(np.maximum(column.ravel(), 0))
        dark, bright = (float(one) for one in np.percentile(logged, [1, 99.5]))
        values.append(np.clip((logged - dark) / max(bright - dark, 1e-6) * 255, 0, 255).astype(np.uint8))
        markers.append({"name": marker, "low": float(np.expm1(dark)), "high": float(np.expm1(bright))})
    return markers, np.concatenate(values) if values else np.empty(0, np.uint8)


def _sample(codes: np.ndarray, n_clusters: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    if len(codes) <= _CELLS:
        return np.arange(len(codes))
    chosen = [rng.choice(len(codes), _CELLS, replace=False)]
    counts = np.bincount(codes, minlength=n_clusters)
    for code in range(n_clusters):
        if 0 < counts[code] < len(codes) * _FEWEST_OF_CLUSTER / _CELLS:
            rows = np.flatnonzero(codes == code)
            chosen.append(rng.choice(rows, min(_FEWEST_OF_CLUSTER, len(rows)), replace=False))
    return np.unique(np.concatenate(chosen))


def _bounding_square(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the lower corner and the side of a square around points of the explorer."""
    if not len(points):
        return np.zeros(2), 1.0
    low, high = points.min(axis=0), points.max(axis=0)
    span = float(max((high - low).max(), 1e-6))
    return low - (span - (high - low)) / 2, span


def _encode(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()
