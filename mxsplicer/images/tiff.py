"""TIFF files as lazy images: each stored tile or strip is decoded when it is asked for, and no other.

tifffile parses the file and decodes its segments; what is added here is slicing by channel and window, which opens the
file for reading only as long as a slice takes, so that slides can be handed between threads without a lock.
"""

import logging
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from mxsplicer.errors import InputError
from mxsplicer.images.slide import LazyImage
from mxsplicer.images.windows import Pick, Windowed, as_index
from mxsplicer.system.location import Location, file_system, locate, name_of, unreachable

_DECODE_ERRORS = (ValueError, RuntimeError, OSError, KeyError, IndexError, TypeError, NotImplementedError, MemoryError)
_LARGEST_SEGMENT = 1 << 32  # bytes that one tile or strip may decode to
_ALWAYS_POSSIBLE = 1 << 26  # bytes that are decoded whatever their compressed size promises
_BEST_RATIO = 50_000  # of decoded to stored bytes: zstd's on one repeated number, the highest of the lossless codecs
_MOST_PLANES = 1_000_000

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
    descriptions: tuple[str, ...]  # ImageDescription of each page; of an OME-TIFF the OME-XML first
    resolution_um: float | None  # pixel size by the resolution tags, where they have a unit
    units_per_pixel: float | None  # the same in whatever unit the dialect means
    aspect: float  # height of a pixel by the resolution tags, as a multiple of its width
    imagej: dict[str, Any]  # ImageJ's own metadata


def open_tiff(path: Path | str) -> TiffSeries:
    """Open the first image of a TIFF file, reading its headers only.

    A file of a multi-file OME-TIFF, or its companion, opens the whole image that it belongs to.
    """
    location = locate(path)
    if isinstance(location, str):
        return _opened_or_refused(location)
    stamp = location.stat()
    return _remembered(location, stamp.st_mtime_ns, stamp.st_size)


@lru_cache(maxsize=1)
def _remembered(path: Path, _changed: int, _size: int) -> TiffSeries:
    # Each reader asks whether a file is of its dialect.
    return _opened_or_refused(path)


def _opened_or_refused(location: Location) -> TiffSeries:
    try:
        return _open(location)
    except InputError:
        raise
    except OSError as error:
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            raise
        raise _not_a_tiff(location, error) from error
    except Exception as error:  # a broken header surfaces in tifffile as almost any exception
        raise _not_a_tiff(location, error) from error


def _open(location: Location, omexml: str | None = None, *, is_master: bool = False) -> TiffSeries:
    if omexml is None and isinstance(location, Path) and _is_companion(location):
        omexml = location.read_text(encoding="utf-8")
        location = _first_of(location, omexml)
    with _opened(location) as file, tifffile.TiffFile(file, omexml=omexml) as tiff:
        _check_chain(location, tiff)
        if tiff.ome_metadata:
            master = None if omexml or is_master else _metadata_file(location, tiff.ome_metadata)
            if master is not None and _is_companion(master):
                return _open(location, omexml=master.read_text(encoding="utf-8"))
            if master is not None:
                return _open(master, is_master=True)
            _check_ome(location, tiff.ome_metadata)
        series = tiff.series[0]
        _check_pages(location, tiff)
        axes = _squeezed_axes(series)
        levels = [_level(location, tiff, number) for number in range(len(series.levels))]
        page = series.keyframe
        pages = [one for one in series.pages if one is not None]
        return TiffSeries(
            image=levels[0],
            pyramid=tuple(levels[1:]),
            axes=axes,
            tile_px=_tile_px(levels[0], axes),
            compression=_word(page.compression).lower(),
            kind=series.kind,
            photometric=_word(page.photometric),
            descriptions=tuple(tiff.ome_metadata or _description(one) for one in pages[:1])
            + tuple(_description(one) for one in pages[1:]),
            resolution_um=_resolution_um(page),
            units_per_pixel=_units_per_pixel(page),
            aspect=_aspect(page),
            imagej=tiff.imagej_metadata or {},
        )


