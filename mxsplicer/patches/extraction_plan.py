"""Planning: estimate what an extraction costs from a few tiles that are read, measured and cut on trial."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from mxsplicer.cells import MIN_AREA_UM2
from mxsplicer.cells.measure import Cells, measure_cells
from mxsplicer.errors import InputError
from mxsplicer.images.lazy_images import LazyImage
from mxsplicer.images.slide import Slide
from mxsplicer.images.tiles import reading_tile
from mxsplicer.masks.files import check_mask
from mxsplicer.patches import PATCH_SIZE_UM
from mxsplicer.patches.cutting import Cutter, prepare_cutter
from mxsplicer.patches.geometry import PatchGeometry
from mxsplicer.patches.shards import ShardWriter
from mxsplicer.system.dask_cluster import is_cluster
from mxsplicer.system.durations import format_duration
from mxsplicer.system.memory import Budget, format_bytes
from mxsplicer.system.workers import default_workers

_MAX_CACHE = 512 << 20  # of tiles and strips; the strips along the curve of a whole slide are less
_OF_BLOCK = 1.15  # what cutting and writing a block takes, in blocks
_OF_PROCESS = 200 << 20  # what a worker process holds before it cuts: Python, NumPy, zarr, pandas are 122 MiB

logger = logging.getLogger(__name__)

T = TypeVar("T")

_MOST_TILES, _ENOUGH_TILES, _ENOUGH_CELLS = 12, 3, 256
_COUNTED_PX, _COUNTED_AT_ONCE_PX = 256 << 20, 8 << 20  # the cells of masks with more pixels are estimated
_CELL_BYTES = 400  # of the table of cells while it is sorted: three copies of its columns
_DISK_SPEED = 500e6  # bytes per second of an ordinary SSD: the only number that is not measured


@dataclass(frozen=True)
class ExtractionPlan:
    """Outcome and cost of an extraction; cells, bytes and seconds are estimates from a few tiles."""

    n_cells: int  # patches to cut
    n_cells_of_slide: int
    n_blocks: int
    patch_shape: tuple[int, int, int]  # (C, P, P)
    dtype: str
    raw_bytes: int  # patches and regions
    store_bytes: int  # what they take on the disk, compressed
    memory_bytes: int  # at most, of all processes
    workers: int
    executor: str
    n_tiles: int  # of the file
    seconds: dict[str, float]  # by stage
    dominated_by: str  # the stage that takes longest

    def __str__(self) -> str:
        """Return the plan as text."""
        shape = " x ".join(map(str, self.patch_shape))
        return "\n".join(
            [
                f"cells   about {self.n_cells:,} of {self.n_cells_of_slide:,}, in {self.n_blocks:,} blocks",
                f"patch   {shape} {self.dtype}",
                f"disk    about {format_bytes(self.store_bytes)} ({format_bytes(self.raw_bytes)} before compression)",
                f"memory  at most {format_bytes(self.memory_bytes)}, {self.workers} {self.executor}",
                *format_seconds(self.seconds, self.dominated_by),
            ]
        )


def plan_extraction(
    slide: Slide,
    mask: LazyImage,
    *,
    patch_size_um: float = PATCH_SIZE_UM,
    max_cells: int | None = None,
    min_area_um2: float = MIN_AREA_UM2,
    workers: int | None = None,
    max_bytes: int | None = None,
    executor: str = "threads",
) -> ExtractionPlan:
    """Estimate the outcome and cost of :func:`~mxsplicer.patches.extraction.extract_patches`; nothing is written.

    Up to twelve tiles, spread over the slide, are decoded, measured and cut, which takes seconds for any slide. The
    arguments are those of ``extract_patches``.

    Raises
    ------
    InputError
        If the extraction would be refused, or none of the tiles holds a cell.

    Examples
    --------
    >>> from mxsplicer.testing import tiny_slide
    >>> slide, mask = tiny_slide()
    >>> plan = plan_extraction(slide, mask, patch_size_um=16)
    >>> plan.n_cells, plan.n_blocks, plan.patch_shape
    (2, 1, (3, 32, 32))
    """
    check_mask(mask, slide)
    geometry = PatchGeometry.of(slide, patch_size_um)
    trial = _try(slide, mask, min_area_um2, geometry)
    n_of_slide = _count(mask) or max(1, round(trial.n_cells * math.prod(slide.shape_px) / trial.n_pixels))
    n_cells = min(n_of_slide, max_cells or n_of_slide)

    # Cells at random positions, about as dense as those of the slide.
    rng = np.random.default_rng(0)
    y_px, x_px = (rng.uniform(0, side - 1, n_cells) for side in slide.shape_px)
    cutter, _ = prepare_cutter(slide, mask, x_px, y_px, np.arange(n_cells), geometry=geometry)
    budget = Budget.of(max_bytes, to_come=_CELL_BYTES * n_of_slide)
    plan = plan_extraction_workers(cutter, budget, workers=workers, executor=executor)

    n_tiles = math.prod(-(-side // of_tile) for side, of_tile in zip(slide.shape_px, geometry.tile_px, strict=True))
    raw_bytes = n_cells * cutter.pixel_bytes * geometry.patch_px**2
    store_bytes = round(raw_bytes * trial.packed)
    seconds = _predict_seconds(trial, cutter, n_tiles, plan.n_workers) | {"writing": store_bytes / _DISK_SPEED}
    return ExtractionPlan(
        n_cells=n_cells,
        n_cells_of_slide=n_of_slide,
        n_blocks=cutter.n_blocks,
        patch_shape=cutter.patch_shape,
        dtype=str(cutter.dtype),
        raw_bytes=raw_bytes,
        store_bytes=store_bytes,
        memory_bytes=budget.taken + plan.peak_bytes,
        workers=plan.n_workers,
        executor=executor,
        n_tiles=n_tiles,
        seconds={stage: float(f"{value:.3g}") for stage, value in seconds.items()},
        dominated_by=max(seconds, key=lambda stage: seconds[stage]),
    )


def _predict_seconds(trial: "_Trial", cutter: Cutter, n_tiles: int, n_workers: int) -> dict[str, float]:
    """Return the planned seconds of each stage of an extraction but writing, extrapolated from a few tiles."""
    tile_px, n_cells = math.prod(cutter.geometry.tile_px), len(cutter.tops)
    n_overlapped = len(cutter.reader(range(cutter.n_blocks), 0).tiles)
    to_decode = trial.seconds_to_decode / trial.n_pixels * tile_px
    seconds = {
        "measuring cells": (to_decode + trial.seconds_to_measure / trial.n_pixels * tile_px) * n_tiles,
        "decoding tiles": to_decode * n_overlapped,
        "cutting patches": trial.seconds_to_cut * n_cells,
        "compressing": trial.seconds_to_pack * n_cells,
    }
    return {stage: value / n_workers for stage, value in seconds.items()}


def _count(mask: LazyImage) -> int:
    """Return the number of cells of a mask, to plan an extraction; 0 for one that is too large to be counted."""
    height, width = mask.shape
    if height * width > _COUNTED_PX:
        return 0
    rows = max(1, _COUNTED_AT_ONCE_PX // width)
    ids = []
    for top in range(0, height, rows):
        labels = np.asarray(mask[top : min(top + rows, height)]).ravel()
        begins = np.flatnonzero(labels[1:] != labels[:-1]) + 1  # where runs of one value begin: few values to sort
        ids.append(np.unique(labels[np.append(0, begins)]))
    return int(np.count_nonzero(np.unique(np.concatenate(ids))))


@dataclass(frozen=True)
class _Trial:
    n_pixels: int  # that were read
    n_cells: float  # in them; those cut by the edge of a tile count half
    seconds_to_decode: float
    seconds_to_measure: float
    seconds_to_cut: float  # a patch
    seconds_to_pack: float  # a patch
    packed: float  # size of a patch on disk divided by its size in memory


def _try(slide: Slide, mask: LazyImage, min_area_um2: float, geometry: PatchGeometry) -> _Trial:
    """Measure, cut and compress the cells of a few tiles in memory, from which the extraction is planned."""
    tile_px = geometry.tile_px
    n_down, n_across = (-(-side // of_tile) for side, of_tile in zip(slide.shape_px, tile_px, strict=True))
    numbers = np.random.default_rng(0).permutation(n_down * n_across)[:_MOST_TILES]
    n_pixels, n_cells, to_decode, to_measure = 0, 0.0, 0.0, 0.0
    best: tuple[Slide, np.ndarray, Cells] | None = None
    for n_read, number in enumerate(numbers.tolist()):
        if n_read >= _ENOUGH_TILES and n_cells >= _ENOUGH_CELLS:
            break
        row, column = divmod(number, n_across)
        window = (
            slice(row * tile_px[0], min((row + 1) * tile_px[0], slide.shape_px[0])),
            slice(column * tile_px[1], min((column + 1) * tile_px[1], slide.shape_px[1])),
        )
        (image, labels), seconds = _timed(partial(_decode, slide, mask, window))
        tile = replace(slide, image=image, pyramid=(), tile_px=labels.shape, path=None)
        n_pixels, to_decode = n_pixels + labels.size, to_decode + seconds
        try:
            cells, seconds = _timed(partial(measure_cells, tile, labels, min_area_um2=0, workers=1))
        except InputError:  # no cell
            continue
        to_measure += seconds
        cut_off = cells.table["at_border"].to_numpy()
        n_cells += cut_off.sum() / 2 + (~cut_off & (cells.table["area_um2"] >= min_area_um2)).sum()
        if best is None or len(cells) > len(best[2]):
            best = tile, labels, cells
    if best is None:
        msg = (
            f"none of the {len(numbers)} tiles of slide {slide.name!r} that were tried holds a cell, so the cost "
            "cannot be estimated."
        )
        raise InputError(msg, "Check the mask with `mxsplicer check`.")
    return _Trial(n_pixels, n_cells, to_decode, to_measure, *_cut_and_pack(*best, geometry.patch_px))


def _cut_and_pack(tile: Slide, labels: np.ndarray, cells: Cells, patch_px: int) -> tuple[float, float, float]:
    geometry = PatchGeometry(tile.shape_px, reading_tile(tile.tile_px, tile.shape_px), patch_px)
    columns = (cells.table[column].to_numpy() for column in ("x_px", "y_px", "cell_id"))
    cutter, _ = prepare_cutter(tile, labels, *columns, geometry=geometry)
    (_, patches, regions), to_cut = _timed(lambda: next(cutter.cut_all([0], 0)))
    shards = ShardWriter.of(Path(), patches[0].nbytes, cutter.block_size, 0)
    packed, to_pack = _timed(lambda: shards.size_of(patches, regions))
    return to_cut / len(patches), to_pack / len(patches), min(1.0, packed / (patches.nbytes + regions.nbytes))


def _decode(slide: Slide, mask: LazyImage, window: tuple[slice, slice]) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(slide.image[:, *window]), np.asarray(mask[window])


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    began = time.perf_counter()
    result = work()
    return result, time.perf_counter() - began


def format_seconds(seconds: Mapping[str, float], dominated_by: str) -> list[str]:
    """Return the lines of an extraction's plan with its time, in total and by stage."""
    return [
        f"time    about {format_duration(sum(seconds.values()))}, mostly {dominated_by}",
        *[f"  {stage:<22}{format_duration(each):>12}" for stage, each in seconds.items()],
    ]


