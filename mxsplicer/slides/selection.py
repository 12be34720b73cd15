"""A part of a slide: the cells whose centroid lies in an outline that somebody drew, in QuPath say."""

import logging
from pathlib import Path

import numpy as np

from mxsplicer.errors import InputError
from mxsplicer.slides.cells import Cells
from mxsplicer.slides.polygons import read_polygons
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
    y, x = (np.floor(cells.table[column].to_numpy() + 0.5).astype(np.int64) for column in ("y_px", "x_px"))
    inside = np.zeros(len(cells), dtype=bool)
    across = -(-slide.shape_px[1] // _WINDOW_PX)
    window = y // _WINDOW_PX * across + x // _WINDOW_PX
    order = np.argsort(window, kind="stable")
    for here in np.split(order, np.flatnonzero(np.diff(window[order])) + 1):
        if len(here):
            top, left = (int(along[here[0]]) // _WINDOW_PX * _WINDOW_PX for along in (y, x))
            drawn = outlines[top : top + _WINDOW_PX, left : left + _WINDOW_PX]
            inside[here] = drawn[y[here] - top, x[here] - left] > 0
    if not inside.any():
        msg = (
            f"none of the {len(cells):,} cells of slide {slide.name!r} lies in an outline of {Path(path).name}. Draw "
            "the outlines on this slide, and export them in pixels of its full resolution."
        )
        raise InputError(msg)
    logger.info("%s: %d of %d cells lie in the outlines of %s", slide.name, inside.sum(), len(cells), Path(path).name)
    return cells.take(inside, fate=OUTSIDE)