class _TiffImage(Windowed):
    """A level of a TIFF; as a pickle it is the name of its file, which is opened again."""

    def __init__(self, shape: Sequence[int], dtype: Any, origin: tuple[Location, int], chunk: tuple[int, ...]) -> None:
        super().__init__(shape, dtype)
        self.chunk = chunk  # length along each axis of what is decoded at once
        self._origin = origin

    def __reduce__(self) -> tuple[Callable[[Location, int], LazyImage], tuple[Location, int]]:
        return _opened_again, self._origin


def _opened_again(location: Location, level: int) -> LazyImage:
    series = open_tiff(location)
    return (series.image, *series.pyramid)[level]


class _PlainImage(_TiffImage):
    """Numbers that lie in the file one after the other: the operating system reads them best.

    The file is mapped only as long as a window takes, so that what was read does not stay in memory.
    """

    def __init__(self, path: Path, offset: int, stored: np.dtype[Any], **options: Any) -> None:
        super().__init__(dtype=stored, **options)
        self._path, self._offset, self._stored = path, offset, stored

    def read(self, picks: Sequence[Pick]) -> np.ndarray:
        """Return the pixels at ``picks``."""
        plain = np.memmap(self._path, mode="r", dtype=self._stored, offset=self._offset, shape=self.shape)
        return np.array(plain[tuple(as_index(pick) for pick in picks)], dtype=self.dtype)


@dataclass(frozen=True, eq=False)
class _Page:
    """Where the tiles or strips of a page lie: in tifffile's tuples they would take five times the memory."""

    location: Location
    number: int
    offsets: np.ndarray  # (segments,) int64
    lengths: np.ndarray
    jpegtables: bytes | None


class _PagedImage(_TiffImage):
    """Pages of a TIFF, one per index of the leading axes; (..., Y, X) or (..., Y, X, S) with samples last.

    The pages of a multi-file OME-TIFF lie in several files; samples that are stored apart count as leading axis.
    """

    def __init__(self, pages: Sequence[_Page], frame: Any, **options: Any) -> None:
        super().__init__(**options)
        self._pages = pages
        self._decode = frame.decode  # bound while the file is open: of a JPEG it looks at the first tile
        self._jpegheader = frame.jpegheader if _has_jpeg_tables(frame) else None
        self._has_tables = _has_jpeg_tables(frame)
        self._empty = frame.nodata  # what stands for tiles that a sparse file leaves out
        self._segment = "tile" if frame.is_tiled else "strip"
        self._segment_px, self._segments = _segment_px(frame), _segments(frame)
        self._planes, self._samples = _planes(frame), _samples(frame)

    def read(self, picks: Sequence[Pick]) -> np.ndarray:
        """Return the pixels at ``picks``."""
        n_lead = self.ndim - 2 - (self._samples > 1)
        lead = self.shape[:n_lead]
        places = np.arange(math.prod(lead)).reshape(lead)[np.ix_(*picks[:n_lead])]
        ys, xs = picks[n_lead : n_lead + 2]
        box_y, box_x = (_ascending(pick) for pick in (ys, xs))
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
        """Fill ``out`` (y, x, samples) with the window of a page; its plane, where samples are stored apart."""
        page = self._pages[number]
        height, width = self._segment_px
        down, across = self._segments
        tables = {"jpegtables": page.jpegtables, "jpegheader": self._jpegheader} if self._has_tables else {}
        with _bytes_of(page.location) as read_at:
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
                            f"not decode ({error}). Copy or export the file again."
                        )
                        raise InputError(msg) from error


