"""Open TIFF files as lazy images: the headers are read, and each tile or strip is decoded when it is sliced."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from mxsplicer.errors import InputError
from mxsplicer.images.ome_xml import (
    check_ome_xml,
    first_image_of,
    is_companion,
    metadata_file,
    missing_files,
    several_files_at_url,
)
from mxsplicer.images.slide import LazyImage
from mxsplicer.images.tiff_checks import check_chain, check_last_page, check_length, check_page, check_segments
from mxsplicer.images.tiff_io import byte_reader, open_for_tifffile
from mxsplicer.images.tiff_pixels import (
    Page,
    PagedImage,
    PlainImage,
    TiffImage,
    code_name,
    n_planes,
    n_samples,
    n_segments,
    segment_px,
)
from mxsplicer.system.location import Location, locate, name_of

# tifffile logs what it finds odd in a file; what matters is raised here as an InputError.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)


@dataclass(frozen=True, eq=False)
class TiffSeries:
    """The first image of a TIFF file and its metadata."""

    image: LazyImage  # axes as in `axes`
    pyramid: tuple[LazyImage, ...]  # coarser levels, same axes
    axes: str  # without those of length one: "CYX", "YX", "YXS", ...
    tile_px: tuple[int, int]
    compression: str
    kind: str  # tifffile's word for the dialect: "ome", "qpi", "imagej", "generic", ...
    photometric: str
    descriptions: tuple[str, ...]  # ImageDescription of each page; of an OME-TIFF the OME-XML first
    resolution_um: float | None  # pixel size by the resolution tags, if they have a unit
    units_per_pixel: float | None  # the same in the unit of the dialect
    aspect: float  # height of a pixel by the resolution tags, as a multiple of its width
    imagej: dict[str, Any]  # ImageJ's own metadata


def open_tiff(path: Path | str) -> TiffSeries:
    """Open the first image of a TIFF file; only headers are read.

    For one file of a multi-file OME-TIFF, or for its companion file, the whole image is opened.
    """
    location = locate(path)
    if isinstance(location, str):
        return _open_or_refuse(location)
    stamp = location.stat()
    return _open_cached(location, stamp.st_mtime_ns, stamp.st_size)


@lru_cache(maxsize=1)
def _open_cached(path: Path, _changed: int, _size: int) -> TiffSeries:
    # Every reader opens a file to see whether it is of its dialect.
    return _open_or_refuse(path)


def _open_or_refuse(location: Location) -> TiffSeries:
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
    if omexml is None and isinstance(location, Path) and is_companion(location):
        omexml = location.read_text(encoding="utf-8")
        location = first_image_of(location, omexml)
    with open_for_tifffile(location) as file, tifffile.TiffFile(file, omexml=omexml) as tiff:
        check_chain(location, tiff)
        if tiff.ome_metadata:
            master = None if omexml or is_master else metadata_file(location, tiff.ome_metadata)
            if master is not None and is_companion(master):
                return _open(location, omexml=master.read_text(encoding="utf-8"))
            if master is not None:
                return _open(master, is_master=True)
            check_ome_xml(location, tiff.ome_metadata)
        series = tiff.series[0]
        check_last_page(location, tiff)
        axes = _squeezed_axes(series)
        levels = [_level(location, tiff, number) for number in range(len(series.levels))]
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
        )


def open_level(location: Location, number: int) -> LazyImage:
    """Return one level of the first image of a TIFF file, 0 being the finest."""
    series = open_tiff(location)
    return (series.image, *series.pyramid)[number]


def _level(location: Location, tiff: tifffile.TiffFile, number: int) -> TiffImage:
    level = tiff.series[0].levels[number]
    name, frame = name_of(location), level.keyframe
    shape = tuple(int(n) for n, axis in zip(level.shape, level.axes, strict=True) if n > 1 or axis in "YX")
    numbers = np.dtype(level.dtype or object).kind in "uifb"
    if not numbers or len(shape) < 2 or 0 in (*shape, n_samples(frame), n_planes(frame)):
        msg = f"{name} holds {shape} numbers of type {level.dtype}; pixels of integers or floats are needed."
        raise InputError(msg)
    if frame.compression != 1 and frame.compression not in tifffile.TIFF.DECOMPRESSORS:
        msg = f"{name} is compressed by {code_name(frame.compression)}, which cannot be read."
        raise InputError(msg, "Export it with deflate or LZW.")
    options: dict[str, Any] = {"shape": shape, "reopen": (open_level, (location, number))}
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
    """Raise if pages lie in other files that were not found."""
    n_missing = sum(page is None for page in pages)
    if not n_missing:
        return
    files = ", ".join(missing_files(location, tiff.ome_metadata or ""))
    if files and isinstance(location, str):
        raise several_files_at_url(location)
    msg = f"{name_of(location)} lacks {n_missing} of the {len(pages)} pages it announces."
    raise InputError(msg, f"Put into its folder: {files}." if files else "Copy or export it again.")


def _page(location: Location, tiff: tifffile.TiffFile, page: Any) -> Page:
    """Return where the segments of a page lie, all of them inside their file."""
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


def _tile_px(image: TiffImage, axes: str) -> tuple[int, int]:
    return image.chunk[axes.index("Y")], image.chunk[axes.index("X")]


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
