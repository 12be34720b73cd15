"""Read OME-TIFF: the images, their channel names and pixel sizes from the OME-XML.

https://docs.openmicroscopy.org/ome-model/ (2016-06); namespaces since 2009 have the same elements; before,
the names of channels were in ``LogicalChannel``.
"""

from xml.etree import ElementTree

from mxsplicer.errors import InputError
from mxsplicer.images.choosing import candidates
from mxsplicer.images.ome_xml import channel_names
from mxsplicer.images.readers.image_file import ImageFile, image_file, read_chosen
from mxsplicer.images.tiff import TiffListing, list_images, open_tiff
from mxsplicer.images.units import PixelSize
from mxsplicer.system.location import Location, name_of


def read_ome_tiff(path: Location, image: str | None = None) -> ImageFile | None:
    """Read the headers of an OME-TIFF; return None if the file is another kind of TIFF."""
    listing = list_images(path)
    if listing.kind != "ome":
        return None
    try:
        root = ElementTree.fromstring(listing.ome_xml)
    except (ElementTree.ParseError, ValueError) as error:
        msg = f"the OME-XML of {name_of(path)} is broken ({error})."
        raise InputError(msg, "Export the file again.") from error
    described = _described(listing, root.findall(".//{*}Image[{*}Pixels]"))
    names = [channel_names(element) for element in described]
    return read_chosen(
        path, candidates(listing, names), image, lambda number: _read_one(path, number, described[number])
    )


def _described(listing: TiffListing, elements: list[ElementTree.Element]) -> list[ElementTree.Element]:
    """Return which XML element describes each image of an OME-TIFF; none where the pixels are not in the file."""
    found, rest = [], iter(elements)
    for one in listing.images:
        height, width = (one.shape[one.axes.index(axis)] for axis in "YX")
        size = (one.name, str(width), str(height))
        found.append(next((element for element in rest if _key(element) == size), ElementTree.Element("Image")))
    # Names or sizes that tifffile changed: trust the order if nothing was left out.
    unmatched = any(len(element) == 0 for element in found)
    return elements if unmatched and len(elements) == len(found) else found


def _key(image: ElementTree.Element) -> tuple[str, str, str]:
    pixels = image.find("{*}Pixels")
    assert pixels is not None, "images without Pixels are left out"
    return image.get("Name", "").strip(), pixels.get("SizeX", ""), pixels.get("SizeY", "")


def _read_one(path: Location, number: int, image: ElementTree.Element) -> ImageFile:
    series, pixels = open_tiff(path, number), image.find("{*}Pixels")
    if pixels is None:
        return image_file(path, series)
    names = channel_names(image)
    return image_file(path, series, markers=names if names and all(names) else None, size=_physical_size(pixels))


def _physical_size(pixels: ElementTree.Element) -> PixelSize:
    width, height = (pixels.get(f"PhysicalSize{axis}") for axis in "XY")
    units = [pixels.get(f"PhysicalSize{axis}Unit") or "µm" for axis in "XY"]
    return PixelSize.of("OME-XML", width, height, units)
