"""Where outlines lie on a slide: in pixels, or by mistake in micrometres or with y before x."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mxsplicer.errors import InputError
from mxsplicer.images.markers import find_nuclear_marker
from mxsplicer.images.slide import Slide
from mxsplicer.masks.alignment import follows_nuclei
from mxsplicer.masks.geojson import OutlineOf, Polygons, check_extent, read_polygons

logger = logging.getLogger(__name__)

_FEWEST = 20  # outlines from which their place is compared with the nuclei

# Corners (N, 2) and pixel size -> corners in pixels; by what the coordinates of the file are.
_READINGS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "pixels": lambda points, _: points,
    "micrometres": lambda points, um: points / np.float32(um),
    "pixels with y before x": lambda points, _: points[:, ::-1],
    "micrometres with y before x": lambda points, um: points[:, ::-1] / np.float32(um),
}


def place_outlines(path: Path, slide: Slide, *, outline_of: OutlineOf = "cell") -> Polygons:
    """Place the outlines of cells in a GeoJSON file on a slide, and return them as its label image.

    Outlines in micrometres or with y before x are converted, with a warning, if they follow the nuclear marker of the
    slide when they are read so, and do not follow it in pixels. That is seen in a few windows.

    Raises
    ------
    InputError
        If the file is not GeoJSON, holds no outline, or its outlines lie beyond the slide.
    """
    cells = read_polygons(path, None)
    reading = _find_reading(cells, slide, path.name)
    outlines = cells if outline_of == "cell" else read_polygons(path, None, outline_of=outline_of)
    return _read_as(outlines, reading, slide)


def _read_as(outlines: Polygons, reading: str, slide: Slide) -> Polygons:
    points = _READINGS[reading](outlines.points, slide.pixel_size_um)
    return outlines.moved(np.ascontiguousarray(points), slide.shape_px)


def _find_reading(cells: Polygons, slide: Slide, name: str) -> str:
    """Return how outlines are placed: what their coordinates are."""
    marker = find_nuclear_marker(slide.markers) if cells.n_cells >= _FEWEST else None
    fitting = []
    for reading in _READINGS:  # one at a time: a million cells have thirty million corners
        outlines = _read_as(cells, reading, slide)
        if not outlines.lies_on(slide.shape_px):
            continue
        fitting.append(reading)
        follows = None if marker is None else follows_nuclei(slide, outlines, marker, *outlines.centres())
        if reading == "pixels" and follows is not False:  # also where nothing can be seen
            return reading
        if follows:
            logger.warning(
                "the outlines of %s are read as %s: so they follow %s of slide %r, and in pixels they do not",
                name,
                reading,
                marker,
                slide.name,
            )
            return reading
    if "pixels" not in fitting:
        try:
            check_extent(cells, slide.shape_px, name)
        except InputError as error:
            hint = f"They would fit as {' or '.join(fitting)}. " if fitting else ""
            raise InputError(error.problem, hint + error.remedy) from None
    return "pixels"
