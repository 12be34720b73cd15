"""Check the OME-XML of a TIFF file before tifffile follows it, and find the other files of a multi-file image."""

import html
import math
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import tifffile

from mxsplicer.errors import InputError
from mxsplicer.system.location import Location, name_of

_MOST_PLANES = 1_000_000
_MOST_FILES = 2_000  # of a folder that are searched for the file of a UUID
_ENDINGS = (".tif", ".tiff", ".btf", ".tf2", ".tf8")

_FILE_NAME = re.compile(r'\bFileName=(?:"([^"]*)"|\'([^\']*)\')')
_OF_FILE = re.compile(r"<((?:\w+:)?UUID)\b([^>]*?)(?:/>|>([^<]*)</\1\s*>)")  # the file that holds a plane, and its UUID
_ROOT_UUID = re.compile(r'<(?:\w+:)?OME\b[^>]*?\bUUID="([^"]*)"')


def check_ome_xml(location: Location, xml: str) -> None:
    """Raise if tifffile would allocate lists for planes that a broken OME-XML announces."""
    planes = math.prod(max((int(n) for n in re.findall(rf'\bSize{axis}="(\d+)"', xml)), default=1) for axis in "CZT")
    counts = [int(n) for n in re.findall(r'\b(?:PlaneCount|NumPlanes|IFD|First[CZT])="(\d+)"', xml)]
    if max([planes, *counts]) > _MOST_PLANES or re.search(r"ModuloAlong\w+[^>]*\bStart=", xml):
        msg = f"the OME-XML of {name_of(location)} announces {max([planes, *counts]):,} planes."
        raise InputError(msg, "Export the file again.")


def find_files(location: Location, xml: str, *, n_pages: int) -> str:
    """Return an OME-XML whose file names are those of files that exist.

    Writers put their own path into the OME-XML, and files are renamed and moved afterwards. A file that holds all
    planes of the image is read by itself, whatever it is called there. Of a set, files are found by their name without
    the folder, or else by their UUID.

    Raises
    ------
    InputError
        If a file outside the folder is named and not found in it.
    """
    names = files_named_in(xml)
    if names in ([], [name_of(location)]):
        return xml
    if len(names) == 1 and _holds_all_planes(xml, n_pages):
        return _OF_FILE.sub("", xml)
    if isinstance(location, str):
        return xml
    folder, uuids = location.parent, dict[str, str]()
    present = {name: _own_name(name) for name in names if (folder / _own_name(name)).is_file()}
    if len(present) < len(names):
        uuids = {uuid: file.name for file, uuid in _uuids_of(folder)}

    def rename(match: re.Match[str]) -> str:
        tag, attributes, uuid = match[1], match[2], (match[3] or "").strip()
        name = next(iter(files_named_in(attributes)), "")
        found = present.get(name, uuids.get(uuid))
        if found is None or found == name:
            return match[0]
        return f'<{tag} FileName="{html.escape(found)}">{uuid}</{tag}>'

    renamed = _OF_FILE.sub(rename, xml)
    for name in files_named_in(renamed):
        if _own_name(name) != name:
            msg = f"the OME-XML of {name_of(location)} names {name!r}, outside its folder."
            raise InputError(msg, "Put all files of the image into one folder.")
    return renamed


def missing_files(location: Location, xml: str) -> list[str]:
    """Return up to ten files that an OME-XML names and its folder lacks."""
    folder = location.parent if isinstance(location, Path) else None
    return [file for file in files_named_in(xml) if folder is None or not (folder / file).is_file()][:10]


