"""Select the cells whose centroid lies in an outline that was drawn on the slide, for instance in QuPath."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mxsplicer.cells.measure import Cells
from mxsplicer.errors import InputError
from mxsplicer.images.slide import Slide
from mxsplicer.masks.geojson import outlines_at, read_polygons
from mxsplicer.system.tables import read_rows

logger = logging.getLogger(__name__)

OUTSIDE = "outside the regions"  # in the ledger

_ID_COLUMNS = ("cell_id", "cellid")


def keep_inside(cells: Cells, path: str | Path, slide: Slide) -> Cells:
    """Select the cells whose centroid lies in an outline of a GeoJSON file; the ledger counts the others.

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
    outlines = read_polygons(Path(path), slide.shape_px, of_cells=False)
    inside = outlines_at(outlines, cells.table["x_px"].to_numpy(), cells.table["y_px"].to_numpy()) > 0
    if not inside.any():
        msg = f"none of the {len(cells):,} cells of slide {slide.name!r} lies in an outline of {Path(path).name}."
        remedy = "Draw the outlines on this slide, and export them in pixels of its full resolution."
        raise InputError(msg, remedy)
    logger.info("%s: %d of %d cells lie in the outlines of %s", slide.name, inside.sum(), len(cells), Path(path).name)
    return cells.take(inside, outcome=OUTSIDE)


def choose_ids(cells: Cells, cell_ids: Sequence[int] | np.ndarray) -> Cells:
    """Select the cells that have these ids.

    Raises
    ------
    InputError
        If an id is not among the cells, or the list is empty.
    """
    wanted = np.unique(np.asarray(cell_ids, dtype=np.int64))
    known = cells.table["cell_id"].to_numpy()
    unknown = wanted[~np.isin(wanted, known)]
    if not len(wanted):
        msg = "the list of cells is empty."
        raise InputError(msg, "List one id per line.")
    if len(unknown):
        first = ", ".join(map(str, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        msg = (
            f"{len(unknown):,} of the {len(wanted):,} cells asked for are not among the {len(cells):,} cells of the "
            f"mask that are kept: {first}."
        )
        raise InputError(msg, "Correct the list, or lower `min_area_um2` if they are small.")
    return cells.take(np.isin(known, wanted))


def read_ids(path: str | Path) -> np.ndarray:
    """Read ids of cells to select from a file: one per line, or the column ``cell_id`` or ``CellID`` of a table.

    Raises
    ------
    InputError
        If the file does not exist or holds something else.
    """
    path = Path(path)
    rows = [row for _, row in read_rows(path, what="list of cells")]
    header = [field.lower() for field in rows[0]] if rows else []
    column = next((header.index(name) for name in _ID_COLUMNS if name in header), None)
    if column is not None:
        rows = rows[1:]
    elif len(header) > 1:
        msg = f"list of cells {path.name} has the columns {', '.join(rows[0])}, but no column cell_id."
        raise InputError(msg)
    texts = [row[column or 0] if (column or 0) < len(row) else "" for row in rows]
    strange = next((text for text in texts if not text.removesuffix(".0").isdigit()), None)
    if strange is not None:
        msg = f"list of cells {path.name} holds {strange!r}, which is not a whole number as the ids of the mask are."
        raise InputError(msg)
    return np.array([int(text.removesuffix(".0")) for text in texts], dtype=np.int64)
