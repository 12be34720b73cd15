"""TIFF files as lazy images: each stored tile or strip is decoded when it is asked for, and no other.

tifffile parses the file and decodes its segments; what is added here is slicing by channel and window, which opens the
file for reading only as long as a slice takes, so that slides can be handed between threads without a lock.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from mxsplicer.errors import InputError
from mxsplicer.slides.slide import LazyImage, complete_key

_DECODE_ERRORS = (ValueError, RuntimeError, OSError, KeyError, IndexError, TypeError, NotImplementedError)

# tifffile tells its doubts about a file as warnings; what matters of them reaches the user as an InputError here.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)


@dataclass(frozen=True, eq=False)
class TiffSeries:
    """The first image of a TIFF file and what the file says of it."""

    image: LazyImage  # axes as in `axes`
    pyramid: tuple[LazyImage, ...]  # coarser levels, same axes
    axes: str  # of length one left out: "CYX", "YX", "YXS", ...
    tile_px: tuple[int, int]
    compression: str
    kind: str  # tifffile's word for the dialect: "ome", "qpi", "imagej", "generic", ...
    photometric: str
    descriptions: tuple[str, ...]  # ImageDescription of each page
    resolution_um: float | None  # pixel size by the resolution tags, where they have a unit


def open_tiff(path: Path) -> TiffSeries:
    """Open the first image of a TIFF file, reading its headers only."""
    try:
        with tifffile.TiffFile(path) as tiff:
            series = tiff.series[0]
            levels = [_level(path, level) for level in series.levels]
            page = series.keyframe
            pages = [one for one in series.pages if one is not None]
            axes = _squeezed_axes(series)
            return TiffSeries(
                image=levels[0],
                pyramid=tuple(levels[1:]),
                axes=axes,
                tile_px=(page.tilelength, page.tilewidth) if page.is_tiled else _strip_px(page),
                compression=_word(page.compression).lower(),
                kind=series.kind,
                photometric=_word(page.photometric),
                descriptions=tuple(tiff.ome_metadata or _description(one) for one in pages[:1])
                + tuple(_description(one) for one in pages[1:]),
                resolution_um=_resolution_um(page),
            )
    except InputError:
        raise
    except OSError as error:
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            raise
        raise _not_a_tiff(path, error) from error
    except Exception as error:  # a broken header surfaces in tifffile as almost any exception
        raise _not_a_tiff(path, error) from error


class _PagedImage:
    """Pages of a TIFF, one per index of the leading axes; (..., Y, X) or (..., Y, X, S) with samples last."""

    def __init__(self, path: Path, pages: Sequence[Any], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.path, self.shape, self.dtype = path, shape, dtype
        self._pages = pages
        self._keyframe = pages[0].keyframe
        self._samples = self._keyframe.samplesperpixel
        size = path.stat().st_size
        for page in pages:
            ends = [o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=False)]
            if ends and max(ends) > size:
                msg = (
                    f"{path.name} is truncated: it is {size:,} bytes long, but its image data end at byte "
                    f"{max(ends):,}. Copy the file again."
                )
                raise InputError(msg)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, key: Any) -> np.ndarray:
        key = complete_key(key, self.ndim)
        n_lead = self.ndim - 2 - (self._samples > 1)
        lead, (rows, columns) = key[:n_lead], key[n_lead : n_lead + 2]
        places = np.arange(int(np.prod(self.shape[:n_lead]))).reshape(self.shape[:n_lead])[lead]
        ys, xs = (_as_range(k, n) for k, n in zip((rows, columns), self.shape[n_lead:], strict=False))
        out = np.zeros((places.size, len(ys), len(xs), self._samples), dtype=self.dtype)
        if out.size:
            with self.path.open("rb") as file:
                for place, plane in zip(places.ravel(), out, strict=True):
                    self._read(file.fileno(), self._pages[place], plane, ys, xs)
        picked = out[:, 0 if isinstance(rows, int | np.integer) else slice(None)]
        picked = picked[..., 0 if isinstance(columns, int | np.integer) else slice(None), :]
        picked = picked.reshape(places.shape + picked.shape[1:])
        return picked[(..., *key[n_lead + 2 :])] if self._samples > 1 else picked[..., 0]

    def _read(self, descriptor: int, page: Any, out: np.ndarray, ys: range, xs: range) -> None:
        """Fill ``out`` (y, x, samples) with the window of ``page``."""
        frame = self._keyframe
        height, width = (frame.tilelength, frame.tilewidth) if frame.is_tiled else _strip_px(frame)
        across, down = -(-frame.imagewidth // width), -(-frame.imagelength // height)
        tables = {"jpegtables": page.jpegtables, "jpegheader": frame.jpegheader} if _has_jpeg_tables(frame) else {}
        planes = self._samples if frame.planarconfig == 2 else 1  # planar: the segments of sample 0, then of sample 1
        for plane in range(planes):
            for row in range(min(ys) // height, max(ys) // height + 1):
                for column in range(min(xs) // width, max(xs) // width + 1):
                    index = (plane * down + row) * across + column
                    data = os.pread(descriptor, page.databytecounts[index], page.dataoffsets[index])
                    try:
                        tile, _, _ = frame.decode(data or None, index, _fullsize=False, **tables)
                    except _DECODE_ERRORS as error:
                        msg = (
                            f"{self.path.name} is damaged: {'tile' if frame.is_tiled else 'strip'} {index} of page "
                            f"{page.index} does not decode ({error}). Copy or export the file again."
                        )
                        raise InputError(msg) from error
                    if tile is None:  # a sparse file leaves empty tiles out
                        continue
                    y0, x0 = row * height, column * width
                    y_out, y_in = _overlap(ys, y0, tile.shape[1])
                    x_out, x_in = _overlap(xs, x0, tile.shape[2])
                    samples = slice(None) if planes == 1 else slice(plane, plane + 1)
                    out[y_out, x_out, samples] = tile[0, y_in, x_in]


def _level(path: Path, level: Any) -> LazyImage:
    shape = tuple(n for n, axis in zip(level.shape, level.axes, strict=True) if n > 1 or axis in "YX")
    if level.dataoffset is not None:  # one run of plain numbers: the operating system reads it best
        end = level.dataoffset + level.nbytes
        if end > path.stat().st_size:
            msg = (
                f"{path.name} is truncated: it is {path.stat().st_size:,} bytes long, but its image data end at byte "
                f"{end:,}. Copy the file again."
            )
            raise InputError(msg)
        dtype = np.dtype(level.dtype).newbyteorder(level.keyframe.parent.byteorder)
        return np.memmap(path, mode="r", dtype=dtype, offset=level.dataoffset, shape=shape)
    pages = list(level.pages)
    if any(page is None for page in pages):
        msg = f"{path.name} lacks {sum(page is None for page in pages)} of the {len(pages)} pages it announces."
        raise InputError(msg)
    return _PagedImage(path, pages, shape, np.dtype(level.dtype))


def _squeezed_axes(series: Any) -> str:
    return "".join(axis for n, axis in zip(series.shape, series.axes, strict=True) if n > 1 or axis in "YX")


def _strip_px(page: Any) -> tuple[int, int]:
    return min(page.rowsperstrip or page.imagelength, page.imagelength), page.imagewidth


def _word(code: Any) -> str:
    # tifffile keeps a code that it has no name for as a number.
    return str(getattr(code, "name", code))


def _has_jpeg_tables(page: Any) -> bool:
    return _word(page.compression) in ("JPEG", "OJPEG", "JPEG_LOSSY")


def _as_range(key: Any, length: int) -> range:
    if isinstance(key, slice):
        return range(length)[key]
    place = range(length)[int(key)]
    return range(place, place + 1)


def _overlap(wanted: range, start: int, length: int) -> tuple[slice, slice]:
    """Return where the wanted pixels of [start, start + length) stand in the output and in the tile."""
    first = max(0, -(-(start - wanted.start) // wanted.step))
    last = min(len(wanted), -(-(start + length - wanted.start) // wanted.step))
    if last <= first:
        return slice(0, 0), slice(0, 0)
    begin = wanted[first] - start
    return slice(first, last), slice(begin, begin + (last - first - 1) * wanted.step + 1, wanted.step)


def _description(page: Any) -> str:
    return str(page.description) if hasattr(page, "description") else ""


def _resolution_um(page: Any) -> float | None:
    unit = page.tags.get("ResolutionUnit")
    resolution = page.tags.get("XResolution")
    um_per_unit = {2: 25_400.0, 3: 10_000.0}.get(int(unit.value) if unit else 2)
    if resolution is None or um_per_unit is None or not all(resolution.value):
        return None
    numerator, denominator = resolution.value
    return float(um_per_unit * denominator / numerator)


def _not_a_tiff(path: Path, error: Exception) -> InputError:
    with path.open("rb") as file:
        magic = file.read(4)
    if magic[:2] in (b"II", b"MM"):
        return InputError(
            f"{path.name} begins like a TIFF but its header cannot be followed ({error}): it is truncated or damaged."
        )
    return InputError(
        f"{path.name} is not a TIFF file (it begins with {magic!r}). Give an OME-TIFF, a qptiff or a TIFF stack."
    )
