"""Cutting: assemble the patches of a block, or of some cells, from the tiles that they overlap."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from mxsplicer.errors import InputError
from mxsplicer.images.lazy_images import LazyImage
from mxsplicer.images.slide import Slide
from mxsplicer.masks.files import check_mask
from mxsplicer.patches.blocks import choose_block_size, order_patches
from mxsplicer.patches.geometry import PatchGeometry, Piece
from mxsplicer.patches.pieces import TileReader, find_pieces
from mxsplicer.patches.store import NUCLEUS, OTHER_CELL, THIS_CELL

_CACHE_BYTES = 256 << 20  # of tiles kept between the blocks of single cells


@dataclass(frozen=True, eq=False)
class Cutter:
    """Cut the blocks of one slide. Several threads may use a cutter at a time; other processes get copies of it."""

    image: LazyImage  # (C, Y, X)
    mask: LazyImage  # (Y, X)
    geometry: PatchGeometry
    tops: np.ndarray  # (n,) first row of each patch, in pixels; may lie beyond the slide
    lefts: np.ndarray
    cell_ids: np.ndarray  # (n,) values of the mask
    block_size: int
    first_block: int = 0  # number of the block that the first cell belongs to
    nuclei: LazyImage | None = None  # (Y, X), with the values of their cells

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the patches: the image's, in the byte order of this machine."""
        return np.dtype(self.image.dtype).newbyteorder("=")

    @property
    def patch_shape(self) -> tuple[int, int, int]:
        """Shape of a patch, (C, P, P)."""
        return (self.image.shape[0], self.geometry.patch_px, self.geometry.patch_px)

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return -(-len(self.tops) // self.block_size)

    @property
    def block_bytes(self) -> int:
        """Bytes of the patches and regions of a block."""
        return min(self.block_size, len(self.tops)) * self.pixel_bytes * self.geometry.patch_px**2

    @property
    def tile_bytes(self) -> int:
        """Bytes of a decoded tile, image and masks."""
        labels = sum(mask.dtype.itemsize for mask in self._masks)
        return self.geometry.tile_px[0] * self.geometry.tile_px[1] * (self.pixel_bytes - 1 + labels)

    @property
    def _masks(self) -> list[LazyImage]:
        return [self.mask] if self.nuclei is None else [self.mask, self.nuclei]

    @property
    def pixel_bytes(self) -> int:
        """Bytes of a pixel of a block, all channels and the region."""
        return int(self.image.shape[0]) * self.dtype.itemsize + 1

    def rows(self, number: int) -> slice:
        """Return the rows of the cells of a block."""
        first = (number - self.first_block) * self.block_size
        return slice(first, min(first + self.block_size, len(self.tops)))

    def only(self, first_block: int, last_block: int) -> "Cutter":
        """Return a cutter for consecutive blocks only, which is smaller when it is pickled."""
        cells = slice(self.rows(first_block).start, self.rows(last_block).stop)
        return replace(
            self,
            tops=self.tops[cells],
            lefts=self.lefts[cells],
            cell_ids=self.cell_ids[cells],
            first_block=first_block,
        )

    def pieces(self, number: int) -> dict[Piece, np.ndarray]:
        """Return the pieces of tiles that a block reads, each with the indices of its cells in the block."""
        rows = self.rows(number)
        return find_pieces(self.tops[rows], self.lefts[rows], self.geometry)

    def reader(self, numbers: Sequence[int], cache_bytes: int) -> TileReader:
        """Return a reader for blocks that are cut roughly in this order; it keeps ``cache_bytes`` at most."""
        plan = {number: tuple(self.pieces(number)) for number in numbers}
        return TileReader([self.image, *self._masks], geometry=self.geometry, plan=plan, max_bytes=cache_bytes)

    def cut(self, number: int, reader: TileReader) -> tuple[np.ndarray, np.ndarray]:
        """Return the patches (n, C, P, P) and regions (n, P, P) of a block."""
        rows, patch_px = self.rows(number), self.geometry.patch_px
        n = rows.stop - rows.start
        patches = np.zeros((n, *self.patch_shape), self.dtype)
        regions = np.zeros((n, patch_px, patch_px), np.uint8)
        tops, lefts, cell_ids = self.tops[rows].tolist(), self.lefts[rows].tolist(), self.cell_ids[rows]
        for piece, overlapping in self.pieces(number).items():
            image, labels, *nuclei = reader.read(piece, block=number)  # (C, y, x), (y, x)
            ys, xs = self.geometry.window(piece)
            for cell in overlapping.tolist():
                # A strip covers everything that its patches need of the tile, so strips never have to be combined.
                y_here, y_there = _overlap(tops[cell], patch_px, ys.start, labels.shape[0])
                x_here, x_there = _overlap(lefts[cell], patch_px, xs.start, labels.shape[1])
                patches[cell, :, y_here, x_here] = image[:, y_there, x_there]
                ids = labels[y_there, x_there]
                # OTHER_CELL for any cell, less 1 where it is this one.
                regions[cell, y_here, x_here] = (ids != 0) * np.uint8(OTHER_CELL) - (ids == cell_ids[cell])
                for of_nuclei in nuclei:
                    here = regions[cell, y_here, x_here]
                    here[(here == THIS_CELL) & (of_nuclei[y_there, x_there] == cell_ids[cell])] = NUCLEUS
        return patches, regions

    def cut_all(self, numbers: Sequence[int], cache_bytes: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield the number, patches and regions of each block in turn."""
        reader = self.reader(numbers, cache_bytes)
        for number in numbers:
            yield (number, *self.cut(number, reader))


def prepare_cutter(
    slide: Slide,
    mask: LazyImage,
    x_px: np.ndarray,
    y_px: np.ndarray,
    cell_ids: np.ndarray,
    *,
    geometry: PatchGeometry,
    nuclei: LazyImage | None = None,
) -> tuple[Cutter, np.ndarray]:
    """Return the cutter of patches around some points of a slide, and the order in which it cuts the points.

    Masks enter here, whatever is cut: they are checked here alone.
    """
    for labels in (mask, nuclei):
        if labels is not None:
            check_mask(labels, slide)
    # Pixel (P // 2, P // 2) of a patch is the pixel that holds the centroid.
    tops, lefts = (np.floor(along + 0.5).astype(np.int64) - geometry.patch_px // 2 for along in (y_px, x_px))
    order = order_patches(tops, lefts, geometry)
    block_size = choose_block_size(len(slide.markers) * geometry.patch_px**2 * slide.image.dtype.itemsize)
    cutter = Cutter(slide.image, mask, geometry, tops[order], lefts[order], cell_ids[order], block_size, nuclei=nuclei)
    return cutter, order


def cut_patches(
    slide: Slide,
    mask: LazyImage,
    x_px: np.ndarray,
    y_px: np.ndarray,
    cell_id: np.ndarray,
    *,
    patch_px: int | None = None,
    patch_size_um: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Cut the patches of some cells directly from the slide, for example to plot them; no store is needed.

    The patches are byte for byte those that :func:`~mxsplicer.patches.extraction.extract_patches` writes. Each tile
    that the cells lie on is read once, and all patches are returned at once: this is meant for hundreds of cells, not
    for all cells of a slide.

    Parameters
    ----------
    slide
        Image (C, Y, X).
    mask
        Label image (Y, X).
    x_px, y_px
        Centroids in pixels (n,), as in ``obs["x_px"]`` and ``obs["y_px"]``.
    cell_id
        Values of the mask (n,), one per cell.
    patch_px
        Side of a patch in pixels; it may differ from that of the patches that the cells were embedded from.
    patch_size_um
        Side of a patch in micrometres. Pass either this or ``patch_px``.

    Returns
    -------
    Patches (n, C, P, P) in the slide's dtype, 0 beyond the slide, and regions (n, P, P) uint8: 0 background, 1 this
    cell, 2 another cell. Row ``i`` belongs to the i-th cell passed.

    Raises
    ------
    InputError
        If the mask does not fit the slide, the columns differ in length, or not exactly one of the two sizes is passed.

    Examples
    --------
    >>> from mxsplicer.testing import tiny_slide
    >>> slide, mask = tiny_slide(cells_at=[(20, 30), (40, 10)])
    >>> patches, regions = cut_patches(slide, mask, [10.0, 30.0], [40.0, 20.0], [2, 1], patch_px=16)
    >>> patches.shape, regions[:, 8, 8].tolist()
    ((2, 3, 16, 16), [1, 1])
    """
    if (patch_px is None) == (patch_size_um is None):
        msg = f"the size of the patches {'is missing' if patch_px is None else 'is given twice'}."
        raise InputError(msg, "Pass either `patch_px` or `patch_size_um`.")
    geometry = PatchGeometry.of(slide, patch_size_um or (patch_px or 0) * slide.pixel_size_um)
    side_px = geometry.patch_px
    x, y, ids = (np.asarray(column) for column in (x_px, y_px, cell_id))
    if not len(x) == len(y) == len(ids):
        msg = f"x_px, y_px and cell_id have {len(x)}, {len(y)} and {len(ids)} entries, but each needs one per cell."
        raise InputError(msg)
    patches = np.empty((len(ids), len(slide.markers), side_px, side_px), np.dtype(slide.image.dtype).newbyteorder("="))
    regions = np.empty((len(ids), side_px, side_px), np.uint8)
    cutter, order = prepare_cutter(slide, mask, x, y, ids, geometry=geometry)
    for number, some, of_some in cutter.cut_all(range(cutter.n_blocks), _CACHE_BYTES):
        rows = order[cutter.rows(number)]
        patches[rows], regions[rows] = some, of_some
    return patches, regions


def _overlap(first: int, length: int, tile_first: int, tile_length: int) -> tuple[slice, slice]:
    """Return what is cut from a tile for a patch along one axis: the slice of the patch and that of the tile."""
    start, stop = max(first, tile_first), min(first + length, tile_first + tile_length)
    return slice(start - first, stop - first), slice(start - tile_first, stop - tile_first)
