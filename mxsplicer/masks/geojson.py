"""Read outlines of cells as QuPath exports them (GeoJSON), and draw them as a label image, window by window.

Coordinates are pixels of the finest level, x to the right and y downwards; whole numbers are corners of pixels, so the
centre of the first pixel is (0.5, 0.5). A pixel belongs to a cell whose outline holds its centre.
"""

import gzip
import io
import json
import logging
import math
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np

from mxsplicer.errors import InputError
from mxsplicer.images.lazy_images import complete_key

logger = logging.getLogger(__name__)

OutlineOf = Literal["cell", "nucleus"]

_CHARACTERS = 1 << 20  # read at a time
_WINDOW_PX = 2048  # side of the windows that are drawn to look up points
_SEPARATORS = re.compile(r"[\s,]*")
_OF_CELLS = ("cell", "detection", "annotation")  # QuPath's types of objects, the most specific first


def is_geojson(path: Path) -> bool:
    """Return whether a file is GeoJSON by its name; a zip file is, if it holds one."""
    name = path.name.lower()
    if name.endswith(".zip"):
        return bool(_members(path))
    return name.endswith((".geojson", ".json", ".geojson.gz", ".json.gz"))


def _members(path: Path) -> list[str]:
    """Return the names of the GeoJSON files in a zip file."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return []
    hidden = [name for name in names if Path(name).name.startswith(".") or name.startswith("__MACOSX")]
    return [name for name in names if name.lower().endswith((".geojson", ".json")) and name not in hidden]


class Polygons:
    """A label image (Y, X) that is drawn from GeoJSON outlines when it is read; cells count in the order of the file.

    Holes are empty. Where outlines overlap, the later one is on top.

    Parameters
    ----------
    shape
        Height and width.
    points
        Corners of all outlines, x and y, (N, 2) float32, one ring after the other; a ring ends with its first corner.
    rings
        Index of the first point of each ring, and the end of the last ring, (R + 1).
    cells
        Which cell a ring belongs to, (R), ascending.
    """

    dtype = np.dtype(np.uint32)
    ndim = 2

    def __init__(self, shape: tuple[int, int], points: np.ndarray, rings: np.ndarray, cells: np.ndarray) -> None:
        self.shape, self.points, self.rings, self.cells = shape, points, rings, cells
        x, y = points.T
        # A million comparisons take about a millisecond, less than drawing a window, so a spatial index is not needed.
        self._bounds = [extreme.reduceat(along, rings[:-1]) for along in (y, x) for extreme in (np.minimum, np.maximum)]

    def __getitem__(self, key: Any) -> np.ndarray:
        wanted = [np.arange(n)[one] for one, n in zip(complete_key(key, 2), self.shape, strict=True)]
        if any(one.size == 0 for one in wanted):
            return np.zeros(tuple(n for one in wanted for n in one.shape), np.uint32)
        (top, bottom), (left, right) = ((int(one.min()), int(one.max()) + 1) for one in wanted)
        window = self._draw(top, bottom, left, right)
        return np.asarray(window[wanted[0] - top][..., wanted[1] - left])

    def _draw(self, top: int, bottom: int, left: int, right: int) -> np.ndarray:
        out = np.zeros((bottom - top) * (right - left), np.uint32)
        y0, y1, x0, x1 = self._bounds
        rings = np.flatnonzero((y1 > top) & (y0 < bottom) & (x1 > left) & (x0 < right))
        if not len(rings):
            return out.reshape(bottom - top, right - left)
        # Every edge of these rings: from each corner to the next.
        lengths = self.rings[rings + 1] - self.rings[rings] - 1
        first = np.repeat(self.rings[rings], lengths) + _number_within(lengths)
        cell = np.repeat(self.cells[rings], lengths)
        a, b = self.points[first].astype(np.float64), self.points[first + 1].astype(np.float64)
        # Directed downwards, so that an edge shared by two cells is computed identically for both.
        downwards = (a[:, 1] <= b[:, 1])[:, None]
        from_x, from_y = np.where(downwards, a, b).T
        to_x, to_y = np.where(downwards, b, a).T
        # Rows whose centres an edge crosses: the upper end counts, the lower does not, so that corners count once.
        upper = np.maximum(np.ceil(from_y - 0.5), top).astype(np.int64)
        lower = np.minimum(np.ceil(to_y - 0.5), bottom).astype(np.int64)
        crossings = np.maximum(lower - upper, 0)
        edge = np.repeat(np.arange(len(first)), crossings)
        row = upper[edge] + _number_within(crossings)
        slope = (row + 0.5 - from_y[edge]) / (to_y[edge] - from_y[edge])
        x = from_x[edge] + slope * (to_x[edge] - from_x[edge])
        # Between the first crossing of a row and the second lies the inside, between the second and third a hole, ...
        order = np.lexsort((x, row, cell[edge]))
        begin, end = order[::2], order[1::2]
        from_column = np.clip(np.ceil(x[begin] - 0.5), left, right).astype(np.int64)
        to_column = np.clip(np.ceil(x[end] - 0.5), left, right).astype(np.int64)
        spans = np.maximum(to_column - from_column, 0)
        start = (row[begin] - top) * (right - left) + from_column - left
        out[np.repeat(start, spans) + _number_within(spans)] = np.repeat(cell[edge[begin]], spans)  # the last one stays
        return out.reshape(bottom - top, right - left)


def read_polygons(path: Path, shape_px: tuple[int, int] | None, *, outline_of: OutlineOf = "cell") -> Polygons:
    """Read the outlines of a GeoJSON file; features that are not cells are left out.

    Objects of type cell are read if there are any; otherwise detections, otherwise annotations and untyped objects.

    Parameters
    ----------
    path
        A FeatureCollection, a list of features or a single one; ``.gz`` is unpacked.
    shape_px
        Height and width of the slide. If None, outlines may lie anywhere, and the image is large enough for them.
    outline_of
        The outline of the whole cell, or QuPath's ``nucleusGeometry``; both give a cell the same number.

    Raises
    ------
    InputError
        If the file is not GeoJSON, holds no outline, or its outlines lie beyond the slide.
    """
    by_kind: dict[str, _Outlines] = {kind: _Outlines() for kind in _OF_CELLS}
    left_out: dict[str, int] = {}
    for feature in _features(path):
        properties = feature.get("properties") or {}
        kind = str(properties.get("objectType", properties.get("object_type", "annotation"))).lower()
        geometry = feature.get("geometry") or {}
        if kind not in by_kind or geometry.get("type") not in ("Polygon", "MultiPolygon"):
            what = kind if kind not in by_kind else str(geometry.get("type"))
            left_out[what] = left_out.get(what, 0) + 1
            continue
        if outline_of == "nucleus":
            geometry = feature.get("nucleusGeometry") or properties.get("nucleusGeometry") or {}
            geometry = geometry if isinstance(geometry, dict) else {}
        by_kind[kind].add(path, geometry)
    kind, outlines = next(((kind, one) for kind, one in by_kind.items() if one.n_cells), ("", _Outlines()))
    left_out |= {other: one.n_cells for other, one in by_kind.items() if one.n_cells and other != kind}
    if not outlines.n_corners:
        what = "outline of a nucleus (nucleusGeometry)" if outline_of == "nucleus" and kind else "polygon"
        msg = f"{path.name} holds no {what}."
        raise InputError(msg, "Export the cells from QuPath as GeoJSON, as a FeatureCollection.")
    if left_out:
        counts = ", ".join(f"{n} × {what}" for what, n in left_out.items())
        logger.info("%s: read %d × %s; left out %s", path.name, outlines.n_cells, kind, counts)
    polygons = outlines.polygons(shape_px or (0, 0))
    low, high = polygons.points.min(axis=0), polygons.points.max(axis=0)
    if shape_px is None:
        polygons.shape = max(0, math.ceil(high[1])), max(0, math.ceil(high[0]))
    elif (low < -1).any() or (high > np.array(shape_px[::-1]) + 1).any():
        msg = (
            f"the outlines of {path.name} reach from ({low[0]:g}, {low[1]:g}) to ({high[0]:g}, {high[1]:g}) (x, y) but "
            f"the slide is {shape_px} (Y, X)."
        )
        remedy = "Export them in pixels of the full resolution, with the origin at the slide's upper left corner."
        raise InputError(msg, remedy)
    return polygons


def read_classes(path: Path, shape_px: tuple[int, int]) -> tuple[Polygons, list[str]]:
    """Read the outlines of a GeoJSON file that carry a class, such as QuPath's annotations, and the class of each.

    Number ``i`` of the label image has the class ``classes[i - 1]``. Where outlines overlap, the smallest is on top: a
    gland rather than the tumour around it. Classes that QuPath ignores (their names end in ``*``) cover what is below
    them, and are returned as "".

    Parameters
    ----------
    path
        A FeatureCollection, a list of features or a single one; ``.gz`` is unpacked. Objects of any type count:
        annotations, detections, cells.
    shape_px
        Height and width of the label image; outlines may reach beyond it.

    Raises
    ------
    InputError
        If the file is not GeoJSON, or none of its outlines has a class.
    """
    outlines, classes = _Outlines(), []
    for feature in _features(path):
        geometry = feature.get("geometry") or {}
        name = _class_of(feature.get("properties") or {})
        if name and geometry.get("type") in ("Polygon", "MultiPolygon"):
            outlines.add(path, geometry)
            classes.append(name)
    if not outlines.n_corners:
        msg = f"{path.name} holds no polygon with a class."
        raise InputError(msg, "Give the annotations a class in QuPath and export them again.")
    order = outlines.sort_by_area()
    return outlines.polygons(shape_px), ["" if classes[i].endswith("*") else classes[i] for i in order]


def _class_of(properties: dict[str, Any]) -> str:
    """Return the class of a GeoJSON object as QuPath writes it: {"name": ...}, {"names": [..., ...]} or a string."""
    given = properties.get("classification")
    if isinstance(given, dict):
        given = given.get("name") or ": ".join(str(one) for one in given.get("names") or [])
    return str(given or properties.get("name") or "")


class _Outlines:
    """Collects outlines of a GeoJSON file in arrays rather than lists: a million cells have thirty million corners."""

    def __init__(self) -> None:
        self.n_cells, self.n_corners = 0, 0
        self._points: list[np.ndarray] = []
        self._cells: list[int] = []

    def add(self, path: Path, geometry: dict[str, Any]) -> None:
        self.n_cells += 1
        try:
            coordinates = geometry.get("coordinates") or []
            polygons = coordinates if geometry.get("type") == "MultiPolygon" else [coordinates]
            rings = [_corners(ring) for polygon in polygons for ring in polygon if ring]
        except (TypeError, ValueError, IndexError, KeyError) as error:
            msg = f"{path.name}: the outline of feature {self.n_cells} is not a list of points ({error})."
            raise InputError(msg) from error
        for points in rings:
            if not np.isfinite(points).all():
                msg = f"{path.name}: the outline of feature {self.n_cells} holds a coordinate that is not a number."
                raise InputError(msg)
            if len(points) >= 3:
                self._points.append(points)
                self._cells.append(self.n_cells)
                self.n_corners += len(points)

    def sort_by_area(self) -> list[int]:
        """Sort outlines by area, the largest first, and return their previous indices."""
        area = np.zeros(self.n_cells)
        for points, cell in zip(self._points, self._cells, strict=True):
            x, y = points.astype(np.float64).T
            ring = abs(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1])) / 2
            area[cell - 1] = max(area[cell - 1], ring)  # a hole is smaller than the ring around it
        order = np.argsort(-area, kind="stable")
        places = np.argsort(order)[np.array(self._cells) - 1]
        rings = np.argsort(places, kind="stable")
        self._points = [self._points[ring] for ring in rings]
        self._cells = (places[rings] + 1).tolist()
        return [int(one) for one in order]

    def polygons(self, shape_px: tuple[int, int]) -> Polygons:
        rings = np.concatenate([[0], np.cumsum([len(ring) for ring in self._points])]).astype(np.int64)
        return Polygons(shape_px, np.concatenate(self._points), rings, np.array(self._cells, np.uint32))


def _corners(ring: Any) -> np.ndarray:
    """Return the corners of a ring of a GeoJSON polygon (n, 2), closed: the last is equal to the first."""
    with np.errstate(over="ignore"):
        points = np.array(ring, np.float32)
    if points.ndim != 2 or points.shape[1] < 2:
        msg = f"an array of shape {points.shape}"
        raise ValueError(msg)
    points = points[:, :2]  # a third coordinate is ignored
    return points if (points[0] == points[-1]).all() else np.concatenate([points, points[:1]])


def _features(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the features of a GeoJSON file one by one, with only a piece of the text in memory."""
    decoder = json.JSONDecoder()
    try:
        with _opened(path) as file:
            text = file.read(_CHARACTERS)
            start = re.match(r"\s*\[", text) or re.search(r'"features"\s*:\s*\[', text)
            if start is None:
                yield _checked(path, json.loads(text + file.read()))
                return
            place = start.end()
            while True:
                place = _SEPARATORS.match(text, place).end()  # type: ignore[union-attr]
                if text[place : place + 1] == "]":
                    return
                try:
                    feature, place = decoder.raw_decode(text, place)
                except json.JSONDecodeError:
                    more = file.read(max(_CHARACTERS, len(text) - place))  # a feature may be longer than a piece
                    if not more:
                        raise
                    text, place = text[place:] + more, 0
                    continue
                yield _checked(path, feature)
    except (ValueError, EOFError, OSError, zlib.error, zipfile.BadZipFile, RecursionError) as error:
        if isinstance(error, InputError | FileNotFoundError | PermissionError):
            raise
        reason = error.msg if isinstance(error, json.JSONDecodeError) else error
        msg = f"{path.name} is not readable as GeoJSON ({reason})."
        raise InputError(msg, "Export the cells from QuPath again.") from error


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """Open GeoJSON as text; gzip and zip are unpacked."""
    ending = path.suffix.lower()
    if ending == ".zip":
        names = _members(path)
        if len(names) != 1:
            msg = f"{path.name} holds {len(names)} GeoJSON files ({', '.join(names[:5])})."
            raise InputError(msg, "Unpack it and give one of them.")
        with zipfile.ZipFile(path) as archive, archive.open(names[0]) as packed:
            yield io.TextIOWrapper(packed, encoding="utf-8-sig")
    elif ending == ".gz":
        with gzip.open(path, "rt", encoding="utf-8-sig") as file:
            yield file
    else:
        with path.open(encoding="utf-8-sig") as file:
            yield file


