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
from collections.abc import Iterator, Sequence
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
_OF_OLD_QUPATH = {"PathCellObject": "cell", "PathDetectionObject": "detection", "PathTileObject": "tile"}
_LARGER_THAN_CELLS, _FEWEST_IN_REGION = 20, 5  # an outline so many times larger, around so many, is a region
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
    parts
        Which polygon a ring belongs to, (R), ascending: rings of one polygon are its border and its holes. By default
        each cell is one polygon.
    object_ids
        Name of each cell in the program that wrote the file.

    Attributes
    ----------
    n_cells, n_left_out
        Number of outlines; and of the features of the file that are not outlines of cells.
    """

    dtype = np.dtype(np.uint32)
    ndim = 2

    def __init__(
        self,
        shape: tuple[int, int],
        points: np.ndarray,
        rings: np.ndarray,
        cells: np.ndarray,
        *,
        parts: np.ndarray | None = None,
        object_ids: Sequence[str] | None = None,
    ) -> None:
        self.shape, self.points, self.rings, self.cells = shape, points, rings, cells
        self.parts = cells if parts is None else parts
        self.object_ids = None if object_ids is None else np.array(object_ids)
        self.n_cells, self.n_left_out = int(cells.max(initial=0)), 0
        x, y = points.T
        # A million comparisons take about a millisecond, less than drawing a window, so a spatial index is not needed.
        self._bounds = [extreme.reduceat(along, rings[:-1]) for along in (y, x) for extreme in (np.minimum, np.maximum)]

    def lies_on(self, shape_px: tuple[int, int]) -> bool:
        """Return whether all outlines lie on a slide of this height and width, within a pixel."""
        low, high = self.points.min(axis=0), self.points.max(axis=0)
        return bool((low >= -1).all() and (high <= np.array(shape_px[::-1]) + 1).all())

    def centres(self) -> tuple[np.ndarray, np.ndarray]:
        """Return y and x of the middle of each outline's first ring."""
        first = np.flatnonzero(np.diff(self.cells, prepend=0))
        y0, y1, x0, x1 = self._bounds
        return (y0[first] + y1[first]) / 2, (x0[first] + x1[first]) / 2

    def moved(self, points: np.ndarray, shape_px: tuple[int, int]) -> "Polygons":
        """Return the same outlines with other corners, on an image of another height and width."""
        moved = Polygons(shape_px, points, self.rings, self.cells, parts=self.parts)
        moved.object_ids, moved.n_cells, moved.n_left_out = self.object_ids, self.n_cells, self.n_left_out
        return moved

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
        cell, part = (np.repeat(one[rings], lengths) for one in (self.cells, self.parts))
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
        order = np.lexsort((x, row, part[edge]))
        begin, end = order[::2], order[1::2]
        from_column = np.clip(np.ceil(x[begin] - 0.5), left, right).astype(np.int64)
        to_column = np.clip(np.ceil(x[end] - 0.5), left, right).astype(np.int64)
        spans = np.maximum(to_column - from_column, 0)
        start = (row[begin] - top) * (right - left) + from_column - left
        out[np.repeat(start, spans) + _number_within(spans)] = np.repeat(cell[edge[begin]], spans)  # the last one stays
        return out.reshape(bottom - top, right - left)


