"""Extract the patches of cells from a slide, block by block, into a store or as a stream of the same blocks."""

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mxsplicer.cells.measure import Cells, measure_cells
from mxsplicer.cells.selection import choose_ids
from mxsplicer.errors import InputError
from mxsplicer.images.lazy_images import LazyImage
from mxsplicer.images.slide import Slide
from mxsplicer.masks.files import check_mask
from mxsplicer.patches import PATCH_SIZE_UM
from mxsplicer.patches.blocks import Block, PatchGeometry
from mxsplicer.patches.cutting import Cutter, prepare_cutter
from mxsplicer.patches.sampling import choose_sample
from mxsplicer.patches.shards import ShardWriter
from mxsplicer.patches.store import PatchStore, PatchWriter
from mxsplicer.patches.workers import WorkerPlan, cut_blocks, plan_workers
from mxsplicer.system.fingerprints import fingerprint
from mxsplicer.system.memory import Budget
from mxsplicer.system.progress import track

logger = logging.getLogger(__name__)


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
    for labels in (mask, nuclei):
        if labels is not None:
            check_mask(labels, slide)
    geometry = PatchGeometry.of(slide, patch_size_um)
    measured = measure_cells(slide, mask, max_bytes=max_bytes) if cells is None else cells
    listed = measured if cell_ids is None else choose_ids(measured, cell_ids)
    sampled = choose_sample(listed, max_cells, seed=seed)
    chosen, cutter, table = _prepare(slide, mask, nuclei, sampled, geometry)
    plan = plan_workers(cutter, Budget.of(max_bytes), workers=workers, executor=executor)
    seed_used = None if len(chosen) == len(listed) else seed
    writer = PatchWriter(
        path,
        header=_header_of(slide, cutter, chosen, patch_size_um, seed_used),
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
    """Cut the patches of a slide's cells and yield them block by block, without writing anything.

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
    check_mask(mask, slide)
    x_px, y_px, cell_ids = (cells.table[column].to_numpy() for column in ("x_px", "y_px", "cell_id"))
    geometry = PatchGeometry.of(slide, patch_size_um)
    cutter, order = prepare_cutter(slide, mask, x_px, y_px, cell_ids, geometry=geometry)
    plan = plan_workers(cutter, Budget.of(max_bytes), workers=workers, executor=executor, streams=True)
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
    """Write blocks into a store."""

    shards: ShardWriter

    def __call__(self, number: int, patches: np.ndarray, regions: np.ndarray) -> None:
        self.shards.write(number, patches, regions)

    def is_done(self, number: int) -> bool:
        return self.shards.has(number)


@dataclass(frozen=True)
class _Keep:
    """Return blocks to the caller."""

    def __call__(self, _number: int, patches: np.ndarray, regions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return patches, regions

    def is_done(self, _number: int) -> bool:
        return False


def _header_of(slide: Slide, cutter: Cutter, cells: Cells, patch_size_um: float, seed: int | None) -> dict[str, Any]:
    """Return the attributes of a store, among them the inputs and settings that it is made from."""
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
    """Cut and write the blocks that an unfinished store lacks."""
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
    """Return the cells in block order, their cutter, and the table that a store holds of them."""
    x_px, y_px, cell_ids = (cells.table[column].to_numpy() for column in ("x_px", "y_px", "cell_id"))
    cutter, order = prepare_cutter(slide, mask, x_px, y_px, cell_ids, geometry=geometry, nuclei=nuclei)
    chosen = cells.take(order)
    return chosen, cutter, _describe(chosen.table, cutter, slice(0, len(chosen)))


def _describe(table: pd.DataFrame, cutter: Cutter, rows: slice) -> pd.DataFrame:
    """Return some rows of the table of cells, in block order, with the columns that a store adds."""
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
