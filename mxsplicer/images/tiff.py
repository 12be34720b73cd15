"""Open TIFF files as lazy images: headers are read and checked, and each tile or strip is decoded when it is sliced.

tifffile decodes the tiles and strips; what is added here is slicing by channel and window, which opens the file only
while a slice is read, so that slides can be shared between threads without a lock. Damaged files are refused early.
"""

import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from mxsplicer.errors import InputError
from mxsplicer.images.lazy_images import LazyImage, Pick, Windowed, as_index
from mxsplicer.images.ome_xml import (
    check_ome_xml,
    find_files,
    first_image_of,
    is_companion,
    metadata_file,
    missing_files,
    several_files_at_url,
)
from mxsplicer.system.location import Location, file_system, locate, name_of, unreachable

# tifffile logs what it finds odd in a file; what matters is raised here as an InputError.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)


_LARGEST_SEGMENT = 1 << 32  # bytes that one tile or strip may decode to
_ALWAYS_POSSIBLE = 1 << 26  # bytes that are decoded whatever their compressed size
_BEST_RATIO = 50_000  # of decoded to stored bytes: zstd's on one repeated number, the highest of the lossless codecs

_DECODE_ERRORS = (ValueError, RuntimeError, OSError, KeyError, IndexError, TypeError, NotImplementedError, MemoryError)

Reopen = tuple[Callable[..., LazyImage], tuple[Any, ...]]  # a function and its arguments


@dataclass(frozen=True)
class TiffEntry:
    """One image of a TIFF file, before it is opened."""

    name: str
    axes: str  # without those of length one
    shape: tuple[int, ...]  # of the finest level
    n_levels: int
    dtype: str
    photometric: str

    @property
    def is_colour(self) -> bool:
        """Whether the samples are colours; samples of floats are markers that a writer stored as samples of a pixel."""
        if "S" not in self.axes or self.photometric not in ("RGB", "YCBCR", "PALETTE"):
            return False
        return self.shape[self.axes.index("S")] in (3, 4) and np.dtype(self.dtype).kind in "ui"


@dataclass(frozen=True)
class TiffListing:
    """The images of a TIFF file, in their order."""

    kind: str  # tifffile's word for the dialect: "ome", "qpi", "imagej", "generic", ...
    images: tuple[TiffEntry, ...]
    ome_xml: str  # "" if the file has none


@dataclass(frozen=True, eq=False)
class TiffSeries:
    """One image of a TIFF file and its metadata."""

    image: LazyImage  # axes as in `axes`
    pyramid: tuple[LazyImage, ...]  # coarser levels, same axes
    axes: str  # without those of length one: "CYX", "YX", "YXS", ...
    tile_px: tuple[int, int]
    compression: str
    kind: str  # as in TiffListing
    photometric: str
    descriptions: tuple[str, ...]  # ImageDescription of each page; of an OME-TIFF the OME-XML first
    resolution_um: float | None  # pixel size by the resolution tags, if they have a unit
    units_per_pixel: float | None  # the same in the unit of the dialect
    aspect: float  # height of a pixel by the resolution tags, as a multiple of its width
    imagej: dict[str, Any]  # ImageJ's own metadata
    page_names: tuple[str, ...]  # tag PageName of each page; empty if the first has none


def list_images(path: Path | str) -> TiffListing:
    """List the images of a TIFF file; only headers are read.

    For one file of a multi-file OME-TIFF, or for its companion file, the images of the whole set are listed.
    """
    listing: TiffListing = _cached(locate(path), _listing)
    return listing


def open_tiff(path: Path | str, number: int = 0) -> TiffSeries:
    """Open one image of a TIFF file, by its place in :func:`list_images`; only headers are read."""
    series: TiffSeries = _cached(locate(path), _series, number)
    return series


_Read = Callable[..., Any]  # (location, file, *arguments) -> what was read


def _cached(location: Location, read: _Read, *arguments: int) -> Any:
    if isinstance(location, str):
        return _read_or_refuse(location, read, arguments)
    stamp = location.stat()
    known, key = _known_of(location, stamp.st_mtime_ns, stamp.st_size), (read, arguments)
    if key not in known:
        known[key] = _read_or_refuse(location, read, arguments)
    return known[key]


