"""Cells become patches: cut from the slide block by block, into a store or as a stream of the same blocks."""

import hashlib
import logging
import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from mxsplicer.errors import InputError
from mxsplicer.patches.blocks import (
    Tile,
    TileReader,
    choose_block_size,
    choose_tile,
    find_tiles,
    order_cells,
    spread_sample,
)
from mxsplicer.patches.store import OTHER_CELL, Block, PatchStore, PatchWriter
from mxsplicer.progress import track
from mxsplicer.slides.cells import Cells, measure_cells
from mxsplicer.slides.slide import LazyImage, Slide, check_mask, fingerprint

logger = logging.getLogger(__name__)
T = TypeVar("T")

_TILES_BYTES = 512 << 20  # of decoded tiles kept for blocks to come
_MAX_WORKERS = 4  # each holds about two blocks in memory


def extract_patches(
    slide: Slide,
    mask: LazyImage,
    path: str | Path,
    *,
    patch_size_um: float = 32.0,
    cells: Cells | None = None,
    max_cells: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    overwrite: bool = False,
) -> PatchStore:
    """Cut a square patch around every cell of a slide and write them to a zarr store.

    A patch is centred on the centroid of its cell; pixels beyond the slide are 0. Intensities are stored as they
    were read. The slide is read a tile at a time, so memory does not grow with the slide. Interrupted, the same call
    goes on where it was; the store is the same byte for byte, for any number of workers.

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
    cells
        The cells to cut, as :func:`~mxsplicer.slides.cells.measure_cells` returns them; all of the mask where None.
    max_cells
        Cut at most this many, a random sample spread evenly over the tissue.
    seed
        Of that sample.
    workers
        Threads; as many as there are processors, at most 4, where None. Each holds about two blocks (up to 256 MiB).
    overwrite
        Replace a store of this name.

    Returns
    -------
    The opened store. ``patches`` is (N, C, P, P) in the slide's dtype; row ``i`` of ``cells`` describes patch ``i``.

    Raises
    ------
    InputError
        If the mask differs in height or width from the slide, a patch is larger than the slide, the path exists, an
        unfinished store of that name was made from something else, or the disk is too small.

    Examples
    --------
    >>> from mxsplicer.testing import tiny_slide
    >>> slide, mask = tiny_slide()
    >>> folder = getfixture("tmp_path")
    >>> extract_patches(slide, mask, folder / "tiny.zarr", patch_size_um=16).patches.shape
    (2, 3, 32, 32)
    """
    check_mask(mask, slide)
    patch_px = choose_patch_px(slide, patch_size_um)
    cells = measure_cells(slide, mask) if cells is None else cells
    chosen = _in_block_order(cells, max_cells, seed)
    cutter = _Cutter(slide, mask, chosen, patch_px)
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
        "cells": _digest_of(chosen),
        "n_cells": len(chosen),
        "block_size": cutter.block_size,
        "seed": None if len(chosen) == len(cells) else seed,
    }
    writer = PatchWriter(
        path,
        header={**described, "ledger": chosen.ledger, "made_from": made_from},
        cells=cutter.table,
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
    written = cutter.run(sorted(set(range(cutter.n_blocks)) - set(done)), writer.write, workers)
    for _ in track(written, "Cutting patches", total=cutter.n_blocks, start=len(done)):
        pass
    return writer.finish()


def stream_blocks(
    slide: Slide, mask: LazyImage, cells: Cells, *, patch_size_um: float = 32.0, workers: int | None = None
) -> Iterator[Block]:
    """Cut the patches of a slide's cells and hand them out block by block, without writing anything.

    The blocks are those that :func:`extract_patches` writes, with the same bytes, in the same order. ``block.rows``
    are places in block order; ``block.cells["cell_id"]`` says which cell is meant. A few blocks are cut ahead, so
    memory does not grow with the slide.

    Examples
    --------
    >>> from mxsplicer.slides.cells import measure_cells
    >>> from mxsplicer.testing import tiny_slide
    >>> slide, mask = tiny_slide()
    >>> for block in stream_blocks(slide, mask, measure_cells(slide, mask), patch_size_um=16):
    ...     print(block.number, block.patches.shape)
    0 (2, 3, 32, 32)
    """
    check_mask(mask, slide)
    cutter = _Cutter(slide, mask, _in_block_order(cells, None, 0), choose_patch_px(slide, patch_size_um))
    yield from track(
        cutter.run(range(cutter.n_blocks), lambda block: block, workers), "Cutting patches", total=cutter.n_blocks
    )


def choose_patch_px(slide: Slide, patch_size_um: float) -> int:
    """Return the side of a patch in pixels, an even number, or raise where it does not fit on the slide."""
    if not 0 < patch_size_um < math.inf:
        msg = f"a patch of {patch_size_um} µm cannot be cut; --patch-size-um is the side of a patch, more than 0."
        raise InputError(msg)
    patch_px = 2 * max(1, math.floor(patch_size_um / slide.pixel_size_um / 2 + 0.5))
    height, width = slide.shape_px
    if patch_px > min(height, width):
        pixel = slide.pixel_size_um
        msg = (
            f"a patch of {patch_size_um:g} µm ({patch_px} pixels) does not fit on slide {slide.name!r}, "
            f"{height * pixel:g} x {width * pixel:g} µm ({height} x {width} pixels of {pixel:g} µm, "
            f"{slide.pixel_size_from}). Lower --patch-size-um, or correct --pixel-size-um."
        )
        raise InputError(msg)
    return patch_px


def _in_block_order(cells: Cells, max_cells: int | None, seed: int) -> Cells:
    if max_cells is not None and max_cells < 1:
        msg = f"{max_cells} cells cannot be cut; --cells is at least 1."
        raise InputError(msg)
    order = order_cells(cells.table["x_px"].to_numpy(), cells.table["y_px"].to_numpy())
    if max_cells is not None and max_cells < len(order):
        order = order[spread_sample(len(order), max_cells, seed=seed)]
    return cells.take(order)


class _Cutter:
    """Cuts the blocks of one slide; several threads may ask for blocks at a time."""

    def __init__(self, slide: Slide, mask: LazyImage, cells: Cells, patch_px: int) -> None:
        self._slide, self._mask, self._patch_px = slide, mask, patch_px
        self._intensities = cells.intensities
        self._cell_ids = cells.table["cell_id"].to_numpy()
        # Pixel (P // 2, P // 2) of a patch is the pixel that holds the centroid.
        self._tops, self._lefts = (
            np.floor(cells.table[along].to_numpy() + 0.5).astype(np.int64) - patch_px // 2 for along in ("y_px", "x_px")
        )
        self._tile_px = choose_tile(slide.tile_px, slide.shape_px)
        self.dtype = slide.image.dtype.newbyteorder("=")
        self.patch_shape = (len(slide.markers), patch_px, patch_px)
        self.block_size = choose_block_size(math.prod(self.patch_shape) * self.dtype.itemsize)
        self.n_blocks = -(-len(cells) // self.block_size)
        height, width = (
            np.minimum(first + patch_px, whole) - np.maximum(first, 0)
            for first, whole in zip((self._tops, self._lefts), slide.shape_px, strict=True)
        )
        self.table = cells.table.assign(
            block=np.arange(len(cells)) // self.block_size, patch_valid_fraction=height * width / patch_px**2
        )

    def run(self, blocks: Sequence[int], use: Callable[[Block], T], workers: int | None) -> Iterator[T]:
        """Yield ``use(block)`` of each of ``blocks``, in order; both the cutting and ``use`` run in the workers."""
        n_workers = workers or min(_MAX_WORKERS, os.cpu_count() or 1)
        tiles = {block: self._tiles_of(block) for block in blocks}
        reader = TileReader([self._slide.image, self._mask], tile_px=self._tile_px, plan=tiles, max_bytes=_TILES_BYTES)
        pool = ThreadPoolExecutor(n_workers, thread_name_prefix="patches")
        ahead: deque[Future[T]] = deque()
        try:
            for block in blocks:
                ahead.append(pool.submit(lambda number: use(self._cut(number, tiles.pop(number), reader)), block))
                if len(ahead) > n_workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
        logger.debug("%d tiles decoded %d times.", reader.n_tiles, reader.n_decoded)

    def cut_one(self, number: int) -> Block:
        """Return one block."""
        return next(iter(self.run([number], lambda block: block, 1)))

    def _rows(self, number: int) -> slice:
        return slice(number * self.block_size, min((number + 1) * self.block_size, len(self.table)))

    def _tiles_of(self, number: int) -> dict[Tile, np.ndarray]:
        rows = self._rows(number)
        return find_tiles(
            self._tops[rows],
            self._lefts[rows],
            patch_px=self._patch_px,
            shape_px=self._slide.shape_px,
            tile_px=self._tile_px,
        )

    def _cut(self, number: int, tiles: dict[Tile, np.ndarray], reader: TileReader) -> Block:
        rows = self._rows(number)
        n = rows.stop - rows.start
        patches = np.zeros((n, *self.patch_shape), self.dtype)
        regions = np.zeros((n, *self.patch_shape[1:]), np.uint8)
        tops, lefts, cell_ids = self._tops[rows].tolist(), self._lefts[rows].tolist(), self._cell_ids[rows]
        for tile, touching in tiles.items():
            image, labels = reader.read(tile, block=number)  # (C, y, x), (y, x)
            tile_top, tile_left = tile[0] * self._tile_px[0], tile[1] * self._tile_px[1]
            for cell in touching.tolist():
                y_here, y_there = _overlap(tops[cell], self._patch_px, tile_top, labels.shape[0])
                x_here, x_there = _overlap(lefts[cell], self._patch_px, tile_left, labels.shape[1])
                patches[cell, :, y_here, x_here] = image[:, y_there, x_there]
                ids = labels[y_there, x_there]
                # OTHER_CELL for any cell, less 1 where it is this one.
                regions[cell, y_here, x_here] = (ids != 0) * np.uint8(OTHER_CELL) - (ids == cell_ids[cell])
        return Block(
            number=number,
            rows=np.arange(rows.start, rows.stop),
            cells=self.table[rows],
            intensities=self._intensities[rows],
            patches=patches,
            regions=regions,
        )


def _overlap(first: int, length: int, tile_first: int, tile_length: int) -> tuple[slice, slice]:
    """Return where a window and a tile meet, along one axis: in the window, and in the tile."""
    start, stop = max(first, tile_first), min(first + length, tile_first + tile_length)
    return slice(start - first, stop - first), slice(start - tile_first, stop - tile_first)


def _digest_of(cells: Cells) -> str:
    # Mean intensities tell images apart, ids and shapes tell masks apart.
    digest = hashlib.blake2b(cells.intensities.tobytes(), digest_size=8)
    for column in cells.table.columns:
        digest.update(np.ascontiguousarray(cells.table[column].to_numpy()).tobytes())
    return digest.hexdigest()


def _check_space(writer: PatchWriter, cutter: _Cutter) -> None:
    free = writer.free_bytes()
    if writer.raw_bytes <= free:
        return
    needed = writer.estimate_bytes(cutter.cut_one(cutter.n_blocks // 2))
    if needed > free:
        msg = (
            f"the patches of {len(cutter.table)} cells need about {needed / 1e9:.3g} GB and the disk of "
            f"{writer.path} has {free / 1e9:.3g} GB. Choose another disk, fewer cells (--cells) or smaller patches "
            "(--patch-size-um)."
        )
        raise InputError(msg)
