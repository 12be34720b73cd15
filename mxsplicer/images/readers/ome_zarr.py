"""Read OME-Zarr 0.4 and 0.5, in a folder or at a URL; also in the layout of bioformats2raw (series below ``0/``)."""

from xml.etree import ElementTree

from mxsplicer.errors import InputError
from mxsplicer.images.ngff import UM_PER_UNIT, ZarrGroup, ZarrSeries, open_group, open_series
from mxsplicer.images.ome_xml import channel_names
from mxsplicer.images.readers.image_file import ImageFile, channel_first, plausible_size
from mxsplicer.system.location import Location, absolute, below, read_bytes


def read(path: Location) -> ImageFile | None:
    """Read the metadata of an OME-Zarr; return None if ``path`` is not a zarr group."""
    group = open_group(path)
    if group is None:
        return None
    names: tuple[str, ...] = ()
    if "bioformats2raw.layout" in group.attributes and "multiscales" not in group.attributes:
        inner = open_group(below(group.location, "0"))
        if inner is None:
            msg = f"{group.name} has the layout of bioformats2raw but lacks its first image, 0."
            raise InputError(msg, "Convert it again.")
        names, group = _names_of_ome_xml(group), inner
    _check_is_an_image(group)
    series = open_series(group)
    names = series.labels if any(series.labels) else names
    size, source, problem = plausible_size([_pixel_size(series)])
    image, pyramid = channel_first(group.name, series)
    return ImageFile(
        image=image,
        pyramid=pyramid,
        tile_px=series.tile_px,
        storage=f"{series.storage}, {'pyramid, ' if pyramid else ''}tiles of {series.tile_px}",
        markers=names if names and all(names) else None,
        pixel_size_um=size,
        pixel_size_from=source,
        pixel_size_problem=problem,
    )


def _check_is_an_image(group: ZarrGroup) -> None:
    name, attributes = group.name, group.attributes
    if "image-label" in attributes or ("labels" in attributes and "multiscales" not in attributes):
        msg = f"{name} holds labels and no image."
        raise InputError(msg, "Give the image as the slide, and these labels as its mask.")
    if "multiscales" in attributes:
        return
    example = absolute(below(group.location, "images/NAME" if "spatialdata_attrs" in attributes else "A/1/0"))
    if "plate" in attributes or "well" in attributes:
        msg, remedy = f"{name} is a plate or a well of several images.", f"Give one of them, such as {example}."
    elif "spatialdata_attrs" in attributes:
        msg, remedy = f"{name} is a SpatialData store.", f"Give one of its images, such as {example}."
    else:
        msg = f"{name} is a zarr group without an OME-Zarr image ('multiscales')."
        remedy = "Give the group that holds the image."
    raise InputError(msg, remedy)


def _pixel_size(series: ZarrSeries) -> tuple[float | None, float, str]:
    size, um = series.pixel_size, UM_PER_UNIT.get(series.unit or "")
    if size is None or (series.unit is not None and um is None):
        return None, 1.0, ""
    if series.unit is None:  # writers that know neither store a scale of one and no unit
        return (None if size == 1 else size), series.aspect, "OME-Zarr scale, µm assumed"
    return size * (um or 1.0), series.aspect, "OME-Zarr scale"


def _names_of_ome_xml(group: ZarrGroup) -> tuple[str, ...]:
    content = read_bytes(below(group.location, "OME/METADATA.ome.xml"))
    if content is None:
        return ()
    try:
        pixels = ElementTree.fromstring(content).find(".//{*}Image/{*}Pixels")
    except (ElementTree.ParseError, ValueError) as error:
        msg = f"OME/METADATA.ome.xml of {group.name} is broken ({error})."
        raise InputError(msg, "Convert it again.") from error
    return () if pixels is None else channel_names(pixels)