@lru_cache(maxsize=1)
def _known_of(_path: Path, _changed: int, _size: int) -> dict[tuple[_Read, tuple[int, ...]], Any]:
    # Of the last file: every reader lists its images to see its dialect, and then some of them are opened.
    return {}


def _read_or_refuse(location: Location, read: _Read, arguments: tuple[int, ...]) -> Any:
    try:
        with _opened(location) as (found, tiff):
            return read(found, tiff, *arguments)
    except InputError:
        raise
    except OSError as error:
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            raise
        raise _not_a_tiff(location, error) from error
    except Exception as error:  # a broken header surfaces in tifffile as almost any exception
        raise _not_a_tiff(location, error) from error


@contextmanager
def _opened(
    location: Location, omexml: str | None = None, *, is_master: bool = False
) -> Iterator[tuple[Location, tifffile.TiffFile]]:
    """Yield the TIFF file that describes an image, and tifffile's view of it, which finds the other files of a set."""
    if omexml is None and isinstance(location, Path) and is_companion(location):
        companion, omexml = location, location.read_text(encoding="utf-8")
        location = first_image_of(companion, omexml)
    with open_for_tifffile(location) as file, tifffile.TiffFile(file, omexml=omexml) as tiff:
        check_chain(location, tiff)
        follow = None
        if tiff.ome_metadata:
            master = None if omexml or is_master else metadata_file(location, tiff.ome_metadata)
            if master is not None and is_companion(master):
                follow = _opened(location, omexml=master.read_text(encoding="utf-8"))
            elif master is not None:
                follow = _opened(master, is_master=True)
            else:
                check_ome_xml(location, tiff.ome_metadata)
                present = find_files(location, tiff.ome_metadata, n_pages=len(tiff.pages))
                if present != tiff.ome_metadata:
                    follow = _opened(location, omexml=present, is_master=True)
        if follow is None:
            check_last_page(location, tiff)
            yield location, tiff
    if follow is not None:
        with follow as found:
            yield found


def _listing(_location: Location, tiff: tifffile.TiffFile) -> TiffListing:
    images = tuple(
        TiffEntry(
            name=str(series.name or "").strip(),
            axes=_squeezed_axes(series),
            shape=_squeezed_shape(series),
            n_levels=len(series.levels),
            dtype=str(series.dtype),
            photometric=code_name(series.keyframe.photometric),
        )
        for series in tiff.series
    )
    return TiffListing(tiff.series[0].kind, images, tiff.ome_metadata or "")


def _series(location: Location, tiff: tifffile.TiffFile, number: int) -> TiffSeries:
    series = tiff.series[number]
    axes = _squeezed_axes(series)
    levels = [_level(location, tiff, number, level) for level in range(len(series.levels))]
    page = series.keyframe
    pages = [one for one in series.pages if one is not None]
    return TiffSeries(
        image=levels[0],
        pyramid=tuple(levels[1:]),
        axes=axes,
        tile_px=_tile_px(levels[0], axes),
        compression=code_name(page.compression).lower(),
        kind=series.kind,
        photometric=code_name(page.photometric),
        descriptions=tuple(tiff.ome_metadata or _description(one) for one in pages[:1])
        + tuple(_description(one) for one in pages[1:]),
        resolution_um=_resolution_um(page),
        units_per_pixel=_units_per_pixel(page),
        aspect=_aspect(page),
        imagej=tiff.imagej_metadata or {},
        page_names=_page_names(tiff, pages),
    )


def open_level(location: Location, number: int, level: int) -> LazyImage:
    """Return one level of an image of a TIFF file, 0 being the finest."""
    series = open_tiff(location, number)
    return (series.image, *series.pyramid)[level]


class TiffImage(Windowed):
    """A level of a TIFF file. Its pickle holds no pixels: unpickling opens the file again by ``reopen``."""

    def __init__(self, shape: Sequence[int], dtype: Any, reopen: Reopen, chunk: tuple[int, ...]) -> None:
        super().__init__(shape, dtype)
        self.chunk = chunk  # length along each axis of what is decoded at once
        self._reopen = reopen

    def __reduce__(self) -> Reopen:
        return self._reopen


