"""The part of the page that answers: a sample of cells on the map and in the tissue, to hover over and to filter."""

import base64
from typing import Any

import numpy as np
from anndata import AnnData

from mxsplicer.pl import colors
from mxsplicer.tl.naming import cluster_codes

_CELLS, _FEWEST, _MOST_MARKERS = 15_000, 30, 80
_STEPS = 65_535


def explorer(adata: AnnData, names: dict[str, str], rows: np.ndarray | None = None) -> dict[str, Any] | None:
    """Return what the script of the page draws: places, clusters and intensities of some cells, as small numbers.

    Parameters
    ----------
    adata
        Clustered cells with a map and places in the tissue.
    names
        Of the clusters, as suggested.
    rows
        Which cells; by default 15,000 of those on the map, at random, and at least 30 of each cluster.
    """
    if "X_umap" not in adata.obsm or "leiden" not in adata.obs or "spatial" not in adata.obsm:
        return None
    clusters, codes = cluster_codes(adata, "leiden")
    on_map = np.flatnonzero(np.isfinite(np.asarray(adata.obsm["X_umap"])).all(axis=1))
    chosen = on_map[_sample(codes[on_map], len(clusters))] if rows is None else rows
    slide_of = (
        adata.obs["slide"].astype("category").cat.remove_unused_categories().cat if "slide" in adata.obs else None
    )
    slides = [str(name) for name in slide_of.categories] if slide_of is not None else [""]
    of_slide = slide_of.codes.to_numpy()[chosen] if slide_of is not None else np.zeros(len(chosen), np.int64)
    places = np.asarray(adata.obsm["spatial"])[chosen]
    spans = []
    scaled = np.zeros((len(chosen), 2))
    for code in range(len(slides)):
        here = of_slide == code
        low, span = _box(places[here])
        scaled[here] = (places[here] - low) / span
        spans.append(span)
    markers, values = [], []
    for place, marker in list(enumerate(adata.var_names.astype(str)))[:_MOST_MARKERS]:
        column = adata.X[chosen, place]
        column = column.toarray() if hasattr(column, "toarray") else np.asarray(column)
        logged = np.log1p(np.maximum(column.ravel(), 0))
        dark, bright = (float(one) for one in np.percentile(logged, [1, 99.5]))
        values.append(np.clip((logged - dark) / max(bright - dark, 1e-6) * 255, 0, 255).astype(np.uint8))
        markers.append({"name": marker, "low": float(np.expm1(dark)), "high": float(np.expm1(bright))})
    umap = np.asarray(adata.obsm["X_umap"])[chosen, :2]
    low, span = _box(umap)
    flipped = (umap - low) / span
    flipped[:, 1] = 1 - flipped[:, 1]  # y grows upwards on a map and downwards on a screen
    identity = adata.obs["cell_id"].to_numpy()[chosen] if "cell_id" in adata.obs else chosen
    return {
        "n": len(chosen),
        "clusters": [
            {"name": name, "words": names.get(name, ""), "color": colors.category_color(code)}
            for code, name in enumerate(clusters)
        ],
        "slides": [{"name": name, "um": round(span)} for name, span in zip(slides, spans, strict=True)],
        "markers": markers,
        "map": _text((flipped * _STEPS).astype("<u2")),
        "tissue": _text((np.clip(scaled, 0, 1) * _STEPS).astype("<u2")),
        "slide": _text(of_slide.astype("<u2")),
        "cluster": _text(codes[chosen].astype("<u2")),  # one beyond the last for none
        "id": _text(identity.astype("<u4")),
        "values": _text(np.concatenate(values) if values else np.empty(0, np.uint8)),  # marker by marker
    }


def _sample(codes: np.ndarray, n_clusters: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    if len(codes) <= _CELLS:
        return np.arange(len(codes))
    chosen = [rng.choice(len(codes), _CELLS, replace=False)]
    counts = np.bincount(codes, minlength=n_clusters)
    for code in range(n_clusters):
        if 0 < counts[code] < len(codes) * _FEWEST / _CELLS:
            rows = np.flatnonzero(codes == code)
            chosen.append(rng.choice(rows, min(_FEWEST, len(rows)), replace=False))
    return np.unique(np.concatenate(chosen))


def _box(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Return where a square around points begins, and its side."""
    if not len(points):
        return np.zeros(2), 1.0
    low, high = points.min(axis=0), points.max(axis=0)
    span = float(max((high - low).max(), 1e-6))
    return low - (span - (high - low)) / 2, span


def _text(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()
