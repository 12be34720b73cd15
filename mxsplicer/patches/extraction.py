"""Cells become patches: cut from the slide block by block, into a store or as a stream of the same blocks."""

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mxsplicer.cells.measure import Cells, measure_cells
from mxsplicer.errors import InputError
from mxsplicer.images.slide import LazyImage, Slide, check_mask
from mxsplicer.patches.blocks import choose_patch_px
from mxsplicer.patches.cutting import Cutter, prepare_cutter
from mxsplicer.patches.sampling import choose_ids, choose_sample
from mxsplicer.patches.store import Block, PatchStore, PatchWriter, ShardWriter
from mxsplicer.patches.workers import cut_blocks, plan_workers
from mxsplicer.system.fingerprints import fingerprint
from mxsplicer.system.memory import Budget
from mxsplicer.system.progress import track

logger = logging.getLogger(__name__)


def extract_patches(
    slide: Slide,
    mask: LazyImage,
    path: str | Path,
    *,
    patch_size_um: float = 32.0,
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
    were read. The slide is read a tile at a time, so memory does not grow with the slide. Interrupted, the same call
    goes on where it was; the store is the same byte for byte, for any number and kind of workers.

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
        Label image (Y, X) of the nuclei, each with the value of its cell; the store then knows where they are.
    cells
        The cells to cut, as :func:`~mxsplicer.cells.measure.measure_cells` returns them; all of the mask where None.
    max_cells
        Cut at most this many: a sample spread evenly over the tissue in which rare bright cells of every marker have
        their place; :func:`~mxsplicer.patches.sampling.choose_sample` says how.
    cell_ids
        Cut these only, by the mask's values.
    seed
        Of that sample.
    workers
        How many; as many as there are processors, at most 4, where None, and fewer where ``max_bytes`` asks for it.
    max_bytes
        Most memory that this process and the worker processes it starts may hold; 4 GiB on top of what is held where
        None. On a dask cluster: that one task may hold.
    executor
        What the workers are: "threads", "processes", or the address of a dask scheduler, "tcp://...". The cluster must
        see the slide, the mask and ``path`` under the same names. A worker that dies costs what it had in hand.
    overwrite
        Replace a store of this name.

    Returns
    -------
    The opened store. ``patches`` is (N, C, P, P) in the slide's dtype; row ``i`` of ``cells`` describes patch ``i``.

    Raises
    ------
    InputError
        If the mask differs in height or width from the slide, a patch is larger than the slide, the path exists, an
        unfinished store of that name was made from something else, the disk or ``max_bytes`` is too small, or
        ``cell_ids`` names cells that there are not.

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
    patch_px = choose_patch_px(slide, patch_size_um)
    measured = measure_cells(slide, mask, max_bytes=max_bytes) if cells is None else cells
    listed = measured if cell_ids is None else choose_ids(measured, cell_ids)
    sampled = choose_sample(listed, max_cells, seed=seed)
    chosen, cutter, table = _prepared(slide, mask, nuclei, sampled, patch_px)
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
        "cells": chosen.fingerprint(),
        "n_cells": len(chosen),
        "block_size": cutter.block_size,
        "seed": None if len(chosen) == len(listed) else seed,
        **({} if nuclei is None else {"nuclei": True}),
    }
    plan = plan_workers(cutter, Budget.of(max_bytes), workers=workers, executor=executor)
    writer = PatchWriter(
        path,
        header={**described, "ledger": chosen.ledger, "made_from": made_from},
        cells=table,
        intensities=chosen.intensities,
        patch_px=patch_px,
        dtype=cutter.dtype,
        block_size=cutter.block_size,
        overwrite=overwrite,
    )
    _check_space(writer, cutter)
    done = writer.begin()
    if done:
        logger.info("%s: going on after %d of %d blocks.", path, len(done), cutter.n_blocks)
    left = sorted(set(range(cutter.n_blocks)) - set(done))
    written = cut_blocks(cutter, left, _Write(writer.shards), plan, in_order=False)
    for _ in track(written, "Cutting patches", total=cutter.n_blocks, start=len(done)):
        pass
    missing = cutter.n_blocks - len(writer.written())
    if missing:
        msg = (
            f"{missing} of {cutter.n_blocks} blocks that the workers at {executor} wrote are not in {writer.partial}: "
            "they see another disk. Choose a folder that all machines share, under the same name."
        )
        raise InputError(msg)
    return writer.finish()


