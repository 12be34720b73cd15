"""A mask becomes a table of cells: where each lies, how large it is and of what shape, and how bright in every marker.

One pass over the slide, a tile at a time. A tile's labels are cut into runs, stretches of one row that carry one label;
everything measured is a sum over runs. What a cell has in one tile is a *piece* of it; pieces of one cell are joined at
the end, so a cell may cross any number of tiles.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mxsplicer.errors import InputError
from mxsplicer.progress import track
from mxsplicer.slides.slide import LazyImage, Slide, check_mask

logger = logging.getLogger(__name__)

_LARGEST_ID = 2**32 - 1


@dataclass(frozen=True, eq=False)
class Cells:
    """The cells of one slide, in order of their id, and the fate of every id of the mask.

    ``table`` has the columns ``cell_id`` (uint32, the mask's value), ``x``, ``y`` (centroid in µm), ``x_px``, ``y_px``
    (in pixels, the centre of a pixel being whole), ``area_um2``, ``eccentricity``, ``major_axis_um``,
    ``minor_axis_um`` (of the ellipse of equal second moments, as scikit-image defines them), ``at_border`` (touches
    the edge of the slide) and the bounding box ``y0``, ``x0``, ``y1``, ``x1`` (pixels, ends excluded).
    """

    table: pd.DataFrame
    intensities: np.ndarray  # (N, C) float32: mean raw intensity over the cell's pixels
    ledger: dict[str, int]  # "in mask" is the sum of all other entries; "kept" are the rows of the table
    markers: tuple[str, ...]

    def __post_init__(self) -> None:
        assert self.intensities.shape == (len(self.table), len(self.markers))
        assert self.ledger["kept"] == len(self.table)
        assert self.ledger["in mask"] == sum(n for fate, n in self.ledger.items() if fate != "in mask")

    def __len__(self) -> int:
        return len(self.table)

    def take(self, rows: np.ndarray) -> "Cells":
        """Return some of the cells, or all in another order; the ledger books the others as "not chosen".

        Parameters
        ----------
        rows
            Which rows, each at most once and in the order wanted: integers, or one boolean per cell.
        """
        rows = np.arange(len(self))[rows]
        assert len(np.unique(rows)) == len(rows), "a cell cannot be taken twice"
        ledger = self.ledger | {"kept": len(rows)}
        if len(rows) < len(self):
            ledger["not chosen"] = ledger.get("not chosen", 0) + len(self) - len(rows)
        return Cells(self.table.iloc[rows].reset_index(drop=True), self.intensities[rows], ledger, self.markers)


def measure_cells(slide: Slide, mask: LazyImage, *, min_area_um2: float = 5.0, tile_px: int = 2048) -> Cells:
    """Measure every cell of a slide: position, size, shape and its mean intensity in each marker.

    Cells at the edge of the slide are kept and flagged. Ids need not be contiguous. Tiles without a cell are not read
    from the image.

    Parameters
    ----------
    slide
        Image (C, Y, X) with its markers and pixel size.
    mask
        Label image (Y, X), as high and wide as the slide: 0 is background, every other value one cell.
    min_area_um2
        Cells smaller than this are counted in the ledger as "too small" and left out.
    tile_px
        Side of what is held in memory at a time, rounded to whole tiles of the file. The result does not depend on it.

    Returns
    -------
    Cells, sorted by ``cell_id``; intensities (N, C).

    Raises
    ------
    InputError
        If the mask does not fit the slide, holds something else than ids of cells, or leaves no cell; or if the image
        holds NaN or infinite values in a tile with cells, of which no mean could be taken.

    Examples
    --------
    >>> image = np.full((1, 64, 64), 7, np.uint16)
    >>> mask = np.zeros((64, 64), np.uint32)
    >>> mask[10:30, 20:40] = 5
    >>> cells = measure_cells(Slide("S01", image, ("DAPI",), pixel_size_um=0.5), mask)
    >>> print(cells.table[["cell_id", "x", "y", "area_um2"]].to_string(index=False))
     cell_id     x    y  area_um2
           5 14.75 9.75     100.0
    >>> cells.ledger
    {'in mask': 1, 'kept': 1, 'too small': 0}
    """
    check_mask(mask, slide)
    if mask.dtype.kind not in "iu":
        msg = f"mask of slide {slide.name!r} holds {mask.dtype}; whole numbers are needed, one per cell."
        raise InputError(msg)
    tiles = list(_tiles(slide, tile_px))
    measured = (_pieces_of_tile(slide, mask, rows, columns) for rows, columns in tiles)
    pieces = [piece for piece in track(measured, "Measuring cells", total=len(tiles)) if len(piece.shape)]
    if not pieces:
        msg = (
            f"mask of slide {slide.name!r} holds no cell, only background (0); give another mask, or none to make one."
        )
        raise InputError(msg)
    table, intensities = _joined(pieces, slide)
    large = (table["area_um2"] >= min_area_um2).to_numpy()
    if not large.any():
        msg = (
            f"all {len(table)} cells of slide {slide.name!r} are smaller than {min_area_um2:g} µm² (the largest is "
            f"{table['area_um2'].max():.3g} µm²); check the pixel size, {slide.pixel_size_um:g} µm "
            f"({slide.pixel_size_from})."
        )
        raise InputError(msg)
    ledger = {"in mask": len(table), "kept": int(large.sum()), "too small": int((~large).sum())}
    return Cells(table[large].reset_index(drop=True), intensities[large], ledger, slide.markers)


@dataclass(frozen=True)
class _Pieces:
    """What one tile holds of its cells.

    Moments are about the piece's own centroid, so that none is a small difference of large numbers.
    """

    shape: pd.DataFrame  # cell_id, n (pixels), y, x (centroid), yy, xx, xy (moments), y0, x0, y1, x1
    sums: np.ndarray  # (pieces, C) float64


def _tiles(slide: Slide, tile_px: int) -> Iterator[tuple[slice, slice]]:
    # Whole tiles of the file, so that each is decoded once.
    height, width = slide.shape_px
    down, across = (max(1, tile_px // side) * side for side in slide.tile_px)
    for top in range(0, height, down):
        for left in range(0, width, across):
            yield slice(top, min(height, top + down)), slice(left, min(width, left + across))


def _pieces_of_tile(slide: Slide, mask: LazyImage, rows: slice, columns: slice) -> _Pieces:
    labels = np.asarray(mask[rows, columns])
    width = labels.shape[1]
    first = np.ones(labels.shape, dtype=bool)  # of its run; a run ends with its row
    np.not_equal(labels[:, 1:], labels[:, :-1], out=first[:, 1:])
    starts = np.flatnonzero(first)
    lengths = np.diff(starts, append=labels.size)
    ids = labels.ravel()[starts].astype(np.int64)
    if ids.min() < 0 or ids.max() > _LARGEST_ID:
        wrong = ids.min() if ids.min() < 0 else ids.max()
        msg = f"mask of slide {slide.name!r} holds {wrong}; ids of cells lie between 1 and {_LARGEST_ID}."
        raise InputError(msg)

    runs = np.flatnonzero(ids)
    runs = runs[np.argsort(ids[runs], kind="stable")]  # the runs of a piece side by side
    ids, n = ids[runs], lengths[runs]
    y, x = np.divmod(starts[runs], width)
    bounds = np.flatnonzero(np.diff(ids, prepend=0))  # where the next piece begins
    if not len(bounds):
        return _Pieces(pd.DataFrame(), np.empty((0, slide.image.shape[0])))

    def total(per_run: np.ndarray) -> np.ndarray:
        return np.add.reduceat(per_run, bounds)

    # Whole numbers until the division. A run of n pixels has sum of squares n·middle² + (n³ - n) / 12 about any point.
    pixels = total(n)
    twice_middle = 2 * x + n - 1
    y_mean, x_mean = total(n * y) / pixels, total(n * twice_middle) / (2 * pixels)
    piece = np.repeat(np.arange(len(bounds)), np.diff(bounds, append=len(runs)))
    dy, dx = y - y_mean[piece], twice_middle / 2 - x_mean[piece]
    shape = pd.DataFrame(
        {
            "cell_id": ids[bounds].astype(np.uint32),
            "n": pixels,
            "y": y_mean + rows.start,
            "x": x_mean + columns.start,
            "yy": total(n * dy**2),
            "xx": total(n * dx**2 + (n**3 - n) / 12),
            "xy": total(n * dy * dx),
            "y0": np.minimum.reduceat(y, bounds) + rows.start,
            "x0": np.minimum.reduceat(x, bounds) + columns.start,
            "y1": np.maximum.reduceat(y, bounds) + rows.start + 1,
            "x1": np.maximum.reduceat(x + n, bounds) + columns.start,
        }
    )
    image = np.asarray(slide.image[:, rows, columns])
    sums = np.empty((len(bounds), len(image)))
    for channel, plane in enumerate(image):
        per_run = np.add.reduceat(plane.ravel(), starts, dtype=np.float64)
        if not np.isfinite(per_run).all():
            msg = (
                f"marker {slide.markers[channel]!r} of slide {slide.name!r} holds NaN or infinite values between rows "
                f"{rows.start} and {rows.stop}, columns {columns.start} and {columns.stop}; write 0 there instead."
            )
            raise InputError(msg)
        sums[:, channel] = total(per_run[runs])
    return _Pieces(shape, sums)


def _joined(pieces: list[_Pieces], slide: Slide) -> tuple[pd.DataFrame, np.ndarray]:
    # Moments of a whole from those of its parts: each part's own, plus its pixels at the distance of the centroids.
    parts = pd.concat([one.shape for one in pieces], ignore_index=True)
    ids, cell = np.unique(parts["cell_id"].to_numpy(), return_inverse=True)

    def total(per_part: "np.ndarray | pd.Series[float]") -> np.ndarray:
        return np.bincount(cell, weights=per_part, minlength=len(ids))

    n = total(parts["n"])
    y, x = total(parts["n"] * parts["y"]) / n, total(parts["n"] * parts["x"]) / n
    dy, dx = parts["y"] - y[cell], parts["x"] - x[cell]
    yy = total(parts["yy"] + parts["n"] * dy**2) / n
    xx = total(parts["xx"] + parts["n"] * dx**2) / n
    xy = total(parts["xy"] + parts["n"] * dy * dx) / n
    spread = np.sqrt(((yy - xx) / 2) ** 2 + xy**2)
    large, small = (yy + xx) / 2 + spread, np.maximum((yy + xx) / 2 - spread, 0)  # variance along each axis, pixels²
    eccentricity = np.sqrt(1 - np.divide(small, large, out=np.ones_like(large), where=large > 0))

    box = parts.groupby(cell).agg({"y0": "min", "x0": "min", "y1": "max", "x1": "max"})
    height, width = slide.shape_px
    pixel = slide.pixel_size_um
    table = pd.DataFrame(
        {
            "cell_id": ids,
            "x": x * pixel,
            "y": y * pixel,
            "x_px": x,
            "y_px": y,
            "area_um2": n * pixel**2,
            "eccentricity": eccentricity,
            "major_axis_um": 4 * np.sqrt(large) * pixel,
            "minor_axis_um": 4 * np.sqrt(small) * pixel,
            "at_border": (
                (box["y0"] == 0) | (box["x0"] == 0) | (box["y1"] == height) | (box["x1"] == width)
            ).to_numpy(),
            **{side: box[side].to_numpy() for side in box},
        }
    )
    intensities = np.empty((len(ids), len(slide.markers)), dtype=np.float32)
    for channel in range(len(slide.markers)):
        intensities[:, channel] = total(np.concatenate([one.sums[:, channel] for one in pieces])) / n
    return table, intensities