def read_polygons(
    path: Path, shape_px: tuple[int, int] | None, *, outline_of: OutlineOf = "cell", of_cells: bool = True
) -> Polygons:
    """Read the outlines of a GeoJSON file; features that are not cells are left out.

    Objects of type cell are read if there are any; otherwise detections, otherwise annotations and untyped objects.
    Among annotations, a region around many others, such as the tumour around its cells, is not a cell.

    Parameters
    ----------
    path
        A FeatureCollection, a list of features or a single one; ``.gz`` and ``.zip`` are unpacked.
    shape_px
        Height and width of the slide. If None, outlines may lie anywhere, and the image is large enough for them.
    outline_of
        The outline of the whole cell, or QuPath's ``nucleusGeometry``; both give a cell the same number.
    of_cells
        Whether the outlines are of cells; otherwise regions around others are read, too.

    Raises
    ------
    InputError
        If the file is not GeoJSON, holds no outline, or its outlines lie beyond the slide.
    """
    by_kind: dict[str, _Outlines] = {kind: _Outlines() for kind in _OF_CELLS}
    left_out: dict[str, int] = {}
    for feature in _features(path):
        kind = _kind_of(feature)
        geometry = _polygons_of(feature.get("geometry"))
        if kind not in by_kind or geometry is None:
            what = kind if kind not in by_kind else str((feature.get("geometry") or {}).get("type"))
            left_out[what] = left_out.get(what, 0) + 1
            continue
        nucleus = _nucleus_of(feature) if outline_of == "nucleus" else None
        by_kind[kind].add(path, geometry, object_id=feature.get("id"), drawn=nucleus)
    kind, outlines = next(((kind, one) for kind, one in by_kind.items() if one.n_cells), ("", _Outlines()))
    left_out |= {other: one.n_cells for other, one in by_kind.items() if one.n_cells and other != kind}
    if kind == "annotation" and of_cells and (n_regions := outlines.drop_regions()):
        left_out["region around other outlines"] = n_regions
    if not outlines.n_corners:
        what = "outline of a nucleus (nucleusGeometry)" if outline_of == "nucleus" and kind else "polygon"
        msg = f"{path.name} holds no {what}."
        raise InputError(msg, "Export the cells from QuPath as GeoJSON, as a FeatureCollection.")
    if left_out:
        counts = ", ".join(f"{n} × {what}" for what, n in left_out.items())
        logger.info("%s: read %d × %s; left out %s", path.name, outlines.n_cells, kind, counts)
    polygons = outlines.polygons(shape_px or (0, 0))
    polygons.n_left_out = sum(left_out.values())
    if shape_px is None:
        high = polygons.points.max(axis=0)
        polygons.shape = max(0, math.ceil(high[1])), max(0, math.ceil(high[0]))
    else:
        check_extent(polygons, shape_px, path.name)
    return polygons


def _kind_of(feature: dict[str, Any]) -> str:
    """Return the type of a GeoJSON object: "cell", "detection", "annotation" or another word."""
    properties = feature.get("properties") or {}
    given = properties.get("objectType", properties.get("object_type"))
    if given is None:  # QuPath 0.2 writes it as the id
        given = _OF_OLD_QUPATH.get(str(feature.get("id")), "annotation")
    return str(given).lower()


def _nucleus_of(feature: dict[str, Any]) -> list[Any]:
    """Return the polygons of the nucleus of a GeoJSON object; none if it has no nucleus."""
    geometry = feature.get("nucleusGeometry") or (feature.get("properties") or {}).get("nucleusGeometry")
    return _polygons_of(geometry) or []


