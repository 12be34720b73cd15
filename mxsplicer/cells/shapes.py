"""Measure position, size and shape of cells from the mask, tile by tile.

What a cell has in one tile is a *piece* of it; pieces of one cell are joined, so a cell may cross any number of tiles.
"""

import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mxsplicer.cells.pixels import cut_into_runs
from mxsplicer.errors import InputError
from mxsplicer.images.lazy_images import LazyImage
from mxsplicer.images.slide import Slide
from mxsplicer.images.tiles import Window
from mxsplicer.masks.files import read_labels

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PieceShapes:
    """Position, size and shape of the pieces of cells in one tile, and the nuclei in it.

    Moments are about the centroid of the piece, so that none is a small difference of large numbers.
    """

    columns: dict[str, np.ndarray]  # cell_id, n (pixels), y, x (centroid), yy, xx, xy (moments), y0, x0, y1, x1
    nuclei: np.ndarray  # ids
    nuclei_inside: tuple[np.ndarray, np.ndarray]  # ids of cells with pixels of their nucleus, and how many

    def __len__(self) -> int:
        return len(self.columns["cell_id"]) + len(self.nuclei)


def measure_shapes(slide: Slide, mask: LazyImage, nuclei: LazyImage | None, window: Window) -> PieceShapes:
    """Measure the pieces of cells in one tile: position, size and shape."""
    labels = read_labels("mask", mask, slide, window)
    columns = _shapes(labels, window)
    none = np.empty(0, dtype=np.uint32)
    if nuclei is None:
        return PieceShapes(columns, none, (none, none))
    of_nuclei = read_labels("nucleus mask", nuclei, slide, window)
    inside = labels[(labels == of_nuclei) & (labels > 0)]
    seen = np.unique(of_nuclei)
    ids, n = np.unique(inside, return_counts=True)
    return PieceShapes(columns, seen[seen > 0], (ids, n))


def _shapes(labels: np.ndarray, window: Window) -> dict[str, np.ndarray]:
    runs = cut_into_runs(labels)
    ids, n, y, x = runs.labels, runs.n, runs.y, runs.x
    bounds = np.flatnonzero(np.diff(ids, prepend=0))  # where the next piece begins
    top, left = (axis.start for axis in window)

    def total(per_run: np.ndarray) -> np.ndarray:
        return np.add.reduceat(per_run, bounds)

    # Whole numbers until the division. A run of n pixels has sum of squares n·middle² + (n³ - n) / 12 about any point.
    pixels = total(n)
    twice_middle = 2 * x + n - 1
    y_mean, x_mean = total(n * y) / pixels, total(n * twice_middle) / (2 * pixels)
    piece = np.repeat(np.arange(len(bounds)), np.diff(bounds, append=len(runs)))
    dy, dx = y - y_mean[piece], twice_middle / 2 - x_mean[piece]
    return {
        "cell_id": ids[bounds],
        "n": pixels,
        "y": y_mean + top,
        "x": x_mean + left,
        "yy": total(n * dy**2),
        "xx": total(n * dx**2 + (n**3 - n) / 12),
        "xy": total(n * dy * dx),
        "y0": (np.minimum.reduceat(y, bounds) + top).astype(np.int32),
        "x0": (np.minimum.reduceat(x, bounds) + left).astype(np.int32),
        "y1": (np.maximum.reduceat(y, bounds) + top + 1).astype(np.int32),
        "x1": (np.maximum.reduceat(x + n, bounds) + left).astype(np.int32),
    }


def join_shapes(pieces: list[PieceShapes], slide: Slide) -> pd.DataFrame:
    """Return the table of cells, with the shape of each joined from its pieces."""
    # Parallel axis theorem: the moments of a cell are those of its pieces, each shifted to the centroid of the cell.
    all_ids = _column(pieces, "cell_id")
    order = np.argsort(all_ids, kind="stable")
    ids = all_ids[order]
    bounds = np.flatnonzero(np.diff(ids, prepend=0))
    cell = np.repeat(np.arange(len(bounds)), np.diff(bounds, append=len(ids)))
    ids = ids[bounds]

    def take(name: str) -> np.ndarray:
        values = _column(pieces, name)[order]
        for piece in pieces:
            del piece.columns[name]  # of millions of cells this is much memory
        return values

    def total(per_piece: np.ndarray) -> np.ndarray:
        return np.add.reduceat(per_piece, bounds)

    n_of_piece, y_of_piece, x_of_piece = take("n"), take("y"), take("x")
    n = total(n_of_piece)
    y, x = total(n_of_piece * y_of_piece) / n, total(n_of_piece * x_of_piece) / n
    y_of_piece -= y[cell]
    x_of_piece -= x[cell]
    yy = total(take("yy") + n_of_piece * y_of_piece**2) / n
    xx = total(take("xx") + n_of_piece * x_of_piece**2) / n
    xy = total(take("xy") + n_of_piece * y_of_piece * x_of_piece) / n
    spread = np.sqrt(((yy - xx) / 2) ** 2 + xy**2)
    large, small = (yy + xx) / 2 + spread, np.maximum((yy + xx) / 2 - spread, 0)  # variance along each axis, pixels²

    box = {name: np.minimum.reduceat(take(name), bounds) for name in ("y0", "x0")}
    box |= {name: np.maximum.reduceat(take(name), bounds) for name in ("y1", "x1")}
    height, width = slide.shape_px
    pixel = slide.pixel_size_um
    return pd.DataFrame(
        {
            "cell_id": ids,
            "x": x * pixel,
            "y": y * pixel,
            "x_px": x,
            "y_px": y,
            "area_um2": n * pixel**2,
            "eccentricity": np.sqrt(1 - np.divide(small, large, out=np.ones_like(large), where=large > 0)),
            "major_axis_um": 4 * np.sqrt(large) * pixel,
            "minor_axis_um": 4 * np.sqrt(small) * pixel,
            "orientation": 0.5 * np.arctan2(2 * xy, yy - xx),
            "at_border": (box["y0"] == 0) | (box["x0"] == 0) | (box["y1"] == height) | (box["x1"] == width),
            **box,
        },
        copy=False,
    )


def _column(pieces: list[PieceShapes], name: str) -> np.ndarray:
    return np.concatenate([piece.columns[name] for piece in pieces])


def measure_nuclear_areas(pieces: list[PieceShapes], slide: Slide) -> tuple[dict[str, int], np.ndarray]:
    """Return the nuclear part of the shapes: the ledger of the ids of nuclei, and nuclear pixels of each cell."""
    cells = np.unique(_column(pieces, "cell_id"))
    seen = np.unique(np.concatenate([piece.nuclei for piece in pieces]))
    pixels = np.zeros(len(cells), dtype=np.int64)
    for piece in pieces:
        ids, n = piece.nuclei_inside
        pixels[np.searchsorted(cells, ids)] += n
    inside, known = int((pixels > 0).sum()), int(np.isin(seen, cells, assume_unique=True).sum())
    ledger = {
        "in nucleus mask": len(seen),
        "inside their cell": inside,
        "outside their cell": known - inside,
        "without a cell": len(seen) - known,
    }
    if not inside:
        msg = (
            f"none of the {len(seen)} nuclei of slide {slide.name!r} lies in the cell with its id; a nucleus must "
            "carry the id of its cell."
        )
        raise InputError(msg, "Give two masks from the same segmentation.")
    if inside < len(seen) / 2:
        logger.warning(
            "Slide %r: only %d of %d nuclei lie in the cell with their id; the two masks may be numbered separately.",
            slide.name,
            inside,
            len(seen),
        )
    return ledger, pixels
