"""Check the OME-XML of a TIFF file before tifffile follows it, and find the other files of a multi-file image."""

import math
import re
from pathlib import Path
from xml.etree import ElementTree

from mxsplicer.errors import InputError
from mxsplicer.system.location import Location, name_of

_MOST_PLANES = 1_000_000


def check_ome_xml(location: Location, xml: str) -> None:
    """Raise if tifffile would allocate lists for planes that a broken OME-XML announces, or leave the folder."""
    planes = math.prod(max((int(n) for n in re.findall(rf'\bSize{axis}="(\d+)"', xml)), default=1) for axis in "CZT")
    counts = [int(n) for n in re.findall(r'\b(?:PlaneCount|NumPlanes|IFD|First[CZT])="(\d+)"', xml)]
    if max([planes, *counts]) > _MOST_PLANES or re.search(r"ModuloAlong\w+[^>]*\bStart=", xml):
        msg = f"the OME-XML of {name_of(location)} announces {max([planes, *counts]):,} planes."
        raise InputError(msg, "Export the file again.")
    for file in _file_names(xml):
        if Path(file).is_absolute() or ".." in Path(file).parts:
            msg = f"the OME-XML of {name_of(location)} names {file!r}, outside its folder."
            raise InputError(msg, "Put all files of the image into one folder.")


def missing_files(location: Location, xml: str) -> list[str]:
    """Return up to ten files that an OME-XML names and its folder lacks."""
    folder = location.parent if isinstance(location, Path) else None
    return [file for file in _file_names(xml) if folder is None or not (folder / file).is_file()][:10]


def metadata_file(location: Location, xml: str) -> Path | None:
    """Return the file that holds the OME-XML of a multi-file image, or None if this file does not refer to one."""
    match = re.search(r'<(?:\w+:)?BinaryOnly\b[^>]*\bMetadataFile="([^"]+)"', xml)
    if match is None:
        return None
    name = match[1]
    if isinstance(location, str):
        raise several_files_at_url(location)
    if Path(name).name == name and (location.parent / name).is_file():
        return location.parent / name
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
    for file in _file_names(xml):
        if (companion.parent / file).is_file():
            return companion.parent / file
    msg = f"{companion.name} is OME-XML without pixels, and none of the files it names is in its folder."
    raise InputError(msg, "Give the image file.")


def _file_names(xml: str) -> list[str]:
    return list(dict.fromkeys(re.findall(r'\bFileName="([^"]+)"', xml)))


def channel_names(pixels: ElementTree.Element) -> tuple[str, ...]:
    """Return the name of each channel of an OME-XML ``Pixels``, "" if it has none."""
    return tuple(channel.get("Name", "").strip() for channel in pixels.findall("{*}Channel"))


def _logical_names(image: ElementTree.Element) -> tuple[str, ...]:
    """Return the names of the channels in OME-XML from before 2009, in the order of the planes."""
    named = {
        int(component.get("Index", "")): logical.get("Name", "").strip()
        for logical in image.findall("{*}LogicalChannel")
        for component in logical.findall("{*}ChannelComponent")
        if component.get("Index", "").isdecimal()
    }
    return tuple(named.get(number, "") for number in range(len(named)))
