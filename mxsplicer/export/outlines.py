"""Outlines of cells as QuPath imports them (GeoJSON), traced from the mask tile by tile.

Coordinates are pixels of the full resolution, x to the right and y downwards; whole numbers are corners of pixels, as
:mod:`mxsplicer.masks.polygons` reads them. Drawn again, the outlines give the mask back, pixel for pixel.
"""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.ndimage import find_objects
from skimage.measure import approximate_polygon, find_contours, points_in_poly

from mxsplicer.errors import InputError
from mxsplicer.export.files import cells_of_slide
from mxsplicer.images.slide import LazyImage
from mxsplicer.pl import colors
from mxsplicer.system.files import atomic_write, check_free
from mxsplicer.system.progress import track

_TILE_PX, _MARGIN_PX = 2048, 128  # a cell that reaches further is read by itself
_UNNAMED = "no cluster"


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
    """Write the outline of every cell of a slide, with its cluster as a coloured class, for QuPath.

    Cells that are in the mask but not in ``adata`` are left out. A cell in several pieces is a MultiPolygon; holes are
    kept.

    Parameters
    ----------
    adata
        Cells with ``obs["cell_id"]``, ``x_px`` and ``y_px``.
    path
        The file to write, ``.geojson`` or ``.geojson.gz``.
    mask
        Label image (Y, X) of the slide at full resolution.
    slide
        Which slide of ``adata``, where it holds several.
    groupby
        Column of ``obs`` that becomes the class, in the colours of the report; none where None.
    simplify_px
        How far an outline may leave the pixels' edges, in pixels; 0 keeps every corner, 0.5 halves the file.
    overwrite
        Replace a file that is there.

    Returns
    -------
    The path.

    Raises
    ------
    InputError
        If the file exists, ``adata`` holds several slides and none is named, there is no such column, or the mask lacks
        a cell where ``adata`` has it: it is another mask then.
    """
    path = Path(path)
    check_free(path, overwrite=overwrite)
    obs = cells_of_slide(adata, slide)
    if groupby is not None and groupby not in obs:
        msg = f"the cells have no column {groupby!r}; obs holds: {', '.join(map(str, adata.obs.columns))}."
        raise InputError(msg)
    classes = _classes(adata, obs, groupby)
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
                    },
                }
                file.write(("," if number else "") + "\n" + json.dumps(feature, separators=(",", ":")))
            file.write("\n]}\n")
    return path


def trace(inside: np.ndarray, *, top: int = 0, left: int = 0, simplify_px: float = 0.0) -> dict[str, Any]:
    """Return the outline of the pixels that are ``inside`` (y, x) as a GeoJSON geometry, at least one of them.

    Examples
    --------
    >>> trace(np.ones((1, 2), bool))["coordinates"][0][0]
    [1.5, 1.0]
    """
    # Half-way between the centre of a pixel inside and one outside: +0.5 from indices to corners, -1 for the margin.
    rings = [ring[:, ::-1] + (left - 0.5, top - 0.5) for ring in find_contours(np.pad(inside, 1).astype(np.uint8), 0.5)]
    areas = [_signed_area(ring) for ring in rings]
    positive = areas[int(np.argmax(np.abs(areas)))] > 0
    holes = [ring for ring, area in zip(rings, areas, strict=True) if (area > 0) != positive]
    outer = [ring for ring, area in zip(rings, areas, strict=True) if (area > 0) == positive]
    polygons = [[ring, *(hole for hole in holes if points_in_poly(hole[:1], ring)[0])] for ring in outer]
    coordinates = [[_corners(ring, simplify_px) for ring in polygon] for polygon in polygons]
    if len(coordinates) == 1:
        return {"type": "Polygon", "coordinates": coordinates[0]}
    return {"type": "MultiPolygon", "coordinates": coordinates}


