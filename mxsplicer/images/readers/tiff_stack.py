"""Read any other TIFF whose pages or samples are the channels; names and pixel size come from the user."""

from mxsplicer.images.readers.image_file import ImageFile, image_file
from mxsplicer.images.tiff import open_tiff
from mxsplicer.system.location import Location


def read(path: Location) -> ImageFile:
    """Read the headers of any other TIFF, a stack of pages or samples."""
    return image_file(path, open_tiff(path))
