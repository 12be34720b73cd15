"""Read ImageJ hyperstacks: names from the labels of slices, pixel size from the resolution in ImageJ's own unit."""

import re
from collections.abc import Sequence

from mxsplicer.images.choosing import candidates
from mxsplicer.images.readers.image_file import ImageFile, image_file, read_chosen
from mxsplicer.images.tiff import TiffSeries, list_images, open_tiff
from mxsplicer.images.units import PixelSize
from mxsplicer.system.location import Location

# What Fiji puts before the name of a plane: "c:1/24 - CD3", "c:2/3 z:1/1 t:1/1 - CD3", "ch 2: CD3".
_PLACE = re.compile(r"^(?:[a-z]+\s*:\s*\d+\s*/\s*\d+[\s;,]*)+(?:-\s*)?|^ch(?:annel)?\s*\d+\s*[:-]\s*", re.IGNORECASE)


def read_imagej(path: Location, image: str | None = None) -> ImageFile | None:
    """Read the headers of an ImageJ stack; return None if the file is another kind of TIFF."""
    listing = list_images(path)
    if listing.kind != "imagej":
        return None
    return read_chosen(path, candidates(listing), image, lambda number: _read_one(path, open_tiff(path, number)))


def _read_one(path: Location, series: TiffSeries) -> ImageFile:
    unit, per_pixel = str(series.imagej.get("unit", "")).strip(), series.units_per_pixel
    height = None if per_pixel is None else per_pixel * series.aspect
    return image_file(
        path,
        series,
        markers=_names(series.imagej.get("Labels")),
        size=PixelSize.of("ImageJ", per_pixel, height, (unit, unit)),
    )


def _names(labels: object) -> tuple[str, ...] | None:
    """Return the names of the channels by ImageJ's labels of the slices; None if these do not name channels.

    One label for all slices, such as the file name that Bio-Formats writes, does not.
    """
    if not isinstance(labels, Sequence) or isinstance(labels, str):
        return None
    names = tuple(_PLACE.sub("", str(label).strip()).strip() for label in labels)
    return names if all(names) and len(set(names)) > 1 else None
