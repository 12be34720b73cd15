"""Select the cells whose centroid lies in an outline that was drawn on the slide, for instance in QuPath."""

import logging
from pathlib import Path

from mxsplicer.cells.measure import Cells
from mxsplicer.errors import InputError
from mxsplicer.images.slide import Slide
from mxsplicer.masks.polygons import outlines_at, read_polygons

logger = logging.getLogger(__name__)

OUTSIDE = "outside the regions"  # in the ledger


def keep_inside(cells: Cells, path: str | Path, slide: Slide) -> Cells:
    """Return the cells whose centroid lies in an outline of a GeoJSON file; the ledger counts the others.

    Holes are outside; of overlapping outlines the union counts. Coordinates are pixels of the finest level.

    Parameters
    ----------
    cells
        The cells of the slide.
    path
        The outlines, as QuPath exports annotations; a class is not needed.
    slide
        The slide that the outlines were drawn on.

    Raises
    ------
    InputError
        If the file is not GeoJSON, its outlines lie beyond the slide, or no cell lies in one.
    """
    outlines = read_polygons(Path(path), slide.shape_px)
    inside = outlines_at(outlines, cells.table["x_px"].to_numpy(), cells.table["y_px"].to_numpy()) > 0
    if not inside.any():
        msg = f"none of the {len(cells):,} cells of slide {slide.name!r} lies in an outline of {Path(path).name}."
        remedy = "Draw the outlines on this slide, and export them in pixels of its full resolution."
        raise InputError(msg, remedy)
    logger.info("%s: %d of %d cells lie in the outlines of %s", slide.name, inside.sum(), len(cells), Path(path).name)
    return cells.take(inside, outcome=OUTSIDE)