def stream_blocks(
    slide: Slide,
    mask: LazyImage,
    cells: Cells,
    *,
    patch_size_um: float = 32.0,
    skip: Collection[int] = (),
    workers: int | None = None,
    max_bytes: int | None = None,
    executor: str = "threads",
) -> Iterator[Block]:
    """Cut the patches of a slide's cells and hand them out block by block, without writing anything.

    The blocks are those that :func:`extract_patches` writes, with the same bytes, in the same order. ``block.rows``
    are places in block order; ``block.cells["cell_id"]`` says which cell is meant. A few blocks are cut ahead, so
    memory does not grow with the slide. Threads share what they decode; with processes or a dask cluster, which
    ``executor`` may ask for, each block decodes its own tiles and is sent here, which is worth it only where decoding
    is very slow. Blocks whose numbers are in ``skip`` are left out, and nothing is read for them.

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
    patch_px = choose_patch_px(slide, patch_size_um)
    cutter, order = prepare_cutter(slide, mask, x_px, y_px, cell_ids, patch_px=patch_px)
    plan = plan_workers(cutter, Budget.of(max_bytes), workers=workers, executor=executor, streams=True)
    numbers = [number for number in range(cutter.n_blocks) if number not in skip]
    cut = cut_blocks(cutter, numbers, _Keep(), plan, in_order=True)
    done = cutter.n_blocks - len(numbers)
    tracked = track(cut, "Cutting patches", total=cutter.n_blocks, start=done)
    for number, (patches, regions) in zip(numbers, tracked, strict=True):
        rows = cutter.rows(number)
        chosen = order[rows]  # the table of all cells is not copied: of millions it is half a gigabyte
        yield Block(
            number=number,
            rows=np.arange(rows.start, rows.stop),
            cells=_described(cells.table.iloc[chosen], slide, cutter, rows, patch_px).set_axis(
                range(rows.start, rows.stop)
            ),
            intensities=cells.intensities[chosen],
            patches=patches,
            regions=regions,
        )


@dataclass(frozen=True)
class _Write:
    """Blocks go into a store."""

    shards: ShardWriter

    def __call__(self, number: int, patches: np.ndarray, regions: np.ndarray) -> None:
        self.shards.write(number, patches, regions)

    def is_done(self, number: int) -> bool:
        return self.shards.has(number)


@dataclass(frozen=True)
class _Keep:
    """Blocks are handed on."""

    def __call__(self, _number: int, patches: np.ndarray, regions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return patches, regions

    def is_done(self, _number: int) -> bool:
        return False


def _prepared(
    slide: Slide, mask: LazyImage, nuclei: LazyImage | None, cells: Cells, patch_px: int
) -> tuple[Cells, Cutter, pd.DataFrame]:
    """Return the cells in block order, what cuts them, and the table that a store holds of them."""
    x_px, y_px, cell_ids = (cells.table[column].to_numpy() for column in ("x_px", "y_px", "cell_id"))
    cutter, order = prepare_cutter(slide, mask, x_px, y_px, cell_ids, patch_px=patch_px, nuclei=nuclei)
    chosen = cells.take(order)
    return chosen, cutter, _described(chosen.table, slide, cutter, slice(0, len(chosen)), patch_px)


def _described(table: pd.DataFrame, slide: Slide, cutter: Cutter, rows: slice, patch_px: int) -> pd.DataFrame:
    """Return some rows of the table of cells, in block order, with what a store tells of them."""
    height, width = (
        np.minimum(first[rows] + patch_px, whole) - np.maximum(first[rows], 0)
        for first, whole in zip((cutter.tops, cutter.lefts), slide.shape_px, strict=True)
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
            f"the patches of {len(cutter.tops)} cells need about {needed / 1e9:.3g} GB and the disk of "
            f"{writer.path} has {free / 1e9:.3g} GB. Choose another disk, fewer cells (--cells) or smaller patches "
            "(--patch-size-um)."
        )
        raise InputError(msg)
