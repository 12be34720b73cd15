"""Read any other TIFF whose pages or samples are the channels; names and pixel size mostly come from the user."""

from dataclasses import replace

from mxsplicer.images.choosing import candidates
from mxsplicer.images.readers.image_file import ImageFile, image_file, read_chosen
from mxsplicer.images.tiff import list_images, open_tiff
from mxsplicer.system.location import Location


def read_tiff_stack(path: Location, image: str | None = None) -> ImageFile:
    """Read the headers of any other TIFF, a stack of pages or samples; the tag PageName of each page may name it."""
    listing = list_images(path)
    found = read_chosen(path, candidates(listing), image, lambda number: image_file(path, open_tiff(path, number)))
    if not listing.ome_xml or found.pixel_size_um:
        return found
    return replace(found, pixel_size_problem="its OME-XML describes pages of another size or number")
