"""Stitch cells that were found tile by tile into one mask; after an interruption, continue with the next tile."""

import json
import logging
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from mxsplicer.images.ngff import create_labels, finish_labels, open_finest_labels
from mxsplicer.images.tiles import TileGrid, Window, expand_window
from mxsplicer.masks.geojson import Polygons, outlines_at
from mxsplicer.system.files import atomic_write, partial_path, remove_partial, replace, write_json
from mxsplicer.system.progress import track
from mxsplicer.system.workers import map_in_order

logger = logging.getLogger(__name__)

Found = tuple[np.ndarray, np.ndarray, np.ndarray]  # of a tile: cells, nuclei, which labels are the tile's own

_PROVISIONAL = np.uint32(1 << 31)  # added to numbers that are assigned in the order of tiles
_DONE, _MADE_FROM = "done", "made_from.json"


class UnfinishedMasks:
    """The masks of cells, and optionally nuclei, into which tiles are stitched, under temporary names.

    Cells are numbered as tiles arrive, and finally by their first pixels. Until then numbers carry the highest bit, so
    that each step can be repeated after an interruption. The first pixels of the cells of each tile are stored next to
    the mask; the file also marks the tile as done.

    Parameters
    ----------
    paths
        Final folders of the masks: of the cells, and of the nuclei.
    grid
        The tiles, in their order.
    halo_px
        Margin of its surroundings that each tile is segmented with.
    made_from
        What decides the mask, as JSON holds it. An unfinished mask made from the same is continued; with None, a new
        one is started.
    """

    def __init__(self, paths: Sequence[Path], grid: TileGrid, halo_px: int, made_from: dict[str, Any] | None) -> None:
        self._paths, self._grid, self._halo_px = paths, grid, halo_px
        self._journal = partial_path(paths[0]) / _DONE
        self._firsts: list[np.ndarray] = []
        if made_from is not None and self._read_made_from() == made_from:
            self._masks = [open_finest_labels(partial_path(one), mode="r+") for one in paths]
            self._firsts = [np.load(one) for one in sorted(self._journal.glob("*.npy"))]
            for path in paths:
                remove_partial(partial_path(path))  # what zarr was writing
            logger.info("%s: continuing after %d of %d tiles", paths[0], len(self._firsts), len(grid))
            return
        self._masks = [create_labels(partial_path(one), grid.shape_px) for one in paths]
        self._journal.mkdir()
        if made_from is not None:
            write_json(self._journal / _MADE_FROM, made_from)

    def tiles_left(self) -> list[Window]:
        """Return the tiles that are not done, in their order."""
        return [self._grid[number] for number in range(len(self._firsts), len(self._grid))]

    def fill(self, found: Iterable[Found]) -> int:
        """Write the cells of the remaining tiles, and return the number of all cells."""
        n_cells = sum(map(len, self._firsts))
        n_done = len(self._firsts)
        tracked = track(found, "Segmenting", total=len(self._grid), start=n_done)
        for number, (cells, nuclei, owned) in enumerate(tracked, start=n_done):
            window = expand_window(self._grid[number], self._halo_px, self._grid.shape_px)
            first = _write(self._masks, cells, nuclei if len(self._masks) > 1 else None, owned, window, n_cells)
            n_cells += len(first)
            self._firsts.append(first)
            with atomic_write(self._journal / f"{number:09d}.npy") as temporary, temporary.open("wb") as stream:
                np.save(stream, first)
        return n_cells

    def discard(self) -> None:
        """Remove the unfinished masks."""
        for one in self._paths:
            shutil.rmtree(partial_path(one))

    def finish(self, *, pixel_size_um: float, about: Callable[[np.ndarray], dict[str, Any]], workers: int) -> None:
        """Renumber the cells, write coarser levels, and rename the masks to their final names.

        ``about`` returns the attributes of the masks, from the coarsest level of the first.
        """
        _number_by_place(self._masks, np.concatenate(self._firsts))
        about = _once(about)
        for one in self._paths:
            finish_labels(partial_path(one), pixel_size_um=pixel_size_um, about=about, workers=workers)
        shutil.rmtree(self._journal)
        for one in reversed(self._paths):  # the cells last: if they exist, the nuclei do too
            replace(partial_path(one), one)

    def _read_made_from(self) -> Any:
        try:
            return json.loads((self._journal / _MADE_FROM).read_bytes())
        except (OSError, ValueError):
            return None


