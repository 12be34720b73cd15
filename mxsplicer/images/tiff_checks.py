"""Check that the headers of a TIFF file describe data that the file can hold: damaged files are refused early."""

from typing import Any

import numpy as np
import tifffile

from mxsplicer.errors import InputError
from mxsplicer.images.tiff_pixels import n_samples, segment_px
from mxsplicer.system.location import Location, name_of

_LARGEST_SEGMENT = 1 << 32  # bytes that one tile or strip may decode to
_ALWAYS_POSSIBLE = 1 << 26  # bytes that are decoded whatever their compressed size
_BEST_RATIO = 50_000  # of decoded to stored bytes: zstd's on one repeated number, the highest of the lossless codecs


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
    """Raise if a file of ``size`` bytes is to hold data up to byte ``end``."""
    if end > size:
        msg = f"{name_of(location)} is truncated: it is {size:,} bytes long, but its data reach to byte {end:,}."
        raise InputError(msg, "Copy it again.")


def check_segments(name: str, frame: Any, longest: int, itemsize: int) -> None:
    """Raise if a tile or strip decodes to more than its bytes can hold, or more than should be decoded at once.

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
    """Return the offsets and lengths of the ``needed`` segments of a page; raise if one is missing or misplaced."""
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
