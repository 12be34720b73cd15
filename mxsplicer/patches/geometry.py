"""The geometry of patches: the sizes of a slide, of the tiles it is read in, and of its patches."""

import math
from typing import Literal, NamedTuple

import numpy as np

from mxsplicer.errors import InputError
from mxsplicer.images.slide import Slide
from mxsplicer.images.tiles import reading_tile

Tile = tuple[int, int]  # its row and column among the tiles of the slide
Side = Literal["whole", "top", "bottom", "left", "right"]


class Piece(NamedTuple):
    """The geometry of a piece: a whole tile, or the strip along a side that patches of a neighbouring tile need."""

    tile: Tile
    side: Side


class PatchGeometry(NamedTuple):
    """The geometry of patches: sizes of a slide, of the tiles it is read in, and of its patches."""

    shape_px: tuple[int, int]
    tile_px: tuple[int, int]
    patch_px: int

    @classmethod
    def of(cls, slide: Slide, patch_size_um: float) -> "PatchGeometry":
        """Return the geometry of patches of a slide; the side of a patch is rounded to an even number of pixels.

        Raises
        ------
        InputError
            If a patch does not fit on the slide, or its size is not a positive number.

        Examples
        --------
        >>> from mxsplicer.testing import tiny_slide
        >>> PatchGeometry.of(tiny_slide()[0], patch_size_um=16).patch_px
        32
        """
        patch_px = _choose_patch_px(slide, patch_size_um)
        return cls(slide.shape_px, reading_tile(slide.tile_px, slide.shape_px), patch_px)

    def touched(self, firsts: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the first and last row (axis 0) or column (axis 1) of tiles that patches overlap.

        Parameters
        ----------
        firsts
            First pixel of each patch along the axis (n,).
        """
        last = np.minimum(firsts + self.patch_px, self.shape_px[axis]) - 1
        return np.maximum(firsts, 0) // self.tile_px[axis], last // self.tile_px[axis]

    def window(self, piece: Piece) -> tuple[slice, slice]:
        """Return the rows and columns of the slide that a piece covers."""
        (top, bottom), (left, right) = (self._bounds(piece.tile[axis], axis) for axis in (0, 1))
        rows = {"top": (top, top + self.patch_px), "bottom": (bottom - self.patch_px, bottom)}
        columns = {"left": (left, left + self.patch_px), "right": (right - self.patch_px, right)}
        y0, y1 = rows.get(piece.side, (top, bottom))
        x0, x1 = columns.get(piece.side, (left, right))
        return slice(max(y0, top), min(y1, bottom)), slice(max(x0, left), min(x1, right))

    def _bounds(self, at: int, axis: int) -> tuple[int, int]:
        return at * self.tile_px[axis], min((at + 1) * self.tile_px[axis], self.shape_px[axis])

    def sides_of(self, tile: Tile, tops: np.ndarray, lefts: np.ndarray) -> dict[Side, np.ndarray]:
        """Return the sides of a tile that patches need, each with the indices of its patches.

        If any patch lies inside the tile, all of them are cut from the whole tile.
        """
        (top, bottom), (left, right) = (self._bounds(tile[axis], axis) for axis in (0, 1))
        reaches: dict[Side, np.ndarray] = {
            "top": tops < top,
            "bottom": tops + self.patch_px > bottom,
            "left": lefts < left,
            "right": lefts + self.patch_px > right,
        }
        left_over = np.ones(len(tops), dtype=bool)
        sides: dict[Side, np.ndarray] = {}
        for side, reaching in reaches.items():
            if (reaching & left_over).any():
                sides[side] = np.flatnonzero(reaching & left_over)
                left_over &= ~reaching
        return {"whole": np.arange(len(tops))} if left_over.any() else sides


def in_pixels(patch_size_um: float, pixel_size_um: float) -> int:
    """Return the geometry of a patch in pixels: its side, rounded to an even number."""
    if not 0 < patch_size_um < math.inf:
        msg = f"a patch of {patch_size_um} µm cannot be cut."
        raise InputError(msg, "Set `patch_size_um`, the side of a patch, to a positive number.")
    return 2 * max(1, math.floor(patch_size_um / pixel_size_um / 2 + 0.5))


def _choose_patch_px(slide: Slide, patch_size_um: float) -> int:
    patch_px = in_pixels(patch_size_um, slide.pixel_size_um)
    height, width = slide.shape_px
    if patch_px > min(height, width):
        pixel = slide.pixel_size_um
        msg = (
            f"a patch of {patch_size_um:g} µm ({patch_px} pixels) does not fit on slide {slide.name!r}, "
            f"{height * pixel:g} x {width * pixel:g} µm ({height} x {width} pixels of {pixel:g} µm, "
            f"{slide.pixel_size_from})."
        )
        raise InputError(msg, "Lower `patch_size_um`, or correct `pixel_size_um`.")
    return patch_px
