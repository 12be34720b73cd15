"""Any other TIFF whose pages or samples are the channels: names and pixel size come from the user."""

from mxsplicer.slides.location import Location
from mxsplicer.slides.readers.image_file import ImageFile, image_file
from mxsplicer.slides.tiff import open_tiff


def read(path: Location) -> ImageFile:
    """Read the headers of a TIFF."""
    return image_file(path, open_tiff(path))