def _level(location: Location, tiff: tifffile.TiffFile, number: int, level_number: int) -> TiffImage:
    level = tiff.series[number].levels[level_number]
    name, frame = name_of(location), level.keyframe
    shape = _squeezed_shape(level)
    numbers = np.dtype(level.dtype or object).kind in "uifb"
    if not numbers or len(shape) < 2 or 0 in (*shape, n_samples(frame), n_planes(frame)):
        msg = f"{name} holds {shape} numbers of type {level.dtype}; pixels of integers or floats are needed."
        raise InputError(msg)
    if frame.compression != 1 and frame.compression not in tifffile.TIFF.DECOMPRESSORS:
        msg = f"{name} is compressed by {code_name(frame.compression)}, which cannot be read."
        raise InputError(msg, "Export it with deflate or LZW.")
    options: dict[str, Any] = {"shape": shape, "reopen": (open_level, (location, number, level_number))}
    if level.dataoffset is not None and isinstance(location, Path):
        stored = np.dtype(level.dtype).newbyteorder(frame.parent.byteorder)
        check_length(location, tiff.filehandle.size, level.dataoffset + math.prod(shape) * stored.itemsize)
        chunk = tuple(min(512, n) for n in shape)  # any window is equally fast, whatever the strips of the file
        return PlainImage(location, level.dataoffset, stored, chunk=chunk, **options)
    pages = list(level.pages)
    _check_pages_found(location, tiff, pages)
    n_lead = len(shape) - 2 - (n_samples(frame) > 1)
    pixels = (frame.imagelength, frame.imagewidth, *([n_samples(frame)] if n_samples(frame) > 1 else []))
    if shape[max(0, n_lead) :] != pixels or math.prod(shape[:n_lead]) != len(pages) * n_planes(frame):
        msg = f"{name} announces {shape} but stores {len(pages)} pages of {pixels}."
        raise InputError(msg, "Export the file again.")
    if frame.imagedepth != 1:
        msg = f"{name} stores volumes of {frame.imagedepth} planes."
        raise InputError(msg, "Export one plane per page.")
    chunk = (*(1,) * n_lead, *segment_px(frame), *pixels[2:])
    found = [_page(location, tiff, page) for page in pages]
    check_segments(name, frame, max(int(page.lengths.max()) for page in found), np.dtype(level.dtype).itemsize)
    return PagedImage(found, frame, dtype=level.dtype, chunk=chunk, **options)


def _check_pages_found(location: Location, tiff: tifffile.TiffFile, pages: Sequence[Any]) -> None:
    """Raise if pages of a TIFF lie in other files that were not found."""
    n_missing = sum(page is None for page in pages)
    if not n_missing:
        return
    files = ", ".join(missing_files(location, tiff.ome_metadata or ""))
    if files and isinstance(location, str):
        raise several_files_at_url(location)
    msg = f"{name_of(location)} lacks {n_missing} of the {len(pages)} pages it announces."
    raise InputError(msg, f"Put into its folder: {files}." if files else "Copy or export it again.")


@dataclass(frozen=True, eq=False)
class Page:
    """Where the tiles or strips of a TIFF page lie, in arrays: tifffile's tuples take five times the memory."""

    location: Location
    number: int
    offsets: np.ndarray  # (segments,) int64
    lengths: np.ndarray
    jpegtables: bytes | None


def _page(location: Location, tiff: tifffile.TiffFile, page: Any) -> Page:
    """Return where the tiles or strips of a TIFF page lie, all of them inside their file."""
    if page.parent is not tiff:
        location = Path(page.parent.filehandle.path)
    offsets, lengths = (
        np.fromiter(numbers, dtype=np.int64, count=len(numbers)) for numbers in (page.dataoffsets, page.databytecounts)
    )
    needed = n_planes(page.keyframe) * math.prod(n_segments(page.keyframe))
    offsets, lengths = check_page(location, page, offsets, lengths, needed)
    return Page(location, page.index, offsets, lengths, page.jpegtables)


def _squeezed_axes(series: Any) -> str:
    return "".join(axis for n, axis in zip(series.shape, series.axes, strict=True) if n > 1 or axis in "YX")


def _squeezed_shape(series: Any) -> tuple[int, ...]:
    return tuple(int(n) for n, axis in zip(series.shape, series.axes, strict=True) if n > 1 or axis in "YX")


def _tile_px(image: TiffImage, axes: str) -> tuple[int, int]:
    return image.chunk[axes.index("Y")], image.chunk[axes.index("X")]


def _description(page: Any) -> str:
    return str(page.description) if hasattr(page, "description") else ""