def _checked(path: Path, feature: Any) -> dict[str, Any]:
    members = [feature.get(name) or {} for name in ("geometry", "properties")] if isinstance(feature, dict) else [None]
    if not all(isinstance(member, dict) for member in members):
        msg = f"{path.name} is JSON but not GeoJSON: it holds objects that are not features."
        raise InputError(msg, "Export the cells from QuPath.")
    return feature  # type: ignore[no-any-return]


def _number_within(lengths: np.ndarray) -> np.ndarray:
    """Return 0, 1, 2, ... within each outline (or row of its pixels) of these lengths, concatenated."""
    ends = np.cumsum(lengths)
    counted: np.ndarray = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)
    return counted


def outlines_at(outlines: Polygons, x_px: np.ndarray, y_px: np.ndarray) -> np.ndarray:
    """Return the number of the GeoJSON outline that each point lies in, 0 if it lies in none; (N,).

    Outlines are drawn a window at a time, so that memory does not grow with the slide.

    Parameters
    ----------
    outlines
        As :func:`read_polygons` returns them.
    x_px, y_px
        The points in pixels, with centres of pixels at whole numbers, like centroids of cells; they may lie anywhere.
    """
    x, y = (np.floor(along + 0.5).astype(np.int64) for along in (x_px, y_px))
    found = np.zeros(len(x), dtype=np.int64)
    height, width = outlines.shape
    there = np.flatnonzero((x >= 0) & (y >= 0) & (x < width) & (y < height))
    window = y[there] // _WINDOW_PX * (-(-width // _WINDOW_PX)) + x[there] // _WINDOW_PX
    order = np.argsort(window, kind="stable")
    for here in np.split(there[order], np.flatnonzero(np.diff(window[order])) + 1):
        if len(here):
            top, left = (int(along[here[0]]) // _WINDOW_PX * _WINDOW_PX for along in (y, x))
            drawn = outlines[top : top + _WINDOW_PX, left : left + _WINDOW_PX]
            found[here] = drawn[y[here] - top, x[here] - left]
    return found
