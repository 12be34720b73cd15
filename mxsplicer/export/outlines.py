"""Outlines of cells as GeoJSON for QuPath, traced from the mask tile by tile.

Coordinates are pixels of the full resolution, x to the right and y downwards. Integers are corners of pixels, as
:mod:`mxsplicer.masks.geojson` reads them, so that the outlines reproduce the mask pixel by pixel.
"""

import gzip
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.ndimage import find_objects
from skimage.measure import approximate_polygon, find_contours, points_in_poly

from mxsplicer.errors import InputError
from mxsplicer.export.checks import cells_of_slide
from mxsplicer.images.lazy_images import LazyImage
from mxsplicer.pl import colors
from mxsplicer.system.files import atomic_write, check_free
from mxsplicer.system.progress import track
from mxsplicer.tl.naming import names_of_clusters

_TILE_PX, _MARGIN_PX = 2048, 128  # cells that extend further are read again with a wider margin
_UNNAMED = "no cluster"
_FINEST_PX = 0.1  # a smaller tolerance removes no corner


def write_outlines(
    adata: AnnData,
    path: str | Path,
    mask: LazyImage,
    *,
    slide: str | None = None,
    groupby: str | None = "leiden",
    simplify_px: float = 0.0,
    overwrite: bool = False,
) -> Path:
    """Write the outline of every cell of a slide for QuPath, with its cluster as a coloured class.

    Cells that are in the mask but not in ``adata`` are left out. A cell in several pieces becomes a MultiPolygon; holes
    are kept.

    Parameters
    ----------
    adata
        Cells with ``obs["cell_id"]``, ``x_px`` and ``y_px``.
    path
        File to write, ``.geojson`` or ``.geojson.gz``.
    mask
        Label image (Y, X) of the slide at full resolution.
    slide
        Name of the slide, if ``adata`` has several.
    groupby
        Column of ``obs`` that becomes the class, in the colours of the report; None writes no classes. Of predicted
        names, the column ``<groupby>_confidence`` becomes the measurement "confidence".
    simplify_px
        Largest distance between outline and pixel edges, in pixels; 0 keeps every corner, 0.5 halves the file. A cell
        whose outline would cross itself has less.
    overwrite
        Replace an existing file.

    Returns
    -------
    The path.

    Raises
    ------
    InputError
        If the file exists, ``adata`` has several slides and ``slide`` is None, the column is missing, or the mask lacks
        a cell at its position, because it is not the mask of these cells.
    """
    path = Path(path)
    check_free(path, overwrite=overwrite)
    obs = cells_of_slide(adata, slide)
    if groupby is not None and groupby not in obs:
        msg = f"obs has no column {groupby!r}; it has {', '.join(map(str, adata.obs.columns))}."
        raise InputError(msg)
    classes = _classes(adata, obs, groupby)
    confidence = obs.get(f"{groupby}_confidence")
    with atomic_write(path) as temporary:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(temporary, "wt", encoding="utf-8") as file:
            file.write('{"type":"FeatureCollection","features":[')
            for number, (row, geometry) in enumerate(_outlines(obs, mask, simplify_px)):
                feature = {
                    "type": "Feature",
                    "geometry": geometry,
                    "properties": {
                        "objectType": "cell",
                        "name": str(obs.index[row]),
                        **({"classification": classes[row]} if groupby is not None else {}),
                        **({} if confidence is None else _measured("confidence", confidence.iloc[row])),
                    },
                }
                file.write(("," if number else "") + "\n" + json.dumps(feature, separators=(",", ":")))
            file.write("\n]}\n")
    return path