@dataclass(frozen=True)
class WorkerPlan:
    """The plan of an extraction's workers: how many cut at a time, and how much memory each may use in a budget."""

    executor: str  # "threads", "processes" or the address of a dask scheduler
    n_workers: int
    cache_bytes: int  # for the tiles of the one reader of threads, or of each process or dask task
    n_ahead: int  # blocks that may wait until the caller asks for them
    peak_bytes: int  # what this process and the workers it starts allocate


def plan_extraction_workers(
    cutter: Cutter, budget: Budget, *, workers: int | None = None, executor: str = "threads", streams: bool = False
) -> WorkerPlan:
    """Plan the workers of an extraction: as many as are wanted and fit into the budget.

    Parameters
    ----------
    workers
        Number wanted; None for the number of processors, at most 4.
    executor
        Kind of worker.
    streams
        Whether blocks are returned to the caller rather than written by the workers.

    Raises
    ------
    InputError
        If not even one worker fits, or the kind is unknown.
    """
    on_cluster = is_cluster(executor)
    if executor not in ("threads", "processes") and not on_cluster:
        msg = f"{executor!r} is not a kind of worker."
        raise InputError(msg, "Set `executor` to threads, processes, or the address of a dask scheduler.")
    n_workers = workers or default_workers()
    each = int(cutter.block_bytes * _OF_BLOCK) + 2 * cutter.tile_bytes + (0 if executor == "threads" else _OF_PROCESS)
    outside = 0  # bytes held outside the workers
    if on_cluster:  # on other machines: the limit is that of each task
        budget = Budget(budget.total)
    elif streams:  # the caller holds a block, the next one, and what it makes of them
        budget = Budget(budget.total, budget.taken + budget.batches)
        outside = 2 * cutter.block_bytes
    budget.require(each + outside, f"a block of {min(cutter.block_size, len(cutter.tops)):,} patches with its tiles")
    n_here = 1 if on_cluster else min(n_workers, (budget.free - outside) // each)
    if n_here < n_workers and not on_cluster:
        logger.info("%d of %d workers fit into %s of memory.", n_here, n_workers, format_bytes(budget.total))
        n_workers = n_here
    spare = budget.free - outside - n_here * each
    # Finished blocks wait, one per worker. Without memory for that, blocks are cut only when they are asked for.
    n_ahead = min(n_workers, spare // cutter.block_bytes) if streams else n_workers
    spare -= n_ahead * cutter.block_bytes if streams else 0
    n_readers = n_here if executor == "processes" else 1
    cache = min(_MAX_CACHE, spare // n_readers)
    peak = 0 if on_cluster else budget.free - spare + cache * n_readers
    return WorkerPlan(executor, n_workers, cache, n_ahead, peak)