def _corners(ring: np.ndarray, simplify_px: float) -> list[list[float]]:
    closed = approximate_polygon(ring, simplify_px) if simplify_px > 0 else ring
    if len(closed) < 4:
        closed = ring
    step = np.diff(closed, axis=0)
    turns = np.any(step != np.roll(step, 1, axis=0), axis=1)  # corners on a straight line say nothing
    if turns.sum() >= 3:
        kept = closed[:-1][turns]
        closed = np.concatenate([kept, kept[:1]])
    corners: list[list[float]] = np.round(closed, 2).tolist()
    return corners


def _signed_area(ring: np.ndarray) -> float:
    x, y = ring.T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)


def _classes(adata: AnnData, obs: pd.DataFrame, groupby: str | None) -> list[dict[str, Any]]:
    if groupby is None:
        return []
    of_cell = adata.obs[groupby].astype("category").cat.categories
    names = [str(name) for name in of_cell]
    suggested = adata.obs.get(f"{groupby}_name")
    if suggested is not None:  # "3: CD8a+ CD3e+"
        first = suggested.groupby(adata.obs[groupby].astype(str).to_numpy(), observed=True).first()
        names = [str(first.get(name, name)) for name in names]
    said = [
        {"name": name, "color": [round(255 * one) for one in colors.rgb(colors.category_color(code))]}
        for code, name in enumerate(names)
    ]
    none = {"name": _UNNAMED, "color": [round(255 * one) for one in colors.rgb(colors.ABSENT)]}
    codes = of_cell.get_indexer(obs[groupby].astype(object))
    return [said[code] if code >= 0 else none for code in codes]


def _outlines(obs: pd.DataFrame, mask: LazyImage, simplify_px: float) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the row and the outline of each cell, tile by tile."""
    ids, x, y = (obs[column].to_numpy() for column in ("cell_id", "x_px", "y_px"))
    height, width = mask.shape
    rows_of: dict[tuple[int, int], list[int]] = {}
    places = zip((y // _TILE_PX).astype(int).tolist(), (x // _TILE_PX).astype(int).tolist(), strict=True)
    for row, tile in enumerate(places):
        rows_of.setdefault(tile, []).append(row)
    for tile in track(sorted(rows_of), "Tracing cells"):
        rows = np.array(rows_of[tile])
        margin = _MARGIN_PX
        while len(rows):
            top, left = (max(0, at * _TILE_PX - margin) for at in tile)
            bottom = min(height, (tile[0] + 1) * _TILE_PX + margin)
            right = min(width, (tile[1] + 1) * _TILE_PX + margin)
            labels = np.asarray(mask[top:bottom, left:right])
            whole = (top, left) == (0, 0) and (bottom, right) == (height, width)
            cut = set() if whole else _at_sides(labels, top > 0, left > 0, bottom < height, right < width)
            codes, known = pd.factorize(labels.ravel())  # numbers from 0, in a third of the time that sorting takes
            boxes = find_objects(codes.reshape(labels.shape).astype(np.int32) + 1)
            at = pd.Index(known).get_indexer(ids[rows])
            left_over = []
            for row, place in zip(rows.tolist(), at.tolist(), strict=True):
                if place < 0:
                    msg = (
                        f"the mask has no cell {ids[row]} near ({x[row]:.0f}, {y[row]:.0f}) (x, y), where the table "
                        "has it; give the mask that the cells were measured by."
                    )
                    raise InputError(msg)
                if ids[row] in cut:
                    left_over.append(row)
                    continue
                box = boxes[place]
                inside = labels[box] == ids[row]
                yield row, trace(inside, top=top + box[0].start, left=left + box[1].start, simplify_px=simplify_px)
            rows, margin = np.array(left_over), 4 * margin


def _at_sides(labels: np.ndarray, top: bool, left: bool, bottom: bool, right: bool) -> set[int]:
    """Return the labels that reach the sides where the mask goes on."""
    sides = ((top, labels[0]), (left, labels[:, 0]), (bottom, labels[-1]), (right, labels[:, -1]))
    return {int(label) for goes_on, side in sides if goes_on for label in np.unique(side)}