def _level(location: Location, tiff: tifffile.TiffFile, number: int) -> LazyImage:
    level = tiff.series[0].levels[number]
    name, frame = name_of(location), level.keyframe
    shape = tuple(int(n) for n, axis in zip(level.shape, level.axes, strict=True) if n > 1 or axis in "YX")
    numbers = np.dtype(level.dtype or object).kind in "uifb"
    if not numbers or len(shape) < 2 or 0 in (*shape, _samples(frame), _planes(frame)):
        msg = f"{name} holds {shape} numbers of type {level.dtype}; pixels of integers or floats are needed."
        raise InputError(msg)
    if frame.compression != 1 and frame.compression not in tifffile.TIFF.DECOMPRESSORS:
        msg = (
            f"{name} is compressed by {_word(frame.compression)}, which cannot be read. Export it with deflate or LZW."
        )
        raise InputError(msg)
    options: dict[str, Any] = {"shape": shape, "origin": (location, number)}
    if level.dataoffset is not None and isinstance(location, Path):
        stored = np.dtype(level.dtype).newbyteorder(frame.parent.byteorder)
        _check_length(location, tiff.filehandle.size, level.dataoffset + math.prod(shape) * stored.itemsize)
        chunk = tuple(min(512, n) for n in shape)  # any window is as good; no writer's strips need be kept to
        return _PlainImage(location, level.dataoffset, stored, chunk=chunk, **options)
    pages = list(level.pages)
    if any(page is None for page in pages):
        lacking = ", ".join(_missing_files(location, tiff.ome_metadata or ""))
        if lacking and isinstance(location, str):
            raise _in_several_files(location)
        msg = f"{name} lacks {sum(page is None for page in pages)} of the {len(pages)} pages it announces."
        raise InputError(
            msg + (f" Put beside it what it names: {lacking}." if lacking else " Copy or export it again.")
        )
    n_lead = len(shape) - 2 - (_samples(frame) > 1)
    pixels = (frame.imagelength, frame.imagewidth, *([_samples(frame)] if _samples(frame) > 1 else []))
    if shape[max(0, n_lead) :] != pixels or math.prod(shape[:n_lead]) != len(pages) * _planes(frame):
        msg = f"{name} announces {shape} but stores {len(pages)} pages of {pixels}. Export the file again."
        raise InputError(msg)
    if frame.imagedepth != 1:
        msg = f"{name} stores volumes of {frame.imagedepth} planes. Export one plane per page."
        raise InputError(msg)
    chunk = (*(1,) * n_lead, *_segment_px(frame), *pixels[2:])
    found = [_page(location, tiff, page) for page in pages]
    _check_segments(name, frame, max(int(page.lengths.max()) for page in found), np.dtype(level.dtype).itemsize)
    return _PagedImage(found, frame, dtype=level.dtype, chunk=chunk, **options)


def _page(location: Location, tiff: tifffile.TiffFile, page: Any) -> _Page:
    """Return where the segments of a page lie, all of them inside their file."""
    if page.parent is not tiff:
        location = Path(page.parent.filehandle.path)
    name = name_of(location)
    needed = _planes(page.keyframe) * math.prod(_segments(page.keyframe))
    offsets, lengths = (
        np.fromiter(numbers, dtype=np.int64, count=len(numbers)) for numbers in (page.dataoffsets, page.databytecounts)
    )
    listed = min(len(offsets), len(lengths))
    if listed < needed:
        msg = f"{name} is damaged: page {page.index} lists {listed} of its {needed} tiles. Copy or export it again."
        raise InputError(msg)
    offsets, lengths = offsets[:needed], lengths[:needed]
    if min(offsets.min(), lengths.min()) < 0:
        msg = f"{name} is damaged: page {page.index} has tiles at no place. Copy or export it again."
        raise InputError(msg)
    _check_length(location, page.parent.filehandle.size, int((offsets + lengths).max()))
    return _Page(location, page.index, offsets, lengths, page.jpegtables)


def _check_segments(name: str, frame: Any, longest: int, itemsize: int) -> None:
    """Raise where a tile or strip promises more than its bytes can hold, or than should be decoded at once."""
    height, width = _segment_px(frame)
    promised = height * width * _samples(frame) * itemsize
    ratio = 64 if frame.compression == 1 else _BEST_RATIO  # a bit may become a byte, or eight
    if promised > max(_ALWAYS_POSSIBLE, longest * ratio):
        msg = (
            f"{name} is damaged: its {'tiles' if frame.is_tiled else 'strips'} of ({height}, {width}) are to decode to "
            f"{promised:,} bytes each, and {longest:,} bytes are stored of the longest. Copy or export the file again."
        )
        raise InputError(msg)
    if promised > _LARGEST_SEGMENT:
        msg = (
            f"{name} is stored in {'tiles' if frame.is_tiled else 'strips'} of ({height}, {width}), "
            f"{promised / 2**30:,.0f} GiB each; write it again in tiles, of 512 pixels for instance."
        )
        raise InputError(msg)


