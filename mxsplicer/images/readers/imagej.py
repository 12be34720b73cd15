"""Read ImageJ hyperstacks: names from the labels of slices, pixel size from the resolution in ImageJ's own unit."""

from mxsplicer.images.readers.image_file import ImageFile, image_file
from mxsplicer.images.tiff import open_tiff
from mxsplicer.system.location import Location

_UM_PER_UNIT = {"nm": 1e-3, "mm": 1e3, "cm": 1e4, "inch": 25_400.0} | dict.fromkeys(
    ("micron", "microns", "micrometer", "um", "µm", "μm"), 1.0
)


def read(path: Location) -> ImageFile | None:
    """Read the headers of an ImageJ stack; return None if the file is another kind of TIFF."""
    series = open_tiff(path)
    if series.kind != "imagej":
        return None
    labels = series.imagej.get("Labels")
    names = tuple(str(label).strip() for label in labels) if isinstance(labels, list) else ()
    # One label for all slices, such as the file name that Bio-Formats writes, does not name channels.
    named = all(names) and len(set(names)) > 1
    unit = str(series.imagej.get("unit", "")).replace("\\u00B5", "µ").strip()
    um = _UM_PER_UNIT.get(unit)
    size = um * series.units_per_pixel if um and series.units_per_pixel else None
    return image_file(path, series, markers=names if named else None, size_um=size, size_from="ImageJ")
