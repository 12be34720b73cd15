"""Measure the cells of a slide: position, size, shape and intensity in every marker."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pandas as pd

from mxsplicer.cells import MIN_AREA_UM2
from mxsplicer.cells.intensities import measure_markers
from mxsplicer.cells.shapes import join_shapes, measure_nuclear_areas, measure_shapes
from mxsplicer.cells.statistics import Statistics
from mxsplicer.errors import InputError
from mxsplicer.images.lazy_images import LazyImage
from mxsplicer.images.slide import Slide
from mxsplicer.images.tiles import choose_tiles
from mxsplicer.masks.files import check_mask
from mxsplicer.masks.geojson import Polygons
from mxsplicer.system.dask_cluster import is_cluster
from mxsplicer.system.fingerprints import fingerprint_arrays
from mxsplicer.system.memory import Budget
from mxsplicer.system.progress import track
from mxsplicer.system.workers import map_in_order

logger = logging.getLogger(__name__)

HIDDEN, NOT_A_CELL = "without a pixel", "not a cell"  # outlines, in the ledger
_MANY_HIDDEN = 0.01  # share of the outlines
_MASK_BYTES_PER_PX = 60  # memory of a tile of the mask, in crowded tissue


@dataclass(frozen=True, eq=False)
class Cells:
    """The measured cells of one slide, in order of their id, and a ledger of all ids of the mask.

    ``table`` has the columns ``cell_id`` (uint32, the mask's value), ``x``, ``y`` (centroid in µm), ``x_px``, ``y_px``
    (in pixels; centres of pixels are whole numbers), ``area_um2``, ``eccentricity``, ``major_axis_um``,
    ``minor_axis_um``, ``orientation`` (of the ellipse of equal second moments, as scikit-image defines them; radians
    between the y axis and the major axis), ``at_border`` (touches the edge of the slide) and the bounding box ``y0``,
    ``x0``, ``y1``, ``x1`` (pixels, ends excluded); with a mask of nuclei also ``nucleus_area_um2``.
    """

    table: pd.DataFrame
    intensities: np.ndarray  # (N, C) float32: mean raw intensity over the cell's pixels
    ledger: dict[str, int]  # "in mask" is the sum of all other entries; "kept" are the rows of the table
    markers: tuple[str, ...]
    measures: dict[str, np.ndarray] = field(default_factory=dict)  # statistics other than the mean: (N, C) float32
    nuclei_ledger: dict[str, int] = field(default_factory=dict)  # "in nucleus mask" is the sum of all other entries
    object_ids: np.ndarray | None = None  # (N,) names in the program that drew the outlines, such as QuPath

    def __post_init__(self) -> None:
        assert self.intensities.shape == (len(self.table), len(self.markers))
        assert all(values.shape == self.intensities.shape for values in self.measures.values())
        assert self.ledger["kept"] == len(self.table)
        for ledger, whole in ((self.ledger, "in mask"), (self.nuclei_ledger, "in nucleus mask")):
            assert ledger.get(whole, 0) == sum(n for outcome, n in ledger.items() if outcome != whole)

    def __len__(self) -> int:
        return len(self.table)

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that change with the cells or their order."""
        # Mean intensities differ between images, ids and shapes between masks.
        return fingerprint_arrays([self.intensities, *(self.table[column].to_numpy() for column in self.table.columns)])

    def take(self, rows: np.ndarray, *, outcome: str = "not chosen") -> "Cells":
        """Return some of the cells, or all in another order; the ledger counts the others under ``outcome``.

        Parameters
        ----------
        rows
            Which rows, each at most once, in the wanted order: integers, or one boolean per cell.
        """
        rows = np.arange(len(self))[rows]
        assert len(np.unique(rows)) == len(rows), "a cell cannot be taken twice"
        ledger = self.ledger | {"kept": len(rows)}
        if len(rows) < len(self):
            ledger[outcome] = ledger.get(outcome, 0) + len(self) - len(rows)
        return Cells(
            self.table.iloc[rows].reset_index(drop=True),
            self.intensities[rows],
            ledger,
            self.markers,
            {name: values[rows] for name, values in self.measures.items()},
            self.nuclei_ledger,
            None if self.object_ids is None else self.object_ids[rows],
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
        Label image of the nuclei; each nucleus carries the id of its cell. Pixels of a nucleus outside its cell are
        ignored; ids that no cell has are counted in ``nuclei_ledger``.
    statistics
        What to measure in addition to the mean, into ``Cells.measures``: "median", "sum", "std" (population standard
        deviation of the pixels), percentiles ("p10", "p99.5"), and means of compartments: "ring" (the rim of the cell),
        "nucleus" (needs ``nuclei``), "surroundings" (around the cell, other cells included; the source of spill-over).
        A cell without a pixel of a compartment gets NaN.
    ring_um
        Width of the rim: pixels whose centres are at most this far from the centre of a pixel outside the cell; at
        least one pixel.
    surroundings_um
        Width of the surroundings, measured in the same way.
    min_area_um2
        Cells smaller than this are counted in the ledger as "too small" and left out.
    tile_px
        Longest side of the window that one thread holds in memory, in whole tiles of the file.
    workers
        Threads; as many as there are processors, at most 4, by default.
    executor
        The address of a dask scheduler, "tcp://...", whose cluster reads the tiles; any other value means threads.
    max_bytes
        Memory limit of the whole process, by which tiles and threads are chosen; on a cluster, of a task.

    Returns
    -------
    Cells, sorted by ``cell_id``; intensities (N, C).

    Raises
    ------
    InputError
        If the mask does not fit the slide, holds numbers that are not ids, or leaves no cell; if the nuclei share no id
        with it; if a statistic is unknown; if the table does not fit into memory; or if the image holds NaN or infinite
        values in a tile with cells.

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
    wanted = Statistics.of(statistics, ring_um / slide.pixel_size_um, surroundings_um / slide.pixel_size_um)
    _check_labels("mask", mask, slide)
    if nuclei is not None:
        _check_labels("nucleus mask", nuclei, slide)
    elif "nucleus" in wanted.names:
        msg = "the statistic 'nucleus' needs a mask of nuclei."
        raise InputError(msg, "Give `nuclei`, or leave the statistic out.")
    budget = Budget.of(max_bytes)
    workers = 1 if is_cluster(executor) else workers  # each task then gets tiles as large as a single worker would
    grid, n_workers = choose_tiles(
        slide.shape_px,
        slide.tile_px,
        max_px=tile_px,
        bytes_per_px=_MASK_BYTES_PER_PX,
        budget=budget,
        workers=workers,
    )
    read = map_in_order(
        partial(measure_shapes, slide, mask, nuclei), grid, n_workers, executor=executor, activity="reading the mask"
    )
    pieces = [piece for piece in track(read, "Reading the mask", total=len(grid)) if len(piece)]
    if not any(len(piece.columns["cell_id"]) for piece in pieces):
        msg = f"mask of slide {slide.name!r} holds no cell, only background (0)."
        raise InputError(msg, "Give another mask, or none to segment the slide.")
    nuclei_ledger, nucleus_px = measure_nuclear_areas(pieces, slide) if nuclei is not None else ({}, None)
    table = join_shapes(pieces, slide)
    if nucleus_px is not None:
        table["nucleus_area_um2"] = nucleus_px * slide.pixel_size_um**2
    large = (table["area_um2"] >= min_area_um2).to_numpy()
    if not large.any():
        msg = (
            f"all {len(table)} cells of slide {slide.name!r} are smaller than {min_area_um2:g} µm² (the largest is "
            f"{table['area_um2'].max():.3g} µm²)."
        )
        raise InputError(msg, f"Check the pixel size, {slide.pixel_size_um:g} µm ({slide.pixel_size_from}).")
    ledger = {"in mask": len(table), "kept": int(large.sum()), "too small": int((~large).sum())}
    if isinstance(mask, Polygons):
        ledger |= _account_for_outlines(mask, ledger, slide.name)
    if not large.all():
        table = table[large].reset_index(drop=True)
    measures = measure_markers(slide, mask, nuclei, table, wanted, tile_px, workers, Budget.of(max_bytes), executor)
    object_ids = getattr(mask, "object_ids", None)
    if object_ids is not None:
        object_ids = object_ids[table["cell_id"].to_numpy() - 1]
    return Cells(table, measures.pop("mean"), ledger, slide.markers, measures, nuclei_ledger, object_ids)


def _account_for_outlines(outlines: Polygons, ledger: Mapping[str, int], slide: str) -> dict[str, int]:
    """Return the entries in the ledger of measured cells for features that are not cells, outlines without pixels."""
    hidden = outlines.n_cells - ledger["in mask"]
    if hidden > _MANY_HIDDEN * outlines.n_cells:
        logger.warning(
            "%d of %d outlines of slide %r have no pixel of their own: they are covered by later outlines of the file, "
            "or are smaller than a pixel",
            hidden,
            outlines.n_cells,
            slide,
        )
    more = {HIDDEN: hidden, NOT_A_CELL: outlines.n_left_out}
    return {"in mask": outlines.n_cells + outlines.n_left_out} | {outcome: n for outcome, n in more.items() if n}


def _check_labels(what: str, mask: LazyImage, slide: Slide) -> None:
    check_mask(mask, slide)
    if mask.dtype.kind not in "iu":
        msg = f"{what} of slide {slide.name!r} holds {mask.dtype}; whole numbers are needed, one per cell."
        raise InputError(msg)