def trace(inside: np.ndarray, *, top: int = 0, left: int = 0, simplify_px: float = 0.0) -> dict[str, Any]:
    """Return the outline of the pixels that are ``inside`` (y, x), at least one, as a GeoJSON geometry.

    Examples
    --------
    >>> trace(np.ones((1, 2), bool))["coordinates"][0][0]
    [1.5, 1.0]
    """
    # Half way between the centres of an inner and an outer pixel: +0.5 from indices to corners, -1 for the padding.
    rings = [ring[:, ::-1] + (left - 0.5, top - 0.5) for ring in find_contours(np.pad(inside, 1).astype(np.uint8), 0.5)]
    areas = [_signed_area(ring) for ring in rings]
    positive = areas[int(np.argmax(np.abs(areas)))] > 0
    holes = [ring for ring, area in zip(rings, areas, strict=True) if (area > 0) != positive]
    outer = [ring for ring, area in zip(rings, areas, strict=True) if (area > 0) == positive]
    polygons = [[ring] for ring in outer]
    for hole in holes:
        around = [i for i, ring in enumerate(outer) if points_in_poly(hole[:1], ring)[0]]
        polygons[min(around, key=lambda i: abs(_signed_area(outer[i])))].append(hole)
    coordinates = _simplify(polygons, simplify_px)
    if len(coordinates) == 1:
        return {"type": "Polygon", "coordinates": coordinates[0]}
    return {"type": "MultiPolygon", "coordinates": coordinates}


def _simplify(polygons: list[list[np.ndarray]], simplify_px: float) -> list[list[list[list[float]]]]:
    """Return the corners of an outline's rings with the largest tolerance that leaves valid polygons."""
    rings = [ring for polygon in polygons for ring in polygon]
    while simplify_px >= _FINEST_PX:
        simpler = [[_corners(ring, simplify_px) for ring in polygon] for polygon in polygons]
        if _is_valid(rings, [np.array(ring) for polygon in simpler for ring in polygon]):
            return simpler
        simplify_px /= 2
    return [[_corners(ring, 0.0) for ring in polygon] for polygon in polygons]


def _is_valid(rings: list[np.ndarray], simpler: list[np.ndarray]) -> bool:
    """Return whether an outline's simplified rings meet no ring, and contain each other as before."""
    if len(rings) > 1:
        pairs = [(i, j) for i in range(len(rings)) for j in range(len(rings)) if i != j]
        if any(_contains(rings[i], rings[j]) != _contains(simpler[i], simpler[j]) for i, j in pairs):
            return False
    starts, ends = np.concatenate([ring[:-1] for ring in simpler]), np.concatenate([ring[1:] for ring in simpler])
    first = np.cumsum([0, *(len(ring) - 1 for ring in simpler)])
    following = np.concatenate([np.roll(np.arange(a, b), -1) for a, b in pairwise(first)])
    steps = ends - starts  # (n, 2)
    side_of_start, side_of_end = (_cross(steps[:, None], at[None] - starts[:, None]) for at in (starts, ends))  # (n, n)
    low, high = np.minimum(starts, ends), np.maximum(starts, ends)
    near = (low[:, None] <= high[None]).all(axis=2) & (low[None] <= high[:, None]).all(axis=2)
    on_both_sides = side_of_start * side_of_end <= 0
    meet = near & on_both_sides & on_both_sides.T
    np.fill_diagonal(meet, False)
    rows = np.arange(len(steps))
    turns_back = (_cross(steps, steps[following]) == 0) & ((steps * steps[following]).sum(axis=1) < 0)
    meet[rows, following] = meet[following, rows] = turns_back  # neighbours share a corner
    return not meet.any()


def _contains(ring: np.ndarray, other: np.ndarray) -> bool:
    return bool(points_in_poly(other[:1], ring)[0])


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0])


def _corners(ring: np.ndarray, simplify_px: float) -> list[list[float]]:
    closed = approximate_polygon(ring, simplify_px) if simplify_px > 0 else ring
    if len(closed) < 4:
        closed = ring
    step = np.diff(closed, axis=0)
    changes_direction = np.any(step != np.roll(step, 1, axis=0), axis=1)
    if changes_direction.sum() >= 3:
        kept = closed[:-1][changes_direction]
        closed = np.concatenate([kept, kept[:1]])
    corners: list[list[float]] = np.round(closed, 2).tolist()
    return corners


