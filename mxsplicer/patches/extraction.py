"""Extract the patches of cells from a slide, block by block, into a store or as a stream of the same blocks.

The workers are threads of this process, processes of this machine, or a dask cluster; all make the same blocks. A
worker takes a *stretch* at a time, a run of blocks along the curve: it reads its tiles once and keeps what its blocks
share. Threads share one reader, so for them all blocks are one stretch.
"""

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import pandas as pd

from mxsplicer.cells.intensities import measure_spread
from mxsplicer.cells.measure import Cells, measure_cells
from mxsplicer.cells.selection import choose_ids
from mxsplicer.errors import InputError
from mxsplicer.images.lazy_images import LazyImage
from mxsplicer.images.slide import Slide
from mxsplicer.patches import PATCH_SIZE_UM
from mxsplicer.patches.blocks import Block
from mxsplicer.patches.cutting import Cutter, prepare_cutter
from mxsplicer.patches.extraction_plan import WorkerPlan, plan_extraction_workers
from mxsplicer.patches.geometry import PatchGeometry
from mxsplicer.patches.sampling import choose_sample
from mxsplicer.patches.shards import ShardWriter
from mxsplicer.patches.store import PatchStore, PatchWriter
from mxsplicer.system.dask_cluster import map_on_cluster
from mxsplicer.system.fingerprints import fingerprint
from mxsplicer.system.memory import Budget
from mxsplicer.system.progress import track
from mxsplicer.system.workers import map_in_order, map_in_processes

logger = logging.getLogger(__name__)

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
_MAX_STRETCH = 256  # blocks; shorter than that, so that the last worker does not keep the others waiting for long


def extract_patches(
    slide: Slide,
    mask: LazyImage,
    path: str | Path,
    *,
    patch_size_um: float = PATCH_SIZE_UM,
    nuclei: LazyImage | None = None,
    cells: Cells | None = None,
    max_cells: int | None = None,
    cell_ids: Sequence[int] | np.ndarray | None = None,
    seed: int = 0,
    workers: int | None = None,
    max_bytes: int | None = None,
    executor: str = "threads",
    overwrite: bool = False,
) -> PatchStore:
    """Cut a square patch around every cell of a slide and write them to a zarr store.

    A patch is centred on the centroid of its cell; pixels beyond the slide are 0. Intensities are stored as they
    were read. The slide is read a tile at a time, so memory does not grow with the slide. After an interruption, the
    same call continues where it stopped. The store is the same, byte for byte, for any number and kind of workers.

    Parameters
    ----------
    slide
        Image (C, Y, X) with its markers and pixel size.
    mask
        Label image (Y, X), as high and wide as the slide.
    path
        Folder to create.
    patch_size_um
        Side of a patch in micrometres, rounded to an even number of pixels.
    nuclei
        Label image (Y, X) of the nuclei, each with the value of its cell. Regions then distinguish the nucleus.
    cells
        The cells to cut, from :func:`~mxsplicer.cells.measure.measure_cells`. None for all cells of the mask.
    max_cells
        Largest number of cells to cut. A sample is spread evenly over the tissue and includes cells in which a marker
        is rare and bright; see :func:`~mxsplicer.patches.sampling.choose_sample`.
    cell_ids
        Values of the mask; only these cells are cut.
    seed
        Seed of the sample.
    workers
        Number of workers. None for the number of processors, at most 4. Fewer run if ``max_bytes`` requires it.
    max_bytes
        Most memory that this process and its worker processes may hold. None for 4 GiB more than the process holds
        now. On a dask cluster, the memory of one task.
    executor
        Kind of worker: "threads", "processes", or the address of a dask scheduler, "tcp://...". The cluster must
        see the slide, the mask and ``path`` under the same names. If a worker dies, another one repeats its blocks.
    overwrite
        Replace an existing store.

    Returns
    -------
    The opened store. ``patches`` is (N, C, P, P) in the slide's dtype; row ``i`` of ``cells`` describes patch ``i``.

    Raises
    ------
    InputError
        If the mask differs in height or width from the slide, a patch is larger than the slide, the path exists, an
        unfinished store of that name was made from something else, the disk or ``max_bytes`` is too small, or
        ``cell_ids`` lists cells that do not exist.

    Examples
    --------
    >>> from mxsplicer.testing import tiny_slide
    >>> slide, mask = tiny_slide()
    >>> folder = getfixture("tmp_path")
    >>> extract_patches(slide, mask, folder / "tiny.zarr", patch_size_um=16).patches.shape
    (2, 3, 32, 32)
    """
    geometry = PatchGeometry.of(slide, patch_size_um)
    measured = measure_cells(slide, mask, max_bytes=max_bytes) if cells is None else cells
    listed = measured if cell_ids is None else choose_ids(measured, cell_ids)
    sampled = choose_sample(listed, max_cells, seed=seed)
    chosen, cutter, table = _prepare(slide, mask, nuclei, sampled, geometry)
    plan = plan_extraction_workers(cutter, Budget.of(max_bytes), workers=workers, executor=executor)
    seed_used = None if len(chosen) == len(listed) else seed
    writer = PatchWriter(
        path,
        header={
            **_header_of(slide, cutter, chosen, patch_size_um, seed_used),
            "spread": measure_spread(measured.intensities).tolist(),
        },
        cells=table,
        intensities=chosen.intensities,
        patch_px=geometry.patch_px,
        dtype=cutter.dtype,
        block_size=cutter.block_size,
        overwrite=overwrite,
    )
    _check_space(writer, cutter)
    _write_blocks(writer, cutter, plan)
    return writer.finish()