def _check_chain(location: Location, tiff: tifffile.TiffFile) -> None:
    """Raise where the pages point to each other in a circle, which tifffile notices of short circles only."""
    form, file = tiff.tiff, tiff.filehandle
    offset, seen = _number(tiff, form.offsetsize if form.is_bigtiff else 4, form.offsetsize), set[int]()
    while 0 < offset < file.size and not form.is_ndpi:  # NDPI has offsets of its own
        if offset in seen and len(seen) > 90:
            msg = f"{name_of(location)} is damaged: its pages point to each other in a circle. Export the file again."
            raise InputError(msg)
        if offset in seen:
            break
        seen.add(offset)
        n_tags = _number(tiff, offset, form.tagnosize)
        offset = _number(tiff, offset + form.tagnosize + n_tags * form.tagsize, form.offsetsize)
    len(tiff.pages)  # read all at once; where it reads page by page, tifffile does not look for circles


def _check_pages(location: Location, tiff: tifffile.TiffFile) -> None:
    # tifffile ends the list of pages where the next one lies beyond the end of the file.
    end = _number(tiff, tiff.pages.next_page_offset, tiff.tiff.offsetsize)
    _check_length(location, tiff.filehandle.size, end)


def _number(tiff: tifffile.TiffFile, place: int, n_bytes: int) -> int:
    tiff.filehandle.seek(place)
    return int.from_bytes(tiff.filehandle.read(n_bytes), "little" if tiff.byteorder == "<" else "big")


def _check_length(location: Location, size: int, end: int) -> None:
    if end > size:
        name = name_of(location)
        msg = f"{name} is truncated: it is {size:,} bytes long, but tells of data at byte {end:,}. Copy it again."
        raise InputError(msg)


# OME-XML: what must be known before tifffile follows it.


def _check_ome(location: Location, xml: str) -> None:
    """Raise where tifffile would make lists of what a broken OME-XML announces, or leave the folder for its files."""
    planes = math.prod(max((int(n) for n in re.findall(rf'\bSize{axis}="(\d+)"', xml)), default=1) for axis in "CZT")
    counts = [int(n) for n in re.findall(r'\b(?:PlaneCount|NumPlanes|IFD|First[CZT])="(\d+)"', xml)]
    if max([planes, *counts]) > _MOST_PLANES or re.search(r"ModuloAlong\w+[^>]*\bStart=", xml):
        msg = f"the OME-XML of {name_of(location)} announces {max([planes, *counts]):,} planes. Export the file again."
        raise InputError(msg)
    for file in _file_names(xml):
        if Path(file).is_absolute() or ".." in Path(file).parts:
            msg = f"the OME-XML of {name_of(location)} names {file!r}, outside its folder. Put all files into one."
            raise InputError(msg)


def _file_names(xml: str) -> list[str]:
    return list(dict.fromkeys(re.findall(r'\bFileName="([^"]+)"', xml)))


def _missing_files(location: Location, xml: str) -> list[str]:
    folder = location.parent if isinstance(location, Path) else None
    return [file for file in _file_names(xml) if folder is None or not (folder / file).is_file()][:10]


def _metadata_file(location: Location, xml: str) -> Path | None:
    """Return the file that holds the OME-XML of a multi-file image, where this one refers to it."""
    match = re.search(r'<(?:\w+:)?BinaryOnly\b[^>]*\bMetadataFile="([^"]+)"', xml)
    if match is None:
        return None
    name = match[1]
    if isinstance(location, str):
        raise _in_several_files(location)
    if Path(name).name == name and (location.parent / name).is_file():
        return location.parent / name
    msg = (
        f"{name_of(location)} is a part of an image described by {name!r}, which is not there. Put it beside the file."
    )
    raise InputError(msg)


def _in_several_files(url: str) -> InputError:
    return InputError(
        f"{name_of(url)} is a part of an image in several files, which are not read at a URL. Copy all of them into "
        "one folder and give one of them there."
    )


def _is_companion(path: Path) -> bool:
    """Return whether a file is OME-XML and no TIFF."""
    with path.open("rb") as file:
        begin = file.read(1024).lstrip(b"\xef\xbb\xbf \r\n\t")
    return begin.startswith(b"<") and (path.suffix == ".ome" or b"<OME" in begin or b":OME" in begin)