def _page_names(tiff: tifffile.TiffFile, pages: Sequence[Any]) -> tuple[str, ...]:
    """Return the tag PageName of each TIFF page; nothing if the first has none or they are not all in this file."""
    if "PageName" not in pages[0].aspage().tags or any(page.parent is not tiff or page.is_virtual for page in pages):
        return ()
    tags = [page.aspage().tags.get("PageName") for page in pages]
    return tuple("" if tag is None else str(tag.value).strip() for tag in tags)


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
    with byte_reader(location) as read_at:
        magic = read_at(0, 4)
    if magic[:2] in (b"II", b"MM"):
        reason = f" ({error})" if isinstance(error, tifffile.TiffFileError) else ""
        return InputError(
            f"{name} begins like a TIFF but its header cannot be read{reason}: it is truncated or damaged.",
            "Copy or export the file again.",
        )
    if magic[:1] == b"<" and isinstance(location, str) and ".ome" in name:
        return several_files_at_url(location)
    return InputError(
        f"{name} is not a TIFF file (it begins with {magic!r}).", "Give an OME-TIFF, OME-Zarr, qptiff or TIFF stack."
    )


def check_chain(location: Location, tiff: tifffile.TiffFile) -> None:
    """Raise if the pages point to each other in a circle; tifffile detects only short circles."""
    form, file = tiff.tiff, tiff.filehandle
    offset, seen = _read_number(tiff, form.offsetsize if form.is_bigtiff else 4, form.offsetsize), set[int]()
    while 0 < offset < file.size and not form.is_ndpi:  # NDPI has offsets of its own
        if offset in seen and len(seen) > 90:
            msg = f"{name_of(location)} is damaged: its pages point to each other in a circle."
            raise InputError(msg, "Export the file again.")
        if offset in seen:
            break
        seen.add(offset)
        n_tags = _read_number(tiff, offset, form.tagnosize)
        offset = _read_number(tiff, offset + form.tagnosize + n_tags * form.tagsize, form.offsetsize)
    len(tiff.pages)  # reads all pages at once; reading page by page, tifffile does not look for circles


def check_last_page(location: Location, tiff: tifffile.TiffFile) -> None:
    """Raise if a page lies beyond the end of the file, where tifffile silently ends the list of pages."""
    end = _read_number(tiff, tiff.pages.next_page_offset, tiff.tiff.offsetsize)
    check_length(location, tiff.filehandle.size, end)


def check_length(location: Location, size: int, end: int) -> None:
    """Raise if a TIFF file of ``size`` bytes is to hold data up to byte ``end``."""
    if end > size:
        msg = f"{name_of(location)} is truncated: it is {size:,} bytes long, but its data reach to byte {end:,}."
        raise InputError(msg, "Copy it again.")


def check_segments(name: str, frame: Any, longest: int, itemsize: int) -> None:
    """Raise if a tile or strip of a TIFF decodes to more than its bytes can hold, or more than is decoded at once.

    Parameters
    ----------
    frame
        A page of tifffile.
    longest
        Stored bytes of the longest tile or strip.
    itemsize
        Bytes of a pixel.
    """
    height, width = segment_px(frame)
    decoded = height * width * n_samples(frame) * itemsize
    ratio = 64 if frame.compression == 1 else _BEST_RATIO  # a bit may become a byte, or eight
    kind = "tiles" if frame.is_tiled else "strips"
    if decoded > max(_ALWAYS_POSSIBLE, longest * ratio):
        msg = (
            f"{name} is damaged: its {kind} of ({height}, {width}) should decode to {decoded:,} bytes each, but the "
            f"longest has {longest:,} stored bytes."
        )
        raise InputError(msg, "Copy or export the file again.")
    if decoded > _LARGEST_SEGMENT:
        msg = f"{name} is stored in {kind} of ({height}, {width}), {decoded / 2**30:,.0f} GiB each."
        raise InputError(msg, "Write it again in tiles, for instance of 512 pixels.")