def metadata_file(location: Location, xml: str) -> Path | None:
    """Return the file with the OME-XML of a multi-file image, or None if this file does not refer to one."""
    match = re.search(r'<(?:\w+:)?BinaryOnly\b[^>]*\bMetadataFile="([^"]+)"', xml)
    if match is None:
        return None
    name = _own_name(html.unescape(match[1]))
    if isinstance(location, str):
        raise several_files_at_url(location)
    if (location.parent / name).is_file():
        return location.parent / name
    renamed = [one for one in sorted(location.parent.glob("*.ome")) if is_companion(one)]
    if len(renamed) == 1 and location.name in renamed[0].read_text(encoding="utf-8", errors="replace"):
        return renamed[0]
    msg = f"{name_of(location)} is part of an image described by {name!r}, which was not found."
    raise InputError(msg, f"Put {name} into the same folder.")


def several_files_at_url(url: str) -> InputError:
    """Return the error for a URL whose OME-XML names several files."""
    return InputError(
        f"{name_of(url)} is part of an image in several files, which are not read at a URL.",
        "Copy all of them into one folder and give one of them there.",
    )


def is_companion(path: Path) -> bool:
    """Return whether a file is an OME-XML document rather than a TIFF."""
    with path.open("rb") as file:
        begin = file.read(1024).lstrip(b"\xef\xbb\xbf \r\n\t")
    return begin.startswith(b"<") and (path.suffix == ".ome" or b"<OME" in begin or b":OME" in begin)


def first_image_of(companion: Path, xml: str) -> Path:
    """Return the first image file that an OME-XML document (a companion) names and that exists."""
    check_ome_xml(companion, xml)
    for file in files_named_in(find_files(companion, xml, n_pages=0)):
        if (companion.parent / file).is_file():
            return companion.parent / file
    msg = f"{companion.name} is OME-XML without pixels, and none of the files it names is in its folder."
    raise InputError(msg, "Give the image file.")


def files_named_in(xml: str) -> list[str]:
    """Return the names of the files that hold the planes of an OME-XML, as it gives them."""
    return list(dict.fromkeys(html.unescape(match[1] or match[2] or "") for match in _FILE_NAME.finditer(xml)))


def channel_names(image: ElementTree.Element) -> tuple[str, ...]:
    """Return the name of each channel of an OME-XML ``Image``, "" if it has none."""
    names = tuple(channel.get("Name", "").strip() for channel in image.findall("{*}Pixels/{*}Channel"))
    return names or _logical_names(image)


def _logical_names(image: ElementTree.Element) -> tuple[str, ...]:
    """Return the names of the channels in OME-XML from before 2009, in the order of the planes."""
    named = {
        int(component.get("Index", "")): logical.get("Name", "").strip()
        for logical in image.findall("{*}LogicalChannel")
        for component in logical.findall("{*}ChannelComponent")
        if component.get("Index", "").isdecimal()
    }
    return tuple(named.get(number, "") for number in range(len(named)))


def _own_name(name: str) -> str:
    """Return the name that an OME-XML gives a file, without its folders, in the notation of Windows or of others."""
    return re.split(r"[/\\]", name)[-1]


def _holds_all_planes(xml: str, n_pages: int) -> bool:
    """Return whether an OME-XML refers only to pages that its file, with ``n_pages``, has."""
    planes = 0
    for match in re.finditer(r"<(?:\w+:)?TiffData\b([^>]*)>", xml):
        numbers = {key: int(value) for key, value in re.findall(r'\b(IFD|PlaneCount|NumPlanes)="(\d+)"', match[1])}
        count = numbers.get("PlaneCount", numbers.get("NumPlanes", 1))
        planes = max(planes, numbers.get("IFD", 0) + count)
    return 0 < planes <= n_pages


def _uuids_of(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield the UUIDs in the OME-XML of each file of a folder."""
    files = (one for one in sorted(folder.iterdir()) if one.suffix.lower() in _ENDINGS and one.is_file())
    for file, _ in zip(files, range(_MOST_FILES), strict=False):
        try:
            with tifffile.TiffFile(file) as tiff:
                match = _ROOT_UUID.search(tiff.ome_metadata or "")
        except (tifffile.TiffFileError, OSError, ValueError):
            continue
        if match:
            yield file, match[1]