def stream_blocks(
    slide: Slide,
    mask: LazyImage,
    cells: Cells,
    *,
    patch_size_um: float = PATCH_SIZE_UM,
    skip: Collection[int] = (),
    workers: int | None = None,
    max_bytes: int | None = None,
    executor: str = "threads",
) -> Iterator[Block]:
    """Extract the patches of a slide's cells and yield them block by block, without writing anything.

    The blocks are those that :func:`extract_patches` writes, with the same bytes, in the same order. ``block.rows``
    are positions in block order; ``block.cells["cell_id"]`` identifies the cells. Only a few blocks are cut ahead, so
    memory does not grow with the slide. Threads share the tiles they decode. With processes or a dask cluster
    (``executor``), each block decodes its own tiles and is sent to this process, which pays only if decoding is very
    slow. Blocks whose numbers are in ``skip`` are left out, and nothing is read for them.

    Examples
    --------
    >>> from mxsplicer.cells.measure import measure_cells
    >>> from mxsplicer.testing import tiny_slide
    >>> slide, mask = tiny_slide()
    >>> for block in stream_blocks(slide, mask, measure_cells(slide, mask), patch_size_um=16):
    ...     print(block.number, block.patches.shape)
    0 (2, 3, 32, 32)
    """
    x_px, y_px, cell_ids = (cells.table[column].to_numpy() for column in ("x_px", "y_px", "cell_id"))
    geometry = PatchGeometry.of(slide, patch_size_um)
    cutter, order = prepare_cutter(slide, mask, x_px, y_px, cell_ids, geometry=geometry)
    plan = plan_extraction_workers(cutter, Budget.of(max_bytes), workers=workers, executor=executor, streams=True)
    numbers = [number for number in range(cutter.n_blocks) if number not in skip]
    cut = cut_blocks(cutter, numbers, _Keep(), plan, in_order=True)
    done = cutter.n_blocks - len(numbers)
    tracked = track(cut, "Cutting patches", total=cutter.n_blocks, start=done)
    for number, (patches, regions) in zip(numbers, tracked, strict=True):
        rows = cutter.rows(number)
        chosen = order[rows]  # without a copy of the whole table, which has half a gigabyte for millions of cells
        yield Block(
            number=number,
            rows=np.arange(rows.start, rows.stop),
            cells=_describe(cells.table.iloc[chosen], cutter, rows).set_axis(range(rows.start, rows.stop)),
            intensities=cells.intensities[chosen],
            patches=patches,
            regions=regions,
        )


