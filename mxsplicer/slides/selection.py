"""A part of a slide: the cells whose centroid lies in an outline that somebody drew, in QuPath say."""

import logging
from pathlib import Path

import numpy as np

from mxsplicer.errors import InputError
from mxsplicer.slides.cells import Cells
from mxsplicer.slides.polygons import Polygons, read_polygons
from mxsplicer.slides.slide import Slide

logger = logging.getLogger(__name__)

OUTSIDE = "outside the regions"  # in the ledger
_WINDOW_PX = 2048


def keep_inside(cells: Cells, path: str | Path, slide: Slide) -> Cells:
    """Return the cells whose centroid lies in an outline of a GeoJSON file; the ledger books the others.

    Holes are outside, and where outlines overlap, their union counts. Coordinates are pixels of the finest level.

    Parameters
    ----------
    cells
        Of the slide.
    path
        The outlines, as QuPath exports annotations; a class is not needed.
    slide
        Which slide they were drawn on.

    Raises
    ------
    InputError
        If the file is no GeoJSON, its outlines lie beyond the slide, or no cell lies in one.
    """
    outlines = read_polygons(Path(path), slide.shape_px)
    inside = outlines_at(outlines, cells.table["x_px"].to_numpy(), cells.table["y_px"].to_numpy()) > 0
    if not inside.any():
        msg = (
            f"none of the {len(cells):,} cells of slide {slide.name!r} lies in an outline of {Path(path).name}. Draw "
            "the outlines on this slide, and export them in pixels of its full resolution."
        )
        raise InputError(msg)
    logger.info("%s: %d of %d cells lie in the outlines of %s", slide.name, inside.sum(), len(cells), Path(path).name)
    return cells.take(inside, fate=OUTSIDE)


def outlines_at(outlines: Polygons, x_px: np.ndarray, y_px: np.ndarray) -> np.ndarray:
    """Return the number of the outline that each point lies in, 0 where in none; (N,).

    Outlines are drawn a window at a time, so that memory does not grow with the slide.

    Parameters
    ----------
    outlines
        As :func:`~mxsplicer.slides.polygons.read_polygons` returns them.
    x_px, y_px
        The points, in pixels whose centres are whole numbers, as centroids of cells are; they may lie anywhere.
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
