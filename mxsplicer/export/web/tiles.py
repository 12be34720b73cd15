"""Tiles of the web page: each channel in 8 bits, and the row of the cell at each pixel, at all levels of a pyramid.

Each level is half as large as the one before; a tile has 512 px. Only the tiles of one branch of the pyramid are in
memory, so that memory does not grow with the slide.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import imagecodecs
import numpy as np
import pandas as pd

from mxsplicer.export.web.scripts import pack, pack_image, write_script
from mxsplicer.images.lazy_images import LazyImage
from mxsplicer.images.slide import Slide, overview
from mxsplicer.pl.colors import contrast_limits
from mxsplicer.system.progress import track

TILE_PX = 512
_JPEG_QUALITY = 90  # 0.16 bytes per pixel of a fluorescence image; PNG takes 0.54
_BLOCK_PX = 2048  # side of what is read at once, a multiple of TILE_PX and of most files' tiles
_STRIP_PX = 1 << 24  # pixels of the file that are in memory at once where levels are skipped
_OVERVIEW_PX = 2048
_HEADROOM = 2.0  # 255 is this multiple of the brightest pixels of the overview, where averages hide the brightest

Read = Callable[[int, int, int, int], np.ndarray]  # top, bottom, left, right, in pixels of the finest level written


@dataclass(frozen=True)
class Levels:
    """The levels of a slide that are written.

    Attributes
    ----------
    shape_px
        Height and width of the slide.
    step
        Pixels of the slide for one pixel of the finest level, along each side; a power of two.
    """

    shape_px: tuple[int, int]
    step: int

    @classmethod
    def of(cls, shape_px: tuple[int, int], max_megapixels: float) -> "Levels":
        """Return the levels whose finest has at most ``max_megapixels``.

        Examples
        --------
        >>> Levels.of((2000, 3000), 10).sides, Levels.of((40_000, 50_000), 100).step
        (((2000, 3000), (1000, 1500), (500, 750), (250, 375)), 8)
        """
        step = 1
        while -(-shape_px[0] // step) * -(-shape_px[1] // step) > max_megapixels * 1e6 and step < max(shape_px):
            step *= 2
        return cls(shape_px, step)

    @cached_property
    def sides(self) -> tuple[tuple[int, int], ...]:
        """Height and width of each level, finest first; the last fits into one tile."""
        sides = [(-(-self.shape_px[0] // self.step), -(-self.shape_px[1] // self.step))]
        while max(sides[-1]) > TILE_PX:
            sides.append((-(-sides[-1][0] // 2), -(-sides[-1][1] // 2)))
        return tuple(sides)

    @property
    def n_tiles(self) -> int:
        """Number of tiles of a channel, over all levels."""
        return sum(-(-height // TILE_PX) * -(-width // TILE_PX) for height, width in self.sides)


@dataclass(frozen=True)
class Brightness:
    """How the intensities of a channel become 8 bits: the square root, from ``low`` (0) to ``full`` (255).

    ``shown`` is the range of intensities that the page shows at first.
    """

    low: float
    full: float
    shown: tuple[float, float]

    @classmethod
    def of(cls, channel: np.ndarray) -> "Brightness":
        """Return the brightness of a channel by a small copy of it (y, x)."""
        finite = channel[np.isfinite(channel)]
        low = float(finite.min()) if finite.size else 0.0
        brightest = float(np.percentile(finite, 99.99)) if finite.size else 1.0
        shown = contrast_limits(channel)
        full = max(low + _HEADROOM * (brightest - low), shown[1], low + 1e-6)
        return cls(low, full, (max(shown[0], low), shown[1]))

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """Return intensities in 8 bits."""
        scaled = (np.nan_to_num(pixels.astype(np.float32), nan=self.low) - self.low) / (self.full - self.low)
        return np.asarray(np.sqrt(np.clip(scaled, 0, 1)) * 255 + 0.5).astype(np.uint8)


def write_tiles(
    folder: Path, number: int, slide: Slide, mask: LazyImage, ids: pd.Index, rows: np.ndarray, levels: Levels
) -> list[Brightness]:
    """Write the tiles of one slide, and return the brightness of its channels.

    Parameters
    ----------
    folder
        Folder of the page; the tiles lie in ``tiles/<number>``.
    number
        Of the slide.
    slide, mask
        Image (C, Y, X) and label image (Y, X).
    ids, rows
        Ids of the slide's cells in the mask, and the row of each in the table.
    levels
        Which levels to write.
    """
    small, _ = overview(slide, max_side_px=_OVERVIEW_PX)
    brightness = [Brightness.of(channel) for channel in small]
    source, factor = _source(slide, levels.step)
    layers: list[tuple[str, Read, Callable[..., np.ndarray], Callable[[np.ndarray], str]]] = [
        (str(channel), _reader(source, channel, levels.step // factor, one), _average, _encode_jpeg)
        for channel, one in enumerate(brightness)
    ]
    layers.append(("cells", _reader_of_cells(mask, levels.step, ids, rows), _every_second, pack))
    written = (
        (f"tiles/{number}/{level}/{name}/{row}_{column}", encode(pixels) if pixels.any() else "")
        for name, read, halve, encode in layers
        for level, row, column, pixels in _pyramid(levels, _in_blocks(read, levels.sides[0]), halve)
    )
    for key, data in track(written, f"Writing tiles of {slide.name}", total=len(layers) * levels.n_tiles):
        write_script(folder, key, data)
    return brightness


def _pyramid(
    levels: Levels, read: Read, halve: Callable[[np.ndarray], np.ndarray]
) -> Iterator[tuple[int, int, int, np.ndarray]]:
    """Yield level, row, column and pixels of each tile, four tiles before the one above them."""

    def branch(level: int, row: int, column: int) -> Iterator[tuple[int, int, int, np.ndarray]]:
        height, width = levels.sides[level]
        top, left = row * TILE_PX, column * TILE_PX
        bottom, right = min(height, top + TILE_PX), min(width, left + TILE_PX)
        if level == 0:
            pixels = read(top, bottom, left, right)
        else:
            joined: list[list[np.ndarray]] = []
            for finer_row in range(2 * row, min(2 * row + 2, -(-levels.sides[level - 1][0] // TILE_PX))):
                joined.append([])
                for finer_column in range(2 * column, min(2 * column + 2, -(-levels.sides[level - 1][1] // TILE_PX))):
                    for tile in branch(level - 1, finer_row, finer_column):
                        yield tile
                    joined[-1].append(halve(tile[3]))  # the last one is that of the branch itself
            pixels = np.block(joined)
        yield level, row, column, pixels

    return branch(len(levels.sides) - 1, 0, 0)


def _source(slide: Slide, step: int) -> tuple[LazyImage, int]:
    """Return the coarsest image of the slide's pyramid from which a level with this step can be made, and its step."""
    best, factor_of_best = slide.image, 1
    for image in slide.pyramid:
        factor = round(slide.shape_px[0] / image.shape[1])
        fits = all(
            abs(side * factor - whole) < factor for side, whole in zip(image.shape[1:], slide.shape_px, strict=True)
        )
        if fits and step % factor == 0 and factor > factor_of_best:
            best, factor_of_best = image, factor
    return best, factor_of_best


