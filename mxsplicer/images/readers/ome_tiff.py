"""Read OME-TIFF: channel names and pixel size from the OME-XML of the first image.

https://docs.openmicroscopy.org/ome-model/ (2016-06); namespaces since 2009 have the same elements; before,
the names of channels were in ``LogicalChannel``.
"""

from xml.etree import ElementTree

from mxsplicer.errors import InputError
from mxsplicer.images.ome_xml import _logical_names, channel_names
from mxsplicer.images.readers.image_file import PLAUSIBLE_UM, ImageFile, image_file
from mxsplicer.images.tiff import open_tiff
from mxsplicer.system.location import Location, name_of

_UM_PER_UNIT = {"µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}


def read(path: Location) -> ImageFile | None:
    """Read the headers of an OME-TIFF; return None if the file is another kind of TIFF."""
    series = open_tiff(path)
    if series.kind != "ome":
        return None
    try:
        root = ElementTree.fromstring(series.descriptions[0])
    except (ElementTree.ParseError, ValueError) as error:
        msg = f"the OME-XML of {name_of(path)} is broken ({error})."
        raise InputError(msg, "Export the file again.") from error
    image = root.find(".//{*}Image[{*}Pixels]")
    pixels = None if image is None else image.find("{*}Pixels")
    if image is None or pixels is None:
        return image_file(path, series)
    names = channel_names(pixels) or _logical_names(image)
    width, height = (_physical_size_um(pixels, axis) for axis in "XY")
    return image_file(
        path,
        series,
        markers=names if names and all(names) else None,
        size_um=width,
        size_from="OME-XML",
        aspect=height / width if width and height else 1.0,
    )


def _physical_size_um(pixels: ElementTree.Element, axis: str) -> float | None:
    try:
        size = float(pixels.get(f"PhysicalSize{axis}", ""))
    except ValueError:
        return None
    unit = pixels.get(f"PhysicalSize{axis}Unit", "µm")
    if unit not in _UM_PER_UNIT:  # "pixel", "reference frame"
        return None
    in_um = size * _UM_PER_UNIT[unit]
    # Writers that lose the micro sign write "m"; pixels of metres are implausible.
    return size if unit == "m" and not PLAUSIBLE_UM[0] <= in_um <= PLAUSIBLE_UM[1] else in_um
