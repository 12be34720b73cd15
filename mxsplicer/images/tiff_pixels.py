"""Slice the pixels of a TIFF file: only the tiles or strips that a window touches are read and decoded.

tifffile decodes the segments; what is added here is slicing by channel and window, which opens the file only while a
slice is read, so that slides can be shared between threads without a lock.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mxsplicer.errors import InputError
from mxsplicer.images.slide import LazyImage
from mxsplicer.images.tiff_io import byte_reader
from mxsplicer.images.windows import Pick, Windowed, as_index
from mxsplicer.system.location import Location, name_of

_DECODE_ERRORS = (ValueError, RuntimeError, OSError, KeyError, IndexError, TypeError, NotImplementedError, MemoryError)

Reopen = tuple[Callable[..., LazyImage], tuple[Any, ...]]  # a function and its arguments


class TiffImage(Windowed):
    """A level of a TIFF file. Its pickle holds no pixels: unpickling opens the file again by ``reopen``."""

    def __init__(self, shape: Sequence[int], dtype: Any, reopen: Reopen, chunk: tuple[int, ...]) -> None:
        super().__init__(shape, dtype)
        self.chunk = chunk  # length along each axis of what is decoded at once
        self._reopen = reopen

    def __reduce__(self) -> Reopen:
        return self._reopen


class PlainImage(TiffImage):
    """Uncompressed numbers that lie in the file one after the other.

    The file is mapped only while a window is read, so that what was read does not stay in memory.
    """

    def __init__(self, path: Path, offset: int, stored: np.dtype[Any], **options: Any) -> None:
        super().__init__(dtype=stored, **options)
        self._path, self._offset, self._stored = path, offset, stored

    def read(self, picks: Sequence[Pick]) -> np.ndarray:
        """Return the pixels at ``picks``."""
        plain = np.memmap(self._path, mode="r", dtype=self._stored, offset=self._offset, shape=self.shape)
        return np.array(plain[tuple(as_index(pick) for pick in picks)], dtype=self.dtype)


@dataclass(frozen=True, eq=False)
class Page:
    """Where the tiles or strips of a page lie, in arrays: tifffile's tuples take five times the memory."""

    location: Location
    number: int
    offsets: np.ndarray  # (segments,) int64
    lengths: np.ndarray
    jpegtables: bytes | None


class PagedImage(TiffImage):
    """Pages of a TIFF, one per index of the leading axes; (..., Y, X) or (..., Y, X, S) with samples last.

    The pages of a multi-file OME-TIFF lie in several files; samples that are stored separately count as a leading axis.
    """

    def __init__(self, pages: Sequence[Page], frame: Any, **options: Any) -> None:
        super().__init__(**options)
        self._pages = pages
        self._decode = frame.decode  # bound while the file is open: of a JPEG it looks at the first tile
        self._has_tables = has_jpeg_tables(frame)
        self._jpegheader = frame.jpegheader if self._has_tables else None
        self._empty = frame.nodata  # value of tiles that a sparse file leaves out
        self._segment = "tile" if frame.is_tiled else "strip"
        self._segment_px, self._segments = segment_px(frame), n_segments(frame)
        self._planes, self._samples = n_planes(frame), n_samples(frame)

    def read(self, picks: Sequence[Pick]) -> np.ndarray:
        """Return the pixels at ``picks``."""
        n_lead = self.ndim - 2 - (self._samples > 1)
        lead = self.shape[:n_lead]
        places = np.arange(math.prod(lead)).reshape(lead)[np.ix_(*picks[:n_lead])]
        ys, xs = picks[n_lead : n_lead + 2]
        box_y, box_x = (_covering_range(pick) for pick in (ys, xs))
        out = np.full((places.size, len(box_y), len(box_x), self._samples), self._empty, dtype=self.dtype)
        for place, plane in zip(places.ravel(), out, strict=True):
            self._read_plane(*divmod(int(place), self._planes), plane, box_y, box_x)
        if not isinstance(ys, range):
            out = out[:, ys - box_y.start]
        if not isinstance(xs, range):
            out = out[:, :, xs - box_x.start]
        out = out.reshape(*places.shape, *out.shape[1:])
        return out[..., as_index(picks[-1])] if self._samples > 1 else out[..., 0]

    def _read_plane(self, number: int, plane: int, out: np.ndarray, ys: range, xs: range) -> None:
        """Fill ``out`` (y, x, samples) with a window of page ``number``; ``plane`` counts separately stored samples."""
        page = self._pages[number]
        height, width = self._segment_px
        down, across = self._segments
        tables = {"jpegtables": page.jpegtables, "jpegheader": self._jpegheader} if self._has_tables else {}
        with byte_reader(page.location) as read_at:
            for row in range(ys[0] // height, ys[-1] // height + 1):
                for column in range(xs[0] // width, xs[-1] // width + 1):
                    index = (plane * down + row) * across + column
                    if not page.lengths[index]:  # a sparse file leaves empty tiles out
                        continue
                    y_out, y_in = _overlap(ys, row * height, height)
                    x_out, x_in = _overlap(xs, column * width, width)
                    try:
                        data = read_at(int(page.offsets[index]), int(page.lengths[index]))
                        tile, _, _ = self._decode(data, index, _fullsize=False, **tables)
                        if tile is not None:
                            out[y_out, x_out] = tile[0, y_in, x_in]
                    except _DECODE_ERRORS as error:
                        msg = (
                            f"{name_of(page.location)} is damaged: {self._segment} {index} of page {page.number} does "
                            f"not decode ({error})."
                        )
                        raise InputError(msg, "Copy or export the file again.") from error


def segment_px(page: Any) -> tuple[int, int]:
    """Return the height and width of a tile or strip of a page, which are decoded at once."""
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    return min(page.rowsperstrip or page.imagelength, page.imagelength), page.imagewidth


def n_segments(page: Any) -> tuple[int, int]:
    """Return the number of tiles or strips of a page along Y and along X."""
    height, width = segment_px(page)
    return -(-page.imagelength // height), -(-page.imagewidth // width)


def n_planes(page: Any) -> int:
    """Return how many samples of a page are stored separately."""
    return int(page.samplesperpixel) if page.planarconfig == 2 else 1


def n_samples(page: Any) -> int:
    """Return how many samples each stored pixel of a page has."""
    return 1 if page.planarconfig == 2 else int(page.samplesperpixel)


def has_jpeg_tables(page: Any) -> bool:
    """Return whether the tiles of a page share their JPEG tables."""
    return code_name(page.compression) in ("JPEG", "OJPEG", "JPEG_LOSSY")


def code_name(code: Any) -> str:
    """Return the name of a code of tifffile, which keeps unknown codes as numbers."""
    return str(getattr(code, "name", code))


def _covering_range(pick: Pick) -> range:
    """Return the range of pixels to read of a TIFF: from the first to the last wanted index of an axis."""
    return pick if isinstance(pick, range) else range(int(pick.min()), int(pick.max()) + 1)


def _overlap(wanted: range, start: int, length: int) -> tuple[slice, slice]:
    """Return the slices, of the output and of a tile, for the wanted pixels in [start, start + length)."""
    first = max(0, -(-(start - wanted.start) // wanted.step))
    last = min(len(wanted), -(-(start + length - wanted.start) // wanted.step))
    if last <= first:
        return slice(0, 0), slice(0, 0)
    begin = wanted[first] - start
    return slice(first, last), slice(begin, begin + (last - first - 1) * wanted.step + 1, wanted.step)