def _reader(image: LazyImage, channel: int, step: int, brightness: Brightness) -> Read:
    """Return a function that reads a window of a channel, averaged over ``step`` x ``step`` pixels, in 8 bits."""

    def read(top: int, bottom: int, left: int, right: int) -> np.ndarray:
        out = np.zeros((bottom - top, right - left), np.uint8)
        for first, last in _strips(top, bottom, right - left, step):
            # A level of a pyramid may lack the last row or column of the slide, which its neighbour then stands for.
            y, x = (min(at * step, side - 1) for at, side in zip((first, left), image.shape[1:], strict=True))
            pixels = np.asarray(image[channel, y : max(y + 1, last * step), x : max(x + 1, right * step)])
            averaged = _block_average(pixels, step, (last - first, right - left))
            out[first - top : last - top] = brightness.encode(averaged)
        return out

    return read


def _reader_of_cells(mask: LazyImage, step: int, ids: pd.Index, rows: np.ndarray) -> Read:
    """Return a function that reads a window of the mask as rows of the table, counted from 1; 0 is background."""

    def read(top: int, bottom: int, left: int, right: int) -> np.ndarray:
        out = np.zeros((bottom - top, right - left), np.uint32)
        for first, last in _strips(top, bottom, right - left, step):
            labels = np.asarray(mask[first * step : last * step, left * step : right * step])[::step, ::step]
            codes, present = pd.factorize(labels.ravel())
            places = ids.get_indexer(pd.Index(present))
            of_present = np.where((present != 0) & (places >= 0), rows[places] + 1, 0).astype(np.uint32)
            out[first - top : last - top] = of_present[codes].reshape(labels.shape)
        return out

    return read


def _strips(top: int, bottom: int, width: int, step: int) -> Iterator[tuple[int, int]]:
    rows = max(1, _STRIP_PX // (width * step * step))
    for first in range(top, bottom, rows):
        yield first, min(bottom, first + rows)


def _in_blocks(read: Read, sides: tuple[int, int]) -> Read:
    """Return a reader of tiles that keeps the last block of tiles, since the tiles of a block follow each other."""

    @lru_cache(maxsize=1)
    def block(y: int, x: int) -> np.ndarray:
        return read(y, min(sides[0], y + _BLOCK_PX), x, min(sides[1], x + _BLOCK_PX))

    def read_tile(top: int, bottom: int, left: int, right: int) -> np.ndarray:
        y, x = top // _BLOCK_PX * _BLOCK_PX, left // _BLOCK_PX * _BLOCK_PX
        return block(y, x)[top - y : bottom - y, left - x : right - x]

    return read_tile


def _block_average(pixels: np.ndarray, step: int, shape: tuple[int, int]) -> np.ndarray:
    """Return the mean of ``step`` x ``step`` pixels; blocks at the border of the slide repeat its last pixels."""
    if pixels.shape == shape:
        return pixels
    missing = [(0, side * step - length) for side, length in zip(shape, pixels.shape, strict=True)]
    padded = np.pad(pixels, missing, mode="edge").astype(np.float32)
    return np.asarray(padded.reshape(shape[0], step, shape[1], step).mean(axis=(1, 3)))


def _average(encoded: np.ndarray) -> np.ndarray:
    """Return every 2 x 2 encoded pixels as one, the mean of their intensities."""
    shape = (-(-encoded.shape[0] // 2), -(-encoded.shape[1] // 2))
    return np.asarray(np.sqrt(_block_average(encoded.astype(np.float32) ** 2, 2, shape)) + 0.5).astype(np.uint8)


def _every_second(rows: np.ndarray) -> np.ndarray:
    """Return every second pixel, since rows of a table cannot be averaged."""
    return rows[::2, ::2]


def _encode_jpeg(pixels: np.ndarray) -> str:
    return pack_image(imagecodecs.jpeg8_encode(np.ascontiguousarray(pixels), level=_JPEG_QUALITY))
