"""Read OME-Zarr 0.4 and 0.5, in a folder or at a URL; also in the layout of bioformats2raw (series below ``0/``)."""

import itertools
from xml.etree import ElementTree

from mxsplicer.errors import InputError
from mxsplicer.images.choosing import Candidate
from mxsplicer.images.ngff import ZarrGroup, ZarrSeries, n_multiscales, open_group, open_series
from mxsplicer.images.ome_xml import channel_names
from mxsplicer.images.readers.image_file import ImageFile, channel_first, read_chosen
from mxsplicer.images.units import PixelSize, choose_pixel_size
from mxsplicer.system.location import Location, absolute, below, read_small_file


def read_ome_zarr(path: Location, image: str | None = None) -> ImageFile | None:
    """Read the metadata of an OME-Zarr; return None if ``path`` is not a zarr group."""
    group = open_group(path)
    if group is None:
        return None
    groups, elements = [group], []
    if "bioformats2raw.layout" in group.attributes and "multiscales" not in group.attributes:
        groups, elements = _series_of(group), _images_of_ome_xml(group)
    for one in groups:
        _check_is_an_image(one)
    images = [
        (inner, number, _element(elements, place))
        for place, inner in enumerate(groups)
        for number in range(n_multiscales(inner))
    ]
    if len(images) == 1 and image is None:
        return _read_one(*images[0])
    found = [_candidate(place, *one) for place, one in enumerate(images)]
    return read_chosen(group.location, found, image, lambda place: _read_one(*images[place]))


def _series_of(group: ZarrGroup) -> list[ZarrGroup]:
    """Return the images of an OME-Zarr in the layout of bioformats2raw, below ``0/``, ``1/``, ..."""
    listed = open_group(below(group.location, "OME"))
    names = listed.attributes.get("series") if listed is not None else None
    if not (isinstance(names, list) and names and all(isinstance(one, str) for one in names)):
        names = (str(number) for number in itertools.count())
    found = []
    for name in names:
        inner = open_group(below(group.location, name))
        if inner is None:
            break
        found.append(inner)
    if not found:
        msg = f"{group.name} has the layout of bioformats2raw but lacks its first image, 0."
        raise InputError(msg, "Convert it again.")
    return found


def _element(elements: list[ElementTree.Element], place: int) -> ElementTree.Element | None:
    return elements[place] if place < len(elements) else None


def _candidate(place: int, group: ZarrGroup, number: int, element: ElementTree.Element | None) -> Candidate:
    series, name = open_series(group, number), "" if element is None else element.get("Name", "").strip()
    return Candidate(
        place,
        name or series.name,
        series.axes,
        tuple(series.image.shape),
        1 + len(series.pyramid),
        str(series.image.dtype),
        channel_names=_names(series, element),
    )


def _read_one(group: ZarrGroup, number: int, element: ElementTree.Element | None) -> ImageFile:
    series = open_series(group, number)
    names = _names(series, element)
    size, source, problem = choose_pixel_size([_pixel_size(series)])
    image, pyramid, not_channels = channel_first(group.name, series)
    return ImageFile(
        image=image,
        pyramid=pyramid,
        tile_px=series.tile_px,
        storage=f"{series.storage}, {'pyramid, ' if pyramid else ''}tiles of {series.tile_px}",
        markers=names if names and all(names) else None,
        pixel_size_um=size,
        pixel_size_from=source,
        pixel_size_problem=problem,
        unless_named=not_channels,
    )


def _names(series: ZarrSeries, element: ElementTree.Element | None) -> tuple[str, ...]:
    return series.labels if any(series.labels) or element is None else channel_names(element)


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


def _pixel_size(series: ZarrSeries) -> PixelSize:
    size, source = series.pixel_size, "OME-Zarr scale"
    if size is None:
        return PixelSize(None, source)
    if series.unit is None:  # writers that know neither store a scale of one and no unit
        return PixelSize(None if size == 1 else size, f"{source}, µm assumed", series.aspect)
    return PixelSize.of(source, size, size * series.aspect, (series.unit, series.unit))


def _images_of_ome_xml(group: ZarrGroup) -> list[ElementTree.Element]:
    content = read_small_file(below(group.location, "OME/METADATA.ome.xml"))
    if content is None:
        return []
    try:
        return ElementTree.fromstring(content).findall(".//{*}Image[{*}Pixels]")
    except (ElementTree.ParseError, ValueError) as error:
        msg = f"OME/METADATA.ome.xml of {group.name} is broken ({error})."
        raise InputError(msg, "Convert it again.") from error
