"""Read a folder with one TIFF per channel, as MIBI, MACSima, CODEX, Xenium and IMC exports have it.

A channel is called as its file says, or else as the file is called, without what the names of all files share.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

from mxsplicer.errors import InputError
from mxsplicer.images.choosing import is_other_than_a_channel
from mxsplicer.images.lazy_images import Cropped
from mxsplicer.images.ome_xml import files_named_in
from mxsplicer.images.readers import imagej, ome_tiff, qptiff, tiff_stack
from mxsplicer.images.readers.image_file import ImageFile, join_channels
from mxsplicer.images.tiff import list_images
from mxsplicer.images.units import MOST_DIFFERENT
from mxsplicer.system.location import Location

logger = logging.getLogger(__name__)

_ENDING = re.compile(r"(\.ome)?\.(tiff?|btf)$", re.IGNORECASE)
_ANTIBODY = re.compile(r"_A-(.+?)(?:_[A-Z]-|$)")  # MACSima: ..._ROI-01_A-CD3_C-REA1151
_NUMBERED = re.compile(r"(?:ch|c|channel)?[\s_-]?\d+[\s_-]+(.+)", re.IGNORECASE)  # Xenium: ch0000_dapi
_MOST_CROPPED = 0.02  # of a side: what registration leaves


def read_tiff_folder(path: Location, image: str | None = None) -> ImageFile | None:
    """Read the headers of the TIFF files of a folder; return None if it has none, or ``path`` is not a folder."""
    if not isinstance(path, Path) or not path.is_dir():
        return None
    files = sorted((one for one in path.iterdir() if _is_tiff(one)), key=lambda one: _natural(one.name))
    if not files:
        return None
    if image is not None:
        msg = f"{path.name} is a folder of {len(files)} TIFF files, and image {image!r} of it was named."
        raise InputError(msg, "Give one file, or leave `image` out.")
    if len(files_named_in(list_images(files[0]).ome_xml)) > 1:  # one image in several files, each of which knows all
        return _read_set(path, files)
    others = [one for one in files if is_other_than_a_channel(_ENDING.sub("", one.name))]
    if others and len(others) < len(files):
        logger.warning("%s: left out, by their names: %s", path.name, ", ".join(one.name for one in others))
        files = [one for one in files if one not in others]
    found = [_read_file(one) for one in files]
    _check_single(path, files, found)
    found = _cropped(path, files, found)
    _check_pixel_sizes(path, files, found)
    joined = join_channels(found)
    return replace(joined, markers=_names_in_files(found) or tuple(_names_of_files(files)), any_order=True)


def find_folders_of_channels(folder: Path) -> list[Path]:
    """Return the folders in a folder that hold TIFF files."""
    inner = (one for one in sorted(folder.iterdir()) if one.is_dir() and not one.name.startswith("."))
    return [one for one in inner if any(_is_tiff(file) for file in one.iterdir())]


def _is_tiff(file: Path) -> bool:
    return file.is_file() and _ENDING.search(file.name) is not None and not file.name.startswith(".")


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part.casefold()) for part in re.split(r"(\d+)", name)]


def _read_set(folder: Path, files: Sequence[Path]) -> ImageFile:
    named = files_named_in(list_images(files[0]).ome_xml)
    alien = [one.name for one in files if one.name not in named]
    if alien:
        msg = f"{folder.name} holds an image in {len(named)} files, and others: {', '.join(alien[:5])}."
        raise InputError(msg, f"Give one of the files of the image, such as {files[0]}.")
    return _read_file(files[0])


def _read_file(file: Path) -> ImageFile:
    readers = (ome_tiff.read_ome_tiff, qptiff.read_qptiff, imagej.read_imagej, tiff_stack.read_tiff_stack)
    found = next(one for one in (read(file) for read in readers) if one is not None)
    if found.unless_named is not None:
        raise found.unless_named
    return found


def _check_single(folder: Path, files: Sequence[Path], found: Sequence[ImageFile]) -> None:
    for file, one in zip(files, found, strict=True):
        if one.image.shape[0] > 1:
            msg = (
                f"{folder.name} is a folder of {len(files)} TIFF files, and {file.name} has {one.image.shape[0]} "
                "channels; a folder is one slide only if each file is one channel."
            )
            raise InputError(msg, "Give one file, or all of them as slides.")


def _cropped(folder: Path, files: Sequence[Path], found: Sequence[ImageFile]) -> list[ImageFile]:
    """Return a folder's images with the height and width that all have; raise if they differ by much."""
    shapes = [(one.image.shape[1], one.image.shape[2]) for one in found]
    if len(set(shapes)) == 1:
        return list(found)
    least, most = ((limit(s[0] for s in shapes), limit(s[1] for s in shapes)) for limit in (min, max))
    if any(small < (1 - _MOST_CROPPED) * large for small, large in zip(least, most, strict=True)):
        sizes = {shape: file.name for shape, file in zip(shapes, files, strict=True)}
        listed = ", ".join(f"{name} is {height} x {width}" for (height, width), name in list(sizes.items())[:5])
        msg = f"the files of {folder.name} differ in height and width: {listed} px."
        raise InputError(msg, "Keep the channels of one image in the folder.")
    logger.warning(
        "%s: its files are %d to %d px high and %d to %d px wide; the %d x %d px that all have are read",
        *(folder.name, least[0], most[0], least[1], most[1], *least),
    )
    return [replace(one, image=Cropped(one.image, least), pyramid=(), uncropped_px=most) for one in found]


def _check_pixel_sizes(folder: Path, files: Sequence[Path], found: Sequence[ImageFile]) -> None:
    sizes = {one.pixel_size_um: file.name for file, one in zip(files, found, strict=True) if one.pixel_size_um}
    if sizes and max(sizes) > (1 + MOST_DIFFERENT) * min(sizes):
        listed = ", ".join(f"{name} has {size:g} µm" for size, name in list(sizes.items())[:5])
        msg = f"the files of {folder.name} differ in the size of a pixel: {listed}."
        raise InputError(msg, "Keep the channels of one image in the folder.")


def _names_in_files(found: Sequence[ImageFile]) -> tuple[str, ...]:
    """Return the names of the channels by the files of a folder; nothing if they are missing or all alike."""
    names = tuple(name for one in found for name in one.markers or ("",))
    return names if all(names) and (len(names) == 1 or len(set(names)) > 1) else ()


def _names_of_files(files: Sequence[Path]) -> list[str]:
    stems = [_ENDING.sub("", file.name) for file in files]
    for pattern in (_ANTIBODY, _NUMBERED):
        matches = [pattern.search(stem) if pattern is _ANTIBODY else pattern.fullmatch(stem) for stem in stems]
        names = [match[1] for match in matches if match]
        if len(names) == len(stems):
            return names
    parts = [stem.split("_") for stem in stems]
    first = _n_shared(parts)
    last = _n_shared([part[first:][::-1] for part in parts])
    names = ["_".join(part[first : len(part) - last]) for part in parts]
    numbered = [_NUMBERED.fullmatch(name) for name in names]  # COMET: scan_c00_DAPI
    if all(numbered):
        names = [match[1] for match in numbered if match]
    return names if all(names) else stems


def _n_shared(parts: Sequence[Sequence[str]]) -> int:
    """Return how many parts the names of all TIFF files of a folder begin with; 0 for a single name."""
    shared = takewhile(lambda column: len(set(column)) == 1, zip(*parts, strict=False))
    return sum(1 for _ in shared) if len(parts) > 1 else 0