@dataclass(frozen=True)
class _Write:
    """Write the blocks of an extraction into a store."""

    shards: ShardWriter

    def __call__(self, number: int, patches: np.ndarray, regions: np.ndarray) -> None:
        self.shards.write(number, patches, regions)

    def is_done(self, number: int) -> bool:
        return self.shards.has(number)


@dataclass(frozen=True)
class _Keep:
    """Return the blocks of an extraction to the caller."""

    def __call__(self, _number: int, patches: np.ndarray, regions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return patches, regions

    def is_done(self, _number: int) -> bool:
        return False


def _header_of(slide: Slide, cutter: Cutter, cells: Cells, patch_size_um: float, seed: int | None) -> dict[str, Any]:
    """Return the attributes of an extracted store, among them the inputs and settings that it is made from."""
    described = {
        "slide_name": slide.name,
        "markers": list(slide.markers),
        "level": slide.level,
        "pixel_size_um": slide.pixel_size_um,
        "patch_size_um": patch_size_um,
    }
    made_from = {
        **described,
        "image": fingerprint(slide.path) if slide.path else None,
        **({"images_in_file": slide.images_in_file} if slide.images_in_file else {}),
        "cells": cells.fingerprint(),
        "n_cells": len(cells),
        "block_size": cutter.block_size,
        "seed": seed,
        **({} if cutter.nuclei is None else {"nuclei": True}),
    }
    return {**described, "ledger": cells.ledger, "made_from": made_from}


def _write_blocks(writer: PatchWriter, cutter: Cutter, plan: WorkerPlan) -> None:
    """Cut and write the blocks that an unfinished extraction lacks."""
    done = writer.begin()
    if done:
        logger.info("%s: continues after %d of %d blocks.", writer.path, len(done), cutter.n_blocks)
    left = sorted(set(range(cutter.n_blocks)) - set(done))
    written = cut_blocks(cutter, left, _Write(writer.shards), plan, in_order=False)
    for _ in track(written, "Cutting patches", total=cutter.n_blocks, start=len(done)):
        pass
    missing = cutter.n_blocks - len(writer.written())
    if missing:
        msg = (
            f"{missing} of {cutter.n_blocks} blocks that the workers at {plan.executor} wrote are not in "
            f"{writer.partial}: the workers see another disk."
        )
        raise InputError(msg, "Choose a folder that all machines share under the same name.")


def _prepare(
    slide: Slide, mask: LazyImage, nuclei: LazyImage | None, cells: Cells, geometry: PatchGeometry
) -> tuple[Cells, Cutter, pd.DataFrame]:
    """Return the cells in block order, their cutter, and the table that an extracted store holds of them."""
    x_px, y_px, cell_ids = (cells.table[column].to_numpy() for column in ("x_px", "y_px", "cell_id"))
    cutter, order = prepare_cutter(slide, mask, x_px, y_px, cell_ids, geometry=geometry, nuclei=nuclei)
    chosen = cells.take(order)
    return chosen, cutter, _describe(chosen.table, cutter, slice(0, len(chosen)))


def _describe(table: pd.DataFrame, cutter: Cutter, rows: slice) -> pd.DataFrame:
    """Return some rows of the table of cells, in block order, with the columns that an extraction adds."""
    patch_px = cutter.geometry.patch_px
    height, width = (
        np.minimum(first[rows] + patch_px, whole) - np.maximum(first[rows], 0)
        for first, whole in zip((cutter.tops, cutter.lefts), cutter.geometry.shape_px, strict=True)
    )
    block = np.arange(rows.start, rows.stop) // cutter.block_size
    return table.assign(block=block, patch_valid_fraction=height * width / patch_px**2)


def _check_space(writer: PatchWriter, cutter: Cutter) -> None:
    free = writer.free_bytes()
    if writer.raw_bytes <= free:
        return
    number = cutter.n_blocks // 2
    needed = writer.estimate_bytes(*cutter.cut(number, cutter.reader([number], 0)))
    if needed > free:
        msg = (
            f"the patches of {len(cutter.tops)} cells need about {needed / 1e9:.3g} GB, but the disk of {writer.path} "
            f"has {free / 1e9:.3g} GB left."
        )
        raise InputError(msg, "Choose another disk, fewer cells (`max_cells`) or smaller patches (`patch_size_um`).")


class BlockTask(Protocol[T_co]):
    """What a worker of an extraction does with a block that it has cut; it is pickled for other processes."""

    def __call__(self, number: int, patches: np.ndarray, regions: np.ndarray, /) -> T_co:
        """Use a block, and return what the caller gets of it."""
        ...

    def is_done(self, number: int, /) -> bool:
        """Return whether a worker that died later has used a block already."""
        ...


def cut_blocks(
    cutter: Cutter, blocks: Sequence[int], task: BlockTask[T], plan: WorkerPlan, *, in_order: bool
) -> Iterator[T]:
    """Yield ``task(number, patches, regions)`` of each block of an extraction; workers cut it and run the task.

    Parameters
    ----------
    task
        For processes and dask it must be picklable, and so must what it returns.
    in_order
        Whether results are wanted in the order of the blocks. Processes then share no tiles between blocks.
    """
    if plan.executor == "threads":
        yield from _cut_on_threads(cutter, blocks, task, plan)
        return
    size = 1 if in_order else max(1, min(_MAX_STRETCH, -(-len(blocks) // plan.n_workers)))
    stretches = [blocks[first : first + size] for first in range(0, len(blocks), size)]

    def make_job(stretch: Sequence[int]) -> _CuttingJob:
        return _CuttingJob(cutter.only(stretch[0], stretch[-1]), stretch, task, plan.cache_bytes)

    if plan.executor != "processes":
        jobs = map(make_job, stretches)
        for results in map_on_cluster(_results, jobs, plan.executor, "cutting patches", all_at_once=not in_order):
            yield from results
        return
    max_ahead = plan.n_workers if in_order else None
    results_by_number = map_in_processes(make_job, stretches, plan.n_workers, max_ahead=max_ahead)
    yield from _sorted(results_by_number, blocks) if in_order else (result for _, result in results_by_number)


def _cut_on_threads(cutter: Cutter, blocks: Sequence[int], task: BlockTask[T], plan: WorkerPlan) -> Iterator[T]:
    reader = cutter.reader(blocks, plan.cache_bytes)

    def work(number: int) -> T:
        return task(number, *cutter.cut(number, reader))

    yield from map_in_order(work, blocks, plan.n_workers, n_ahead=plan.n_ahead)
    logger.debug("%d tiles decoded %d times.", len(reader.tiles), reader.n_decoded)


def _sorted(results: Iterator[tuple[int, T]], numbers: Sequence[int]) -> Iterator[T]:
    """Yield results of an extraction in the order of the blocks; those that are early wait."""
    early: dict[int, T] = {}
    wanted = iter(numbers)
    number = next(wanted, None)
    for done, result in results:
        early[done] = result
        while number in early:
            yield early.pop(number)
            number = next(wanted, None)


@dataclass(frozen=True)
class _CuttingJob:
    """A stretch of blocks of an extraction and what cuts it, for a worker in another process."""

    cutter: Cutter
    blocks: Sequence[int]
    task: BlockTask[Any]
    cache_bytes: int

    def results(self) -> Iterator[tuple[int, Any]]:
        """Yield the number and result of each block; those that a worker finished before it died are not cut again."""
        left = [number for number in self.blocks if not self.task.is_done(number)]
        yield from ((number, None) for number in self.blocks if number not in left)
        for number, patches, regions in self.cutter.cut_all(left, self.cache_bytes):
            yield number, self.task(number, patches, regions)


def _results(job: _CuttingJob) -> list[Any]:
    return [result for _, result in job.results()]