def check_page(
    location: Location, page: Any, offsets: np.ndarray, lengths: np.ndarray, needed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return offsets and lengths of the ``needed`` segments of a TIFF page; raise if one is missing or misplaced."""
    name = name_of(location)
    listed = min(len(offsets), len(lengths))
    if listed < needed:
        msg = f"{name} is damaged: page {page.index} lists {listed} of its {needed} tiles."
        raise InputError(msg, "Copy or export it again.")
    offsets, lengths = offsets[:needed], lengths[:needed]
    if min(offsets.min(), lengths.min()) < 0:
        msg = f"{name} is damaged: page {page.index} has tiles at negative offsets."
        raise InputError(msg, "Copy or export it again.")
    check_length(location, page.parent.filehandle.size, int((offsets + lengths).max()))
    return offsets, lengths


def _read_number(tiff: tifffile.TiffFile, offset: int, n_bytes: int) -> int:
    tiff.filehandle.seek(offset)
    return int.from_bytes(tiff.filehandle.read(n_bytes), "little" if tiff.byteorder == "<" else "big")


class PlainImage(TiffImage):
    """Uncompressed numbers that lie in a TIFF file one after the other.

    The file is mapped only while a window is read, so that what was read does not stay in memory.
    """

    def __init__(self, path: Path, offset: int, stored: np.dtype[Any], **options: Any) -> None:
        super().__init__(dtype=stored, **options)
        self._path, self._offset, self._stored = path, offset, stored

    def read(self, picks: Sequence[Pick]) -> np.ndarray:
        """Return the pixels at ``picks``."""
        plain = np.memmap(self._path, mode="r", dtype=self._stored, offset=self._offset, shape=self.shape)
        return np.array(plain[tuple(as_index(pick) for pick in picks)], dtype=self.dtype)


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
    """Return the height and width of a tile or strip of a TIFF page, which are decoded at once."""
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    return min(page.rowsperstrip or page.imagelength, page.imagelength), page.imagewidth


def n_segments(page: Any) -> tuple[int, int]:
    """Return the number of tiles or strips of a TIFF page along Y and along X."""
    height, width = segment_px(page)
    return -(-page.imagelength // height), -(-page.imagewidth // width)


def n_planes(page: Any) -> int:
    """Return how many samples of a TIFF page are stored separately."""
    return int(page.samplesperpixel) if page.planarconfig == 2 else 1


def n_samples(page: Any) -> int:
    """Return how many samples each stored pixel of a TIFF page has."""
    return 1 if page.planarconfig == 2 else int(page.samplesperpixel)


def has_jpeg_tables(page: Any) -> bool:
    """Return whether the tiles of a TIFF page share their JPEG tables."""
    return code_name(page.compression) in ("JPEG", "OJPEG", "JPEG_LOSSY")


def code_name(code: Any) -> str:
    """Return the name of a code of tifffile, which keeps unknown codes as numbers."""
    return str(getattr(code, "name", code))


def _covering_range(pick: Pick) -> range:
    """Return the range of pixels to read of a TIFF: from the first to the last wanted index of an axis."""
    return pick if isinstance(pick, range) else range(int(pick.min()), int(pick.max()) + 1)


def _overlap(wanted: range, start: int, length: int) -> tuple[slice, slice]:
    """Return the slices, of the output and of a TIFF tile, for the wanted pixels in [start, start + length)."""
    first = max(0, -(-(start - wanted.start) // wanted.step))
    last = min(len(wanted), -(-(start + length - wanted.start) // wanted.step))
    if last <= first:
        return slice(0, 0), slice(0, 0)
    begin = wanted[first] - start
    return slice(first, last), slice(begin, begin + (last - first - 1) * wanted.step + 1, wanted.step)


@contextmanager
def open_for_tifffile(location: Location) -> Iterator[Any]:
    """Yield what tifffile opens: a path, or the file object of a URL."""
    if isinstance(location, Path):
        yield location
        return
    system, path = file_system(location)
    try:
        file = system.open(path, "rb")
    except FileNotFoundError as error:
        msg = f"nothing found at {location}."
        raise InputError(msg, "Give the address of a TIFF file, or of the folder of an OME-Zarr image.") from error
    except Exception as error:  # each backend of fsspec has its own
        raise unreachable(location, error) from error
    with file:
        yield file


@contextmanager
def byte_reader(location: Location) -> Iterator[Callable[[int, int], bytes]]:
    """Yield a function that reads (offset, length) of a TIFF file; the file is closed afterwards."""
    if isinstance(location, Path):
        with location.open("rb") as file:
            yield lambda offset, length: os.pread(file.fileno(), length, offset)
    else:
        system, path = file_system(location)
        yield lambda offset, length: system.cat_file(path, start=offset, end=offset + length)