def _first_of(companion: Path, xml: str) -> Path:
    _check_ome(companion, xml)
    for file in _file_names(xml):
        if (companion.parent / file).is_file():
            return companion.parent / file
    msg = (
        f"{companion.name} is OME-XML without pixels, and none of the files it names is beside it. Give the image file."
    )
    raise InputError(msg)


# Bytes, from a disk or from a URL.


@contextmanager
def _opened(location: Location) -> Iterator[Any]:
    """Give what tifffile opens: a path, or the file object of a URL."""
    if isinstance(location, Path):
        yield location
        return
    system, path = file_system(location)
    try:
        file = system.open(path, "rb")
    except FileNotFoundError as error:
        msg = f"there is nothing at {location}. Give the address of a TIFF, or of the folder of an OME-Zarr image."
        raise InputError(msg) from error
    except Exception as error:  # each backend of fsspec has its own
        raise unreachable(location, error) from error
    with file:
        yield file


@contextmanager
def _bytes_of(location: Location) -> Iterator[Callable[[int, int], bytes]]:
    """Give a function that reads (offset, length); the file is open no longer than that is needed."""
    if isinstance(location, Path):
        with location.open("rb") as file:
            yield lambda offset, length: os.pread(file.fileno(), length, offset)
    else:
        system, path = file_system(location)
        yield lambda offset, length: system.cat_file(path, start=offset, end=offset + length)


def _squeezed_axes(series: Any) -> str:
    return "".join(axis for n, axis in zip(series.shape, series.axes, strict=True) if n > 1 or axis in "YX")


def _segment_px(page: Any) -> tuple[int, int]:
    """Return height and width of what is decoded at once: a tile or a strip."""
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    return min(page.rowsperstrip or page.imagelength, page.imagelength), page.imagewidth


def _segments(page: Any) -> tuple[int, int]:
    """Return how many tiles or strips lie below and beside each other."""
    height, width = _segment_px(page)
    return -(-page.imagelength // height), -(-page.imagewidth // width)


def _planes(page: Any) -> int:
    """Return how many samples are stored apart."""
    return int(page.samplesperpixel) if page.planarconfig == 2 else 1


def _samples(page: Any) -> int:
    """Return how many samples each stored pixel has."""
    return 1 if page.planarconfig == 2 else int(page.samplesperpixel)


def _tile_px(image: Any, axes: str) -> tuple[int, int]:
    return image.chunk[axes.index("Y")], image.chunk[axes.index("X")]


def _word(code: Any) -> str:
    # tifffile keeps a code that it has no name for as a number.
    return str(getattr(code, "name", code))


def _has_jpeg_tables(page: Any) -> bool:
    return _word(page.compression) in ("JPEG", "OJPEG", "JPEG_LOSSY")


def _ascending(pick: Pick) -> range:
    """Return the range that holds what is wanted of an axis."""
    return pick if isinstance(pick, range) else range(int(pick.min()), int(pick.max()) + 1)


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
    um_per_unit = {2: 25_400.0, 3: 10_000.0}.get(int(unit.value) if unit else 2)
    size = _units_per_pixel(page)
    return None if size is None or um_per_unit is None else um_per_unit * size


def _aspect(page: Any) -> float:
    width, height = (_units_per_pixel(page, axis) for axis in "XY")
    return height / width if width and height else 1.0


def _units_per_pixel(page: Any, axis: str = "X") -> float | None:
    resolution = page.tags.get(f"{axis}Resolution")
    if resolution is None or not all(resolution.value):
        return None
    numerator, denominator = resolution.value
    return float(denominator / numerator)


def _not_a_tiff(location: Location, error: Exception) -> InputError:
    name = name_of(location)
    with _bytes_of(location) as read_at:
        magic = read_at(0, 4)
    if magic[:2] in (b"II", b"MM"):
        said = f" ({error})" if isinstance(error, tifffile.TiffFileError) else ""
        return InputError(
            f"{name} begins like a TIFF but its header cannot be followed{said}: it is truncated or damaged. "
            "Copy or export the file again."
        )
    if magic[:1] == b"<" and isinstance(location, str) and ".ome" in name:
        return _in_several_files(location)
    return InputError(
        f"{name} is not a TIFF file (it begins with {magic!r}). Give an OME-TIFF, OME-Zarr, qptiff or TIFF stack."
    )