def _polygons_of(geometry: Any) -> list[Any] | None:
    """Return the polygons of a GeoJSON geometry, each a list of rings; None if it has none."""
    if not isinstance(geometry, dict):
        return None
    kind, coordinates = geometry.get("type"), geometry.get("coordinates") or []
    if kind == "Polygon":
        return [coordinates]
    if kind == "MultiPolygon":
        return list(coordinates) if isinstance(coordinates, list) else [coordinates]
    if kind == "GeometryCollection" and isinstance(geometry.get("geometries"), list):
        inner = [_polygons_of(one) for one in geometry["geometries"]]
        return [polygon for one in inner for polygon in one or []] or None
    return None


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
        polygons = _polygons_of(feature.get("geometry"))
        name = _class_of(feature.get("properties") or {})
        if name and polygons is not None:
            outlines.add(path, polygons)
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
    """Collects GeoJSON outlines in arrays rather than lists: a million cells have thirty million corners."""

    def __init__(self) -> None:
        self.n_cells, self.n_corners = 0, 0
        self._points: list[np.ndarray] = []
        self._cells: list[int] = []
        self._parts: list[int] = []  # which polygon a ring belongs to
        self._object_ids: list[str] = []
        self._boxes: list[tuple[float, float, float, float, float]] = []  # of each cell: x0, y0, x1, y1, area

    def add(
        self, path: Path, polygons: Sequence[Any], *, object_id: Any = None, drawn: Sequence[Any] | None = None
    ) -> None:
        """Add the polygons of a cell; ``drawn`` are drawn in place of them, such as those of its nucleus."""
        self.n_cells += 1
        rings = self._rings(path, polygons)
        areas = [_area(ring) for _, ring in rings]
        largest = rings[int(np.argmax(areas))][1] if rings else np.zeros((1, 2), np.float32)
        self._boxes.append((*largest.min(axis=0).tolist(), *largest.max(axis=0).tolist(), max(areas, default=0.0)))
        self._object_ids.append(str(object_id) if isinstance(object_id, str | int) else "")
        first = self._parts[-1] + 1 if self._parts else 0
        for part, points in rings if drawn is None else self._rings(path, drawn):
            self._points.append(points)
            self._cells.append(self.n_cells)
            self._parts.append(first + part)
            self.n_corners += len(points)

    def _rings(self, path: Path, polygons: Sequence[Any]) -> list[tuple[int, np.ndarray]]:
        """Return the rings of polygons, each with the number of its polygon."""
        try:
            rings = [(part, _corners(ring)) for part, polygon in enumerate(polygons) for ring in polygon if ring]
        except (TypeError, ValueError, IndexError, KeyError) as error:
            msg = f"{path.name}: the outline of feature {self.n_cells} is not a list of points ({error})."
            raise InputError(msg) from error
        if not all(np.isfinite(points).all() for _, points in rings):
            msg = f"{path.name}: the outline of feature {self.n_cells} holds a coordinate that is not a number."
            raise InputError(msg)
        return [(part, points) for part, points in rings if len(points) >= 3]

    def drop_regions(self) -> int:
        """Drop outlines that are far larger than the median one and lie around several others; return how many."""
        if self.n_cells <= _FEWEST_IN_REGION:
            return 0
        x0, y0, x1, y1, area = np.array(self._boxes).T
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        large = np.flatnonzero(area > _LARGER_THAN_CELLS * np.median(area))
        regions = set()
        for number in large:
            within = (x > x0[number]) & (x < x1[number]) & (y > y0[number]) & (y < y1[number])
            within[large] = False
            if within.sum() >= _FEWEST_IN_REGION:
                regions.add(int(number) + 1)
        if not regions:
            return 0
        new = np.cumsum([number not in regions for number in range(1, self.n_cells + 1)])
        kept = [ring for ring, cell in enumerate(self._cells) if cell not in regions]
        self._points = [self._points[ring] for ring in kept]
        self._parts = [self._parts[ring] for ring in kept]
        self._cells = [int(new[self._cells[ring] - 1]) for ring in kept]
        self._object_ids = [one for number, one in enumerate(self._object_ids, 1) if number not in regions]
        self.n_cells -= len(regions)
        self.n_corners = sum(map(len, self._points))
        return len(regions)

    def sort_by_area(self) -> list[int]:
        """Sort outlines by area, the largest first, and return their previous indices."""
        area = np.zeros(self.n_cells)
        for points, cell in zip(self._points, self._cells, strict=True):
            area[cell - 1] = max(area[cell - 1], _area(points))  # a hole is smaller than the ring around it
        order = np.argsort(-area, kind="stable")
        places = np.argsort(order)[np.array(self._cells) - 1]
        rings = np.argsort(places, kind="stable")
        self._points = [self._points[ring] for ring in rings]
        self._cells = (places[rings] + 1).tolist()
        of_parts = np.array(self._parts)[rings]
        self._parts = np.cumsum(np.diff(of_parts, prepend=of_parts[:1]) != 0).tolist()
        return [int(one) for one in order]

    def polygons(self, shape_px: tuple[int, int]) -> Polygons:
        rings = np.concatenate([[0], np.cumsum([len(ring) for ring in self._points])]).astype(np.int64)
        cells, parts = np.array(self._cells, np.uint32), np.array(self._parts, np.int64)
        object_ids = self._object_ids if _are_names(self._object_ids) else None
        polygons = Polygons(shape_px, np.concatenate(self._points), rings, cells, parts=parts, object_ids=object_ids)
        polygons.n_cells = self.n_cells
        return polygons


def _are_names(object_ids: Sequence[str]) -> bool:
    """Return whether every GeoJSON object has an id of its own, as QuPath's UUIDs are."""
    return bool(object_ids) and all(object_ids) and len(set(object_ids)) == len(object_ids)


def _area(ring: np.ndarray) -> float:
    x, y = ring.astype(np.float64).T
    return float(abs(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1])) / 2)


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
    """Return 0, 1, 2, ... within each GeoJSON outline (or row of its pixels) of these lengths, concatenated."""
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


def check_extent(polygons: Polygons, shape_px: tuple[int, int], name: str) -> None:
    """Raise if outlines of a GeoJSON file reach beyond the slide."""
    low, high = polygons.points.min(axis=0), polygons.points.max(axis=0)
    if not polygons.lies_on(shape_px):
        msg = (
            f"the outlines of {name} reach from ({low[0]:g}, {low[1]:g}) to ({high[0]:g}, {high[1]:g}) (x, y) but "
            f"the slide is {shape_px} (Y, X)."
        )
        remedy = "Export them in pixels of the full resolution, with the origin at the slide's upper left corner."
        raise InputError(msg, remedy)