def _signed_area(ring: np.ndarray) -> float:
    x, y = ring.T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)


def _classes(adata: AnnData, obs: pd.DataFrame, groupby: str | None) -> list[dict[str, Any]]:
    if groupby is None:
        return []
    categories = adata.obs[groupby].astype("category").cat.categories
    names = [str(name) for name in categories]
    suggested = names_of_clusters(adata, groupby=groupby)
    names = [suggested.get(name, name) for name in names]
    classes = [{"name": name, "color": colors.category_rgb(code)} for code, name in enumerate(names)]
    unnamed = {"name": _UNNAMED, "color": colors.category_rgb(-1)}
    codes = categories.get_indexer(obs[groupby].astype(object))
    return [classes[code] if code >= 0 else unnamed for code in codes]


def _measured(name: str, value: float) -> dict[str, Any]:
    """Return a measurement of a cell in an outline's properties, as QuPath reads it."""
    return {"measurements": {name: round(float(value), 4)}} if np.isfinite(value) else {}


def _outlines(obs: pd.DataFrame, mask: LazyImage, simplify_px: float) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the row and the outline of each cell to export, tile by tile."""
    ids = obs["cell_id"].to_numpy()
    rows_of: dict[tuple[int, int], list[int]] = {}
    tile_y, tile_x = ((obs[column].to_numpy() // _TILE_PX).astype(int).tolist() for column in ("y_px", "x_px"))
    for row, tile in enumerate(zip(tile_y, tile_x, strict=True)):
        rows_of.setdefault(tile, []).append(row)
    for tile in track(sorted(rows_of), "Tracing cells"):
        rows, margin = np.array(rows_of[tile]), _MARGIN_PX
        while len(rows):
            top, left = (max(0, at * _TILE_PX - margin) for at in tile)
            bottom, right = (min(side, (at + 1) * _TILE_PX + margin) for at, side in zip(tile, mask.shape, strict=True))
            labels = np.asarray(mask[top:bottom, left:right])
            at_sides = _labels_at_sides(labels, top > 0, left > 0, bottom < mask.shape[0], right < mask.shape[1])
            is_cut = np.isin(ids[rows], list(at_sides))
            yield from _trace_cells(obs, rows[~is_cut], labels, top, left, simplify_px)
            rows, margin = rows[is_cut], 4 * margin


def _trace_cells(
    obs: pd.DataFrame, rows: np.ndarray, labels: np.ndarray, top: int, left: int, simplify_px: float
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the row and the outline of cells that lie inside a window of the mask, which begins at (top, left)."""
    ids, x, y = (obs[column].to_numpy() for column in ("cell_id", "x_px", "y_px"))
    codes, present = pd.factorize(labels.ravel())  # takes a third of the time of np.unique, which sorts
    boxes = find_objects(codes.reshape(labels.shape).astype(np.int32) + 1)
    code_of = pd.Index(present).get_indexer(ids[rows])
    for row, code in zip(rows.tolist(), code_of.tolist(), strict=True):
        if code < 0:
            msg = f"the mask has no cell {ids[row]} near ({x[row]:.0f}, {y[row]:.0f}) (x, y), but the table has."
            raise InputError(msg, "Pass the mask that the cells were measured with.")
        box = boxes[code]
        inside = labels[box] == ids[row]
        yield row, trace(inside, top=top + box[0].start, left=left + box[1].start, simplify_px=simplify_px)


def _labels_at_sides(labels: np.ndarray, top: bool, left: bool, bottom: bool, right: bool) -> set[int]:
    """Return the labels at those sides of a window beyond which an outline to export continues."""
    sides = ((top, labels[0]), (left, labels[:, 0]), (bottom, labels[-1]), (right, labels[:, -1]))
    return {int(label) for continues, side in sides if continues for label in np.unique(side)}
