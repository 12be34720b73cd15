"""TIFF files as lazy images: each stored tile or strip is decoded when it is asked for, and no other.

tifffile parses the file and decodes its segments; what is added here is slicing by channel and window, which opens the
file for reading only as long as a slice takes, so that slides can be handed between threads without a lock.
"""

import logging
import math
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
            _check_pages(path, tiff)
            levels = [_level(path, level) for level in series.levels]
            page = series.keyframe
            pages = [one for one in series.pages if one is not None]
            axes = _squeezed_axes(series)
            return TiffSeries(
                image=levels[0],
                pyramid=tuple(levels[1:]),
                axes=axes,
                tile_px=_segment_px(page),
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
    """Pages of a TIFF, one per index of the leading axes; (..., Y, X) or (..., Y, X, S) with samples last.

    The pages of a multi-file OME-TIFF lie in several files; samples that are stored apart count as leading axis.
    """

    def __init__(self, pages: Sequence[Any], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.shape, self.dtype = shape, dtype
        self._pages = pages
        self._keyframe = pages[0].keyframe
        self._decode = self._keyframe.decode  # bound while the file is open: of a JPEG it looks at the first tile
        samples, apart = int(self._keyframe.samplesperpixel), self._keyframe.planarconfig == 2
        self._planes = samples if apart else 1
        self._samples = 1 if apart else samples
        for page in pages:
            self._check(page)

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
        upwards = out[:, :: _sign(ys.step), :: _sign(xs.step)]
        if out.size:
            for place, plane in zip(places.ravel(), upwards, strict=True):
                number, of_page = divmod(int(place), self._planes)
                self._read(number, of_page, plane, ys[:: _sign(ys.step)], xs[:: _sign(xs.step)])
        picked = out[:, 0 if isinstance(rows, int | np.integer) else slice(None)]
        picked = picked[..., 0 if isinstance(columns, int | np.integer) else slice(None), :]
        picked = picked.reshape(places.shape + picked.shape[1:])
        return picked[(..., *key[n_lead + 2 :])] if self._samples > 1 else picked[..., 0]

    def _read(self, number: int, plane: int, out: np.ndarray, ys: range, xs: range) -> None:
        """Fill ``out`` (y, x, samples) with the window of a page; its plane, where samples are stored apart."""
        page, frame = self._pages[number], self._keyframe
        height, width = _segment_px(frame)
        down, across = _segments(frame)
        tables = {"jpegtables": page.jpegtables, "jpegheader": frame.jpegheader} if _has_jpeg_tables(frame) else {}
        with _path(page).open("rb") as file:
            for row in range(ys[0] // height, ys[-1] // height + 1):
                for column in range(xs[0] // width, xs[-1] // width + 1):
                    index = (plane * down + row) * across + column
                    data = os.pread(file.fileno(), page.databytecounts[index], page.dataoffsets[index])
                    try:
                        tile, _, _ = self._decode(data or None, index, _fullsize=False, **tables)
                    except _DECODE_ERRORS as error:
                        msg = (
                            f"{_path(page).name} is damaged: {'tile' if frame.is_tiled else 'strip'} {index} of page "
                            f"{page.index} does not decode ({error}). Copy or export the file again."
                        )
                        raise InputError(msg) from error
                    if tile is None:  # a sparse file leaves empty tiles out
                        continue
                    y_out, y_in = _overlap(ys, row * height, tile.shape[1])
                    x_out, x_in = _overlap(xs, column * width, tile.shape[2])
                    out[y_out, x_out] = tile[0, y_in, x_in]

    def _check(self, page: Any) -> None:
        path, needed = _path(page), self._planes * math.prod(_segments(self._keyframe))
        if len(page.dataoffsets) < needed:
            msg = f"{path.name} is damaged: page {page.index} lists {len(page.dataoffsets)} of its {needed} tiles."
            raise InputError(msg)
        _check_length(path, max(o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=False)))


def _level(path: Path, level: Any) -> LazyImage:
    shape = tuple(n for n, axis in zip(level.shape, level.axes, strict=True) if n > 1 or axis in "YX")
    if level.dataoffset is not None:  # one run of plain numbers: the operating system reads it best
        _check_length(path, level.dataoffset + level.nbytes)
        dtype = np.dtype(level.dtype).newbyteorder(level.keyframe.parent.byteorder)
        return np.memmap(path, mode="r", dtype=dtype, offset=level.dataoffset, shape=shape)
    pages = list(level.pages)
    if any(page is None for page in pages):
        msg = f"{path.name} lacks {sum(page is None for page in pages)} of the {len(pages)} pages it announces."
        raise InputError(msg)
    return _PagedImage(pages, shape, np.dtype(level.dtype))


def _check_pages(path: Path, tiff: tifffile.TiffFile) -> None:
    # tifffile ends the list of pages where the next one lies beyond the end of the file.
    tiff.filehandle.seek(tiff.pages.next_page_offset)
    place = tiff.filehandle.read(tiff.tiff.offsetsize)
    _check_length(path, int.from_bytes(place, "little" if tiff.byteorder == "<" else "big"))


def _check_length(path: Path, end: int) -> None:
    size = path.stat().st_size
    if end > size:
        msg = f"{path.name} is truncated: it is {size:,} bytes long, but tells of data at byte {end:,}. Copy it again."
        raise InputError(msg)


def _squeezed_axes(series: Any) -> str:
    return "".join(axis for n, axis in zip(series.shape, series.axes, strict=True) if n > 1 or axis in "YX")


def _path(page: Any) -> Path:
    return Path(page.parent.filehandle.path)


def _segment_px(page: Any) -> tuple[int, int]:
    """Return height and width of what is decoded at once: a tile or a strip."""
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    return min(page.rowsperstrip or page.imagelength, page.imagelength), page.imagewidth


def _segments(page: Any) -> tuple[int, int]:
    """Return how many tiles or strips lie below and beside each other."""
    height, width = _segment_px(page)
    return -(-page.imagelength // height), -(-page.imagewidth // width)


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


def _sign(step: int) -> int:
    return 1 if step > 0 else -1


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
        said = f" ({error})" if isinstance(error, tifffile.TiffFileError) else ""
        return InputError(
            f"{path.name} begins like a TIFF but its header cannot be followed{said}: it is truncated or damaged. "
            "Copy or export the file again."
        )
    return InputError(
        f"{path.name} is not a TIFF file (it begins with {magic!r}). Give an OME-TIFF, a qptiff or a TIFF stack."
    )