def _once(about: Callable[[np.ndarray], dict[str, Any]]) -> Callable[[np.ndarray], dict[str, Any]]:
    found: list[dict[str, Any]] = []

    def remembered(coarse: np.ndarray) -> dict[str, Any]:
        found.extend([] if found else [about(coarse)])
        return found[0]

    return remembered


def _number_by_place(masks: Sequence[zarr.Array], first_px: np.ndarray) -> None:
    """Renumber stitched cells 1, 2, ... by their first pixel, so that numbers do not depend on the tiles."""
    numbers = np.empty(len(first_px), dtype=np.uint32)
    numbers[np.argsort(first_px)] = np.arange(1, len(first_px) + 1)

    def renumber(window: Window) -> None:
        for mask in masks:
            labels = np.asarray(mask[window])
            provisional = labels > _PROVISIONAL  # others were renumbered before an interruption
            if provisional.any():
                labels[provisional] = numbers[labels[provisional] - _PROVISIONAL - 1]
                mask[window] = labels

    (height, width), (down, across) = masks[0].shape, masks[0].chunks
    chunks = TileGrid((height, width), (down, across))
    for _ in track(map_in_order(renumber, chunks, 1), "Numbering cells", total=len(chunks)):
        pass


def _write(
    masks: Sequence[zarr.Array],
    cells: np.ndarray,
    nuclei: np.ndarray | None,
    owned: np.ndarray,
    window: Window,
    n_before: int,
) -> np.ndarray:
    """Stitch the cells of a tile to pixels that no other tile has written, numbered from ``n_before`` + 1.

    Returns
    -------
    The index of the first pixel of each cell in the flattened slide.
    """
    mask = masks[0]
    last = _PROVISIONAL + np.uint32(n_before)
    there = np.asarray(mask[window])
    there = np.where(there > last, 0, there)  # written by this tile before an interruption
    n = np.bincount(cells.ravel(), minlength=len(owned))
    free = np.bincount(cells[there == 0], minlength=len(owned))
    owned = owned & (2 * free > n)  # others were also found, slightly differently, by a neighbouring tile
    numbers = np.zeros(len(owned), dtype=np.uint32)
    numbers[owned] = last + np.arange(1, owned.sum() + 1, dtype=np.uint32)
    own = np.where(there == 0, numbers[cells], 0)
    ys, xs = np.nonzero(own)
    if not len(ys):
        return np.empty(0, dtype=np.int64)
    box = (slice(int(ys[0]), int(ys[-1]) + 1), slice(int(xs.min()), int(xs.max()) + 1))
    top, left = window[0].start, window[1].start
    on_slide = (slice(top + box[0].start, top + box[0].stop), slice(left + box[1].start, left + box[1].stop))
    mask[on_slide] = np.where(own[box] > 0, own[box], there[box])
    if nuclei is not None:
        of_cells = (own[box] > 0) & (nuclei[box] == cells[box])
        masks[1][on_slide] = np.where(of_cells, own[box], np.asarray(masks[1][on_slide]))
    _, first = np.unique(own[ys, xs], return_index=True)
    places: np.ndarray = (ys[first] + top) * mask.shape[1] + xs[first] + left
    return places


def owned_labels(nuclei: np.ndarray, core: Window, window: Window, outlines: Polygons | None) -> np.ndarray:
    """Return which labels of a tile are stitched: the centroid lies in its core and, if outlines are given, in one."""
    points = np.nonzero(nuclei)
    labels = nuclei[points]
    n = np.bincount(labels, minlength=1)
    centroid = [
        np.bincount(labels, weights=points[axis], minlength=1) / np.maximum(n, 1) + window[axis].start
        for axis in (0, 1)
    ]
    owned = n > 0
    for at, side in zip(centroid, core, strict=True):
        owned &= (at >= side.start - 0.5) & (at < side.stop - 0.5)  # pixel centres are whole numbers
    if outlines is not None:
        owned[owned] = outlines_at(outlines, centroid[1][owned], centroid[0][owned]) > 0
    return owned
