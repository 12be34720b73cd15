"""Read qptiff and inForm component files (Akoya, PerkinElmer): the XML of each page names its channel."""

from xml.etree import ElementTree

from mxsplicer.images.choosing import candidates
from mxsplicer.images.readers.image_file import ImageFile, image_file, read_chosen
from mxsplicer.images.tiff import list_images, open_tiff
from mxsplicer.system.location import Location

_NAMES = ("Biomarker", ".//Responsivity/Filter/Name", "Name")  # best first


def read_qptiff(path: Location, image: str | None = None) -> ImageFile | None:
    """Read the headers of a qptiff; return None if the file is another kind of TIFF."""
    listing = list_images(path)
    if listing.kind != "qpi":
        return None
    return read_chosen(path, candidates(listing), image, lambda number: _read_one(path, number))


def _read_one(path: Location, number: int) -> ImageFile:
    series = open_tiff(path, number)
    names = [_channel_name(description) for description in series.descriptions]
    return image_file(path, series, markers=tuple(names) if names and all(names) else None)


def _channel_name(description: str) -> str:
    try:
        root = ElementTree.fromstring(description)
    except (ElementTree.ParseError, ValueError):
        return ""
    return next((name for name in (root.findtext(place, "").strip() for place in _NAMES) if name), "")
