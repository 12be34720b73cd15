"""A mask becomes a table of cells: where each lies, how large it is and of what shape, and how bright in every marker.

The mask is read first, a tile at a time, for positions and shapes. What a cell has in one tile is a *piece* of it;
pieces of one cell are joined, so a cell may cross any number of tiles. Then the image is read once, a tile at a time: a
cell that lies in one tile is measured there and then, and what a cell that crosses tiles has in each is kept until its
last tile.
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pandas as pd

from mxsplicer.cells import MIN_AREA_UM2
from mxsplicer.cells import pixels as regions
from mxsplicer.cells.pixels import Region
from mxsplicer.errors import InputError
from mxsplicer.images.slide import LazyImage, Slide, check_mask
from mxsplicer.images.tiles import Grid, Window, fit, grown
from mxsplicer.system.cluster import is_cluster
from mxsplicer.system.fingerprints import fingerprint_arrays
from mxsplicer.system.memory import Budget
from mxsplicer.system.progress import track
from mxsplicer.system.workers import map_in_order

logger = logging.getLogger(__name__)

_LARGEST_ID = 2**32 - 1
_REGIONS = ("ring", "nucleus", "surroundings")  # means over a part of the cell, or over what lies around it
_PERCENTILE = re.compile(r"p(\d+(?:\.\d+)?)")
_BYTES_PER_PX = {"mask": 60, "mean": 30, "ring": 12, "nucleus": 15, "pixels": 40}  # beside the image; of crowded tissue
_BYTES_PER_PX_AROUND = 6  # for each row of the disc of surroundings


@dataclass(frozen=True, eq=False)
class Cells:
    """The cells of one slide, in order of their id, and the fate of every id of the mask.

    ``table`` has the columns ``cell_id`` (uint32, the mask's value), ``x``, ``y`` (centroid in µm), ``x_px``, ``y_px``
    (in pixels, the centre of a pixel being whole), ``area_um2``, ``eccentricity``, ``major_axis_um``,
    ``minor_axis_um``, ``orientation`` (of the ellipse of equal second moments, as scikit-image defines them; radians
    between the y axis and the major axis), ``at_border`` (touches the edge of the slide) and the bounding box ``y0``,
    ``x0``, ``y1``, ``x1`` (pixels, ends excluded); where a mask of nuclei was given also ``nucleus_area_um2``.
    """

    table: pd.DataFrame
    intensities: np.ndarray  # (N, C) float32: mean raw intensity over the cell's pixels
    ledger: dict[str, int]  # "in mask" is the sum of all other entries; "kept" are the rows of the table
    markers: tuple[str, ...]
    measures: dict[str, np.ndarray] = field(default_factory=dict)  # what was asked for beyond the mean: (N, C) float32
    nuclei_ledger: dict[str, int] = field(default_factory=dict)  # "in nucleus mask" is the sum of all other entries

    def __post_init__(self) -> None:
        assert self.intensities.shape == (len(self.table), len(self.markers))
        assert all(values.shape == self.intensities.shape for values in self.measures.values())
        assert self.ledger["kept"] == len(self.table)
        for ledger, whole in ((self.ledger, "in mask"), (self.nuclei_ledger, "in nucleus mask")):
            assert ledger.get(whole, 0) == sum(n for fate, n in ledger.items() if fate != whole)

    def __len__(self) -> int:
        return len(self.table)

    def fingerprint(self) -> str:
        """Return a short name for these cells in this order, as 16 hexadecimal digits."""
        # Mean intensities tell images apart, ids and shapes tell masks apart.
        return fingerprint_arrays([self.intensities, *(self.table[column].to_numpy() for column in self.table.columns)])

    def take(self, rows: np.ndarray, *, fate: str = "not chosen") -> "Cells":
        """Return some of the cells, or all in another order; the ledger books the others under their fate.

        Parameters
        ----------
        rows
            Which rows, each at most once and in the order wanted: integers, or one boolean per cell.
        """
        rows = np.arange(len(self))[rows]
        assert len(np.unique(rows)) == len(rows), "a cell cannot be taken twice"
        ledger = self.ledger | {"kept": len(rows)}
        if len(rows) < len(self):
            ledger[fate] = ledger.get(fate, 0) + len(self) - len(rows)
        return Cells(
            self.table.iloc[rows].reset_index(drop=True),
            self.intensities[rows],
            ledger,
            self.markers,
            {name: values[rows] for name, values in self.measures.items()},
            self.nuclei_ledger,
        )


def measure_cells(
    slide: Slide,
    mask: LazyImage,
    *,
    nuclei: LazyImage | None = None,
    statistics: Sequence[str] = ("mean",),
    ring_um: float = 1.0,
    surroundings_um: float = 2.0,
    min_area_um2: float = MIN_AREA_UM2,
    tile_px: int = 2048,
    workers: int | None = None,
    executor: str = "threads",
    max_bytes: int | None = None,
) -> Cells:
    """Measure every cell of a slide: position, size, shape and its mean intensity in each marker.

    Cells at the edge of the slide are kept and flagged. Ids need not be contiguous. Tiles without a cell are not read
    from the image. Neither tiles nor threads change the result.

    Parameters
    ----------
    slide
        Image (C, Y, X) with its markers and pixel size.
    mask
        Label image (Y, X), as high and wide as the slide: 0 is background, every other value one cell.
    nuclei
        Label image of the nuclei, where a nucleus carries the id of its cell. Pixels of a nucleus outside of its cell
        are left out; ids that no cell has are counted in ``nuclei_ledger``.
    statistics
        What to measure beside the mean, into ``Cells.measures``: "median", "sum", "std" (of the pixels of the cell, by
        n), percentiles ("p10", "p99.5"), and means of parts: "ring" (the rim of the cell), "nucleus" (needs
        ``nuclei``), "surroundings" (what lies around the cell, other cells or not, of which light spills over).
        A cell that has no pixel of a kind gets NaN.
    ring_um
        How far the rim reaches inwards: pixels at most this far from one outside of the cell, centre to centre; at
        least one pixel.
    surroundings_um
        How far the surroundings reach, in the same way.
    min_area_um2
        Cells smaller than this are counted in the ledger as "too small" and left out.
    tile_px
        Longest side of what one thread holds in memory, in whole tiles of the file.
    workers
        Threads; as many as there are processors, at most 4, by default.
    executor
        The address of a dask scheduler, "tcp://...", whose cluster reads the tiles instead; all else means threads.
    max_bytes
        Limit for the memory of the whole process; tiles and threads are chosen by it. On a cluster that of a task.

    Returns
    -------
    Cells, sorted by ``cell_id``; intensities (N, C).

    Raises
    ------
    InputError
        If the mask does not fit the slide, holds something else than ids of cells, or leaves no cell; if the nuclei
        share no id with it, or a statistic is unknown; if the memory cannot hold the table; or if the image holds NaN
        or infinite values in a tile with cells, of which no mean could be taken.

    Examples
    --------
    >>> image = np.full((1, 64, 64), 7, np.uint16)
    >>> mask = np.zeros((64, 64), np.uint32)
    >>> mask[10:30, 20:40] = 5
    >>> cells = measure_cells(Slide("S01", image, ("DAPI",), pixel_size_um=0.5), mask, statistics=["sum"])
    >>> print(cells.table[["cell_id", "x", "y", "area_um2"]].to_string(index=False))
     cell_id     x    y  area_um2
           5 14.75 9.75     100.0
    >>> cells.ledger, cells.measures["sum"].item()
    ({'in mask': 1, 'kept': 1, 'too small': 0}, 2800.0)
    """
    wanted = _Wanted.of(statistics, ring_um / slide.pixel_size_um, surroundings_um / slide.pixel_size_um)
    _check_labels("mask", mask, slide)
    if nuclei is not None:
        _check_labels("nucleus mask", nuclei, slide)
    elif "nucleus" in wanted.names:
        msg = "the mean of the nucleus needs a mask of nuclei: give one by --nuclei, or leave out --measure nucleus."
        raise InputError(msg)
    budget = Budget.of(max_bytes)
    workers = 1 if is_cluster(executor) else workers  # each takes a tile as large as one alone would
    grid, n_workers = fit(
        slide.shape_px,
        slide.tile_px,
        max_px=tile_px,
        bytes_per_px=_BYTES_PER_PX["mask"],
        budget=budget,
        workers=workers,
    )
    read = map_in_order(
        partial(_pieces_of_tile, slide, mask, nuclei), grid, n_workers, executor=executor, activity="reading the mask"
    )
    pieces = [piece for piece in track(read, "Reading the mask", total=len(grid)) if len(piece)]
    if not any(len(piece.columns["cell_id"]) for piece in pieces):
        msg = (
            f"mask of slide {slide.name!r} holds no cell, only background (0); give another mask, or none to make one."
        )
        raise InputError(msg)
    nuclei_ledger, nucleus_px = _book_nuclei(pieces, slide) if nuclei is not None else ({}, None)
    table = _join(pieces, slide)
    if nucleus_px is not None:
        table["nucleus_area_um2"] = nucleus_px * slide.pixel_size_um**2
    large = (table["area_um2"] >= min_area_um2).to_numpy()
    if not large.any():
        msg = (
            f"all {len(table)} cells of slide {slide.name!r} are smaller than {min_area_um2:g} µm² (the largest is "
            f"{table['area_um2'].max():.3g} µm²); check the pixel size, {slide.pixel_size_um:g} µm "
            f"({slide.pixel_size_from})."
        )
        raise InputError(msg)
    ledger = {"in mask": len(table), "kept": int(large.sum()), "too small": int((~large).sum())}
    if not large.all():
        table = table[large].reset_index(drop=True)
    measures = _measure(slide, mask, nuclei, table, wanted, tile_px, workers, Budget.of(max_bytes), executor)
    return Cells(table, measures.pop("mean"), ledger, slide.markers, measures, nuclei_ledger)


def _check_labels(what: str, mask: LazyImage, slide: Slide) -> None:
    check_mask(mask, slide)
    if mask.dtype.kind not in "iu":
        msg = f"{what} of slide {slide.name!r} holds {mask.dtype}; whole numbers are needed, one per cell."
        raise InputError(msg)


@dataclass(frozen=True)
class _Wanted:
    """What is to be measured in each marker, the mean aside."""

    names: tuple[str, ...]
    rim_px: float
    around_px: float

    @classmethod
    def of(cls, statistics: Sequence[str], rim_px: float, around_px: float) -> "_Wanted":
        names = tuple(dict.fromkeys(name for name in statistics if name != "mean"))
        for name in names:
            found = _PERCENTILE.fullmatch(name)
            if not (name in ("median", "sum", "std", *_REGIONS) or (found and float(found[1]) <= 100)):
                msg = (
                    f"{name!r} is no measure of a cell; there are mean, median, sum, std, {', '.join(_REGIONS)} and "
                    "percentiles, p0 to p100."
                )
                raise InputError(msg)
        return cls(names, max(1.0, rim_px), max(1.0, around_px))

    @property
    def regions(self) -> tuple[str, ...]:
        return tuple(name for name in _REGIONS if name in self.names)

    @property
    def of_pixels(self) -> tuple[str, ...]:
        """What cannot be added up from pieces: all pixels of the cell are needed at once."""
        return tuple(name for name in self.names if name not in ("sum", *_REGIONS))

    @property
    def bytes_per_px(self) -> float:
        """What a pixel of a tile costs beside the image."""
        kinds = {"mean", *self.regions} | ({"pixels"} if self.of_pixels else set())
        around = _BYTES_PER_PX_AROUND * (2 * self.around_px + 1) if "surroundings" in kinds else 0
        return around + sum(_BYTES_PER_PX[kind] for kind in kinds - {"surroundings"})

    @property
    def halo_px(self) -> int:
        """How much of the mask around a tile has a say in it."""
        reaches = {"ring": self.rim_px, "surroundings": self.around_px}
        return max((int(reach) + 1 for name, reach in reaches.items() if name in self.names), default=0)


@dataclass(frozen=True)
class _Pieces:
    """What one tile holds of its cells, and which nuclei it shows.

    Moments are about the piece's own centroid, so that none is a small difference of large numbers.
    """

    columns: dict[str, np.ndarray]  # cell_id, n (pixels), y, x (centroid), yy, xx, xy (moments), y0, x0, y1, x1
    nuclei: np.ndarray  # ids
    nuclei_inside: tuple[np.ndarray, np.ndarray]  # ids of cells with pixels of their nucleus, and how many

    def __len__(self) -> int:
        return len(self.columns["cell_id"]) + len(self.nuclei)


def _pieces_of_tile(slide: Slide, mask: LazyImage, nuclei: LazyImage | None, window: Window) -> _Pieces:
    labels = _read_labels("mask", mask, slide, window)
    columns = _shapes(labels, window)
    none = np.empty(0, dtype=np.uint32)
    if nuclei is None:
        return _Pieces(columns, none, (none, none))
    of_nuclei = _read_labels("nucleus mask", nuclei, slide, window)
    inside = labels[(labels == of_nuclei) & (labels > 0)]
    seen = np.unique(of_nuclei)
    ids, n = np.unique(inside, return_counts=True)
    return _Pieces(columns, seen[seen > 0], (ids, n))


def _read_labels(what: str, mask: LazyImage, slide: Slide, window: Window) -> np.ndarray:
    labels = np.asarray(mask[window])
    if labels.dtype.itemsize > 4 or labels.dtype.kind == "i":
        lowest, highest = labels.min(), labels.max()
        if lowest < 0 or highest > _LARGEST_ID:
            wrong = lowest if lowest < 0 else highest
            msg = f"{what} of slide {slide.name!r} holds {wrong}; ids of cells lie between 1 and {_LARGEST_ID}."
            raise InputError(msg)
    return labels.astype(np.uint32, copy=False)


def _shapes(labels: np.ndarray, window: Window) -> dict[str, np.ndarray]:
    runs = regions.cut_into_runs(labels)
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


def _join(pieces: list[_Pieces], slide: Slide) -> pd.DataFrame:
    # Moments of a whole from those of its parts: each part's own, plus its pixels at the distance of the centroids.
    all_ids = _column(pieces, "cell_id")
    order = np.argsort(all_ids, kind="stable")
    ids = all_ids[order]
    bounds = np.flatnonzero(np.diff(ids, prepend=0))
    cell = np.repeat(np.arange(len(bounds)), np.diff(bounds, append=len(ids)))
    ids = ids[bounds]

    def parts(name: str) -> np.ndarray:
        values = _column(pieces, name)[order]
        for piece in pieces:
            del piece.columns[name]  # many cells make much of this
        return values

    def total(per_part: np.ndarray) -> np.ndarray:
        return np.add.reduceat(per_part, bounds)

    n_of_part, y_of_part, x_of_part = parts("n"), parts("y"), parts("x")
    n = total(n_of_part)
    y, x = total(n_of_part * y_of_part) / n, total(n_of_part * x_of_part) / n
    y_of_part -= y[cell]
    x_of_part -= x[cell]
    yy = total(parts("yy") + n_of_part * y_of_part**2) / n
    xx = total(parts("xx") + n_of_part * x_of_part**2) / n
    xy = total(parts("xy") + n_of_part * y_of_part * x_of_part) / n
    spread = np.sqrt(((yy - xx) / 2) ** 2 + xy**2)
    large, small = (yy + xx) / 2 + spread, np.maximum((yy + xx) / 2 - spread, 0)  # variance along each axis, pixels²

    box = {name: np.minimum.reduceat(parts(name), bounds) for name in ("y0", "x0")}
    box |= {name: np.maximum.reduceat(parts(name), bounds) for name in ("y1", "x1")}
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


def _column(pieces: list[_Pieces], name: str) -> np.ndarray:
    return np.concatenate([piece.columns[name] for piece in pieces])


def _book_nuclei(pieces: list[_Pieces], slide: Slide) -> tuple[dict[str, int], np.ndarray]:
    """Return the fate of every id of the nuclei, and for each cell of the mask the pixels of its nucleus."""
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
            f"none of the {len(seen)} nuclei of slide {slide.name!r} lies in the cell of its id; a nucleus must carry "
            "the id of its cell: give the two masks that one segmentation made together."
        )
        raise InputError(msg)
    if inside < len(seen) / 2:
        logger.warning(
            "Slide %r: only %d of %d nuclei lie in the cell of their id; the two masks may be numbered apart.",
            slide.name,
            inside,
            len(seen),
        )
    return ledger, pixels


def _measure(
    slide: Slide,
    mask: LazyImage,
    nuclei: LazyImage | None,
    table: pd.DataFrame,
    wanted: _Wanted,
    tile_px: int,
    workers: int | None,
    budget: Budget,
    executor: str,
) -> dict[str, np.ndarray]:
    """Return what is wanted of each cell in each marker: (N, C) float32 each, the mean among them."""
    names, shape = ("mean", *wanted.names), (len(table), len(slide.markers))
    of_table = len(names) * shape[0] * shape[1] * 4
    budget.require(of_table, f"the table of {shape[0]} cells, {shape[1]} markers and {len(names)} measures")
    grid, n_workers = fit(
        slide.shape_px,
        slide.tile_px,
        max_px=tile_px,
        bytes_per_px=slide.image.dtype.itemsize * shape[1] + wanted.bytes_per_px,
        budget=budget,
        reserved=of_table,
        workers=workers,
    )
    cells = _KnownCells.of(table, grid, wanted)
    result = {name: np.full(shape, np.nan, dtype=np.float32) for name in names}
    sums = {part: _CrossingSums(cells, len(slide.markers)) for part in ("whole", *wanted.regions)}
    pixels = _CrossingPixels(cells, wanted.of_pixels)

    def write(part: str, rows: np.ndarray, counts: np.ndarray, totals: np.ndarray) -> None:
        result["mean" if part == "whole" else part][rows] = totals / counts[:, None]
        if part == "whole" and "sum" in result:
            result["sum"][rows] = totals

    of_tile = partial(_measure_tile, slide, mask, nuclei, cells, wanted)
    work = map_in_order(of_tile, grid, n_workers, executor=executor, activity="measuring cells")
    for number, tile in enumerate(track(work, "Measuring cells", total=len(grid))):
        for part, (region, totals) in tile.sums.items():
            here = ~cells.crossing[region.cells]
            write(part, region.cells[here], region.counts[here], totals[here])
            sums[part].add(region.cells[~here], region.counts[~here], totals[~here])
        for name, values in tile.of_pixels.items():
            result[name][tile.complete] = values
        pixels.add(tile.crossing)
        for rows, of_crossing in pixels.finish(number):
            for name, values in of_crossing.items():
                result[name][rows] = values
    for part, of_part in sums.items():
        write(part, *of_part.finish())
    return result


@dataclass(frozen=True)
class _KnownCells:
    """The cells that are measured, by their row in the table, and where the tiles meet them."""

    ids: np.ndarray  # ascending
    crossing: np.ndarray  # (N,) whether more than one tile has a say in the cell
    last_tile: np.ndarray  # (N,)

    @classmethod
    def of(cls, table: pd.DataFrame, grid: Grid, wanted: _Wanted) -> "_KnownCells":
        height, width = grid.shape_px
        halo = wanted.halo_px if "surroundings" in wanted.names else 0
        y0, x0 = (np.maximum(table[side].to_numpy() - halo, 0) for side in ("y0", "x0"))
        y1 = np.minimum(table["y1"].to_numpy() + halo, height)
        x1 = np.minimum(table["x1"].to_numpy() + halo, width)
        first, last = grid.number_of(y0, x0), grid.number_of(y1 - 1, x1 - 1)
        return cls(table["cell_id"].to_numpy(), first != last, last)


@dataclass(frozen=True)
class _Measured:
    """What a tile says of its cells, which are rows of the table."""

    sums: dict[str, tuple[Region, np.ndarray]]  # by part: its pixels, and their sum in each marker (n, C)
    complete: np.ndarray  # cells that lie in this tile alone
    of_pixels: dict[str, np.ndarray]  # of those, (n, C)
    crossing: list[tuple[int, np.ndarray]]  # other cells and their pixels here (C, n)


def _measure_tile(
    slide: Slide, mask: LazyImage, nuclei: LazyImage | None, cells: _KnownCells, wanted: _Wanted, core: Window
) -> _Measured:
    parts = _find_parts(slide, mask, nuclei, cells, wanted, core)
    whole = parts.get("whole")
    measured = _Measured({part: (r, np.empty((len(r.cells), len(slide.markers)))) for part, r in parts.items()}, *_NONE)
    if not parts:
        return measured
    image = np.asarray(slide.image[:, *core])
    if whole is None or not wanted.of_pixels:
        for channel, values in _planes(slide, image, core):
            for region, totals in measured.sums.values():
                totals[:, channel] = _sums(values.take(region.pixels), region)
        return measured

    here = ~cells.crossing[whole.cells]
    of_here = whole.where(np.repeat(here, whole.counts))
    of_pixels = {name: np.empty((len(of_here.cells), len(image)), dtype=np.float32) for name in wanted.of_pixels}
    beyond = whole.where(np.repeat(~here, whole.counts))
    kept = np.empty((len(image), len(beyond.pixels)), dtype=image.dtype.newbyteorder("="))
    for channel, values in _planes(slide, image, core):
        for region, totals in measured.sums.values():
            totals[:, channel] = _sums(values.take(region.pixels), region)
        kept[channel] = values.take(beyond.pixels)
        for name, found in _statistics_of_pixels(values.take(of_here.pixels), of_here, wanted.of_pixels):
            of_pixels[name][:, channel] = found
    crossing = [
        (int(cell), kept[:, start : start + n].copy())
        for cell, start, n in zip(beyond.cells, beyond.starts, beyond.counts, strict=True)
    ]
    return _Measured(measured.sums, of_here.cells, of_pixels, crossing)


_NONE = (np.empty(0, dtype=np.int64), dict[str, np.ndarray](), list[tuple[int, np.ndarray]]())


def _find_parts(
    slide: Slide, mask: LazyImage, nuclei: LazyImage | None, cells: _KnownCells, wanted: _Wanted, core: Window
) -> dict[str, Region]:
    """Return which pixels of a tile are to be summed for which cells; nothing where there is no cell."""
    window = grown(core, wanted.halo_px, slide.shape_px)
    labels = _read_labels("mask", mask, slide, window)
    top, left = core[0].start - window[0].start, core[1].start - window[1].start
    shape = core[0].stop - core[0].start, core[1].stop - core[1].start
    inside = (slice(top, top + shape[0]), slice(left, left + shape[1]))
    own = regions.cut_into_runs(labels[inside]).numbered(cells.ids)
    whole = regions.whole(own, shape[1])
    parts = {"whole": whole}
    if "ring" in wanted.names:
        rim = regions.find_rim(labels, wanted.rim_px)[inside]
        parts["ring"] = whole.where(rim.ravel().take(whole.pixels))
    if "nucleus" in wanted.names and nuclei is not None:
        of_nuclei = _read_labels("nucleus mask", nuclei, slide, core)
        parts["nucleus"] = whole.where((of_nuclei == labels[inside]).ravel().take(whole.pixels))
    if "surroundings" in wanted.names:
        runs = regions.cut_into_runs(labels).numbered(cells.ids)
        parts["surroundings"] = regions.around(runs, own, wanted.around_px, top, left, shape)
    return {part: region for part, region in parts.items() if len(region.cells)}


def _planes(slide: Slide, image: np.ndarray, core: Window) -> Iterator[tuple[int, np.ndarray]]:
    for channel, plane in enumerate(image):
        values = np.ascontiguousarray(plane, dtype=plane.dtype.newbyteorder("=")).ravel()
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            rows, columns = core
            msg = (
                f"marker {slide.markers[channel]!r} of slide {slide.name!r} holds NaN or infinite values between rows "
                f"{rows.start} and {rows.stop}, columns {columns.start} and {columns.stop}; write 0 there instead."
            )
            raise InputError(msg)
        yield channel, values


def _sums(values: np.ndarray, region: Region) -> np.ndarray:
    sums: np.ndarray = np.add.reduceat(values, region.starts, dtype=np.float64)
    return sums


def _statistics_of_pixels(values: np.ndarray, region: Region, names: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield statistics of the pixels of each cell, ``values`` being those of one marker, cell by cell."""
    if not len(region.cells):
        return
    quantiles = {name: 50.0 if name == "median" else float(name[1:]) for name in names if name != "std"}
    if "std" in names:
        deviations = values - np.repeat(_sums(values, region) / region.counts, region.counts)
        yield "std", np.sqrt(_sums(np.square(deviations, out=deviations), region) / region.counts)
    if quantiles:
        yield from _percentiles(values, region, quantiles)


def _percentiles(values: np.ndarray, region: Region, percents: Mapping[str, float]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield percentiles of each cell, linear between the two nearest pixels, as NumPy by default."""
    found = {name: np.empty(len(region.cells)) for name in percents}
    last = np.inf if values.dtype.kind == "f" else np.iinfo(values.dtype).max
    # Cells of about one size are the rows of a matrix: many short rows are sorted faster than their pixels in one go.
    size = np.ceil(np.log(region.counts) / np.log(1.2)).astype(np.int64)
    for group in np.split(np.argsort(size, kind="stable"), np.flatnonzero(np.diff(np.sort(size))) + 1):
        counts = region.counts[group, None]
        pixel = np.arange(counts.max())
        rows = values.take(region.starts[group, None] + np.minimum(pixel, counts - 1))
        rows[pixel >= counts] = last
        rows.sort(axis=1)
        for name, percent in percents.items():
            place = (counts - 1) * (percent / 100)
            below = np.floor(place).astype(np.int64)
            low = np.take_along_axis(rows, below, axis=1).astype(np.float64)
            high = np.take_along_axis(rows, np.minimum(below + 1, counts - 1), axis=1)
            found[name][group] = (low + (high - low) * (place - below))[:, 0]
    yield from found.items()


class _CrossingSums:
    """Sums over one part of the cells that cross tiles."""

    def __init__(self, cells: _KnownCells, n_markers: int) -> None:
        self._rows = np.flatnonzero(cells.crossing)
        self._counts = np.zeros(len(self._rows), dtype=np.int64)
        self._totals = np.zeros((len(self._rows), n_markers))

    def add(self, rows: np.ndarray, counts: np.ndarray, totals: np.ndarray) -> None:
        places = np.searchsorted(self._rows, rows)  # each row once, so that no sum is lost
        self._counts[places] += counts
        self._totals[places] += totals

    def finish(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        some = self._counts > 0
        return self._rows[some], self._counts[some], self._totals[some]


class _CrossingPixels:
    """Pixels of cells that cross tiles, until the last of their tiles is there."""

    def __init__(self, cells: _KnownCells, names: Sequence[str]) -> None:
        self._last_tile, self._names = cells.last_tile, names
        self._pieces: dict[int, list[np.ndarray]] = {}
        self._ending: dict[int, list[int]] = {}  # by tile

    def add(self, pieces: list[tuple[int, np.ndarray]]) -> None:
        for cell, pixels in pieces:
            if cell not in self._pieces:
                self._pieces[cell] = []
                self._ending.setdefault(int(self._last_tile[cell]), []).append(cell)
            self._pieces[cell].append(pixels)

    def finish(self, tile: int) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        rows = self._ending.pop(tile, [])
        if not rows:
            return
        pixels = [np.concatenate(self._pieces.pop(cell), axis=1) for cell in rows]
        counts = np.array([one.shape[1] for one in pixels])
        region = Region(np.array(rows), np.cumsum(counts) - counts, counts, np.empty(0, dtype=np.int64))
        found = {name: np.empty((len(rows), len(pixels[0])), dtype=np.float32) for name in self._names}
        for channel, values in enumerate(np.concatenate(pixels, axis=1)):
            for name, statistic in _statistics_of_pixels(values, region, self._names):
                found[name][:, channel] = statistic
        yield region.cells, found
