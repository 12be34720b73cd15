"""Slides from files: one module per format, and the one function that opens any of them.

A reader takes a path and answers with an :class:`ImageFile`, what the file itself says, or None where the file is of
another format. :func:`open_slide` completes it with what the user says, and refuses what is still missing.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mxsplicer.errors import InputError
from mxsplicer.images.markers import Panel, agree, distinct, read_panel
from mxsplicer.images.readers import imagej, ome_tiff, ome_zarr, qptiff, tiff_stack
from mxsplicer.images.readers.image_file import PLAUSIBLE_UM, ImageFile
from mxsplicer.images.slide import Slide, drop_markers, rename_markers
from mxsplicer.system.location import Location, locate, name_of

READERS: dict[str, Callable[[Location], ImageFile | None]] = {
    "OME-Zarr": ome_zarr.read,
    "OME-TIFF": ome_tiff.read,
    "qptiff": qptiff.read,
    "ImageJ": imagej.read,
    "TIFF": tiff_stack.read,  # takes whatever TIFF the others left: keep it last
}


class IncompleteError(InputError):
    """Neither a file nor the user says what the channels are, or how large the pixels."""

    def __init__(self, message: str, *, n_channels: int, names: bool, pixel_size: bool) -> None:
        super().__init__(message)
        self.n_channels = n_channels
        self.names, self.pixel_size = names, pixel_size  # whether they are known


def open_slide(
    path: str | Path,
    *,
    markers: str | Path | Sequence[str] | None = None,
    rename: Mapping[str, str] | None = None,
    drop: Sequence[str] = (),
    pixel_size_um: float | None = None,
    name: str | None = None,
) -> Slide:
    """Open a slide lazily: headers are read, pixels are not.

    Parameters
    ----------
    path
        An OME-TIFF (pyramidal or not, tiled or striped, in one file or several), an OME-Zarr, a qptiff, an ImageJ
        stack, or a stack of TIFF pages: a path, or a URL such as ``https://host/slide.ome.zarr`` or ``s3://...``.
    markers
        Table with one row per channel, or the names themselves; needed where the file names no channels, and taken
        instead of its names. Channels that it does not want (mcmicro's ``remove``) are dropped.
    rename
        New names of markers.
    drop
        Markers, by their new names, that are left out: their channels are never read.
    pixel_size_um
        Micrometres per pixel; needed where the file does not say, and taken instead of what it says.
    name
        What to call the slide; the file's name without its endings by default.

    Raises
    ------
    InputError
        If the file cannot be read as (C, Y, X), if its markers or pixel size are neither in it nor given, or if file
        and table contradict each other; the message then shows both side by side.
    """
    location = locate(path)
    if isinstance(location, Path) and not location.exists():
        msg = f"there is no file {location}."
        raise InputError(msg)
    form, found = _read(location)
    low, high = PLAUSIBLE_UM
    if pixel_size_um is not None and not low <= pixel_size_um <= high:
        msg = f"a pixel size of {pixel_size_um:g} µm was given; from {low:g} to {high:g} µm can be right."
        raise InputError(msg)
    panel = None if found.markers is None else Panel(found.markers, form)
    if markers is not None:
        given = read_panel(markers) if isinstance(markers, str | Path) else Panel(tuple(markers))
        panel = agree(given, found.image.shape[0], found.markers, name=name_of(location))
    size, size_from = (pixel_size_um, "given") if pixel_size_um else (found.pixel_size_um, found.pixel_size_from)
    missing = []
    if panel is None:
        missing.append(f"name its {_counted(found.image.shape[0])}: give a table with one row per channel by --markers")
    if size is None:
        said = f" ({found.pixel_size_said})"
        missing.append(
            f"tell the size of its pixels{said if found.pixel_size_said else ''}: give it by --pixel-size-um"
        )
    if panel is None or size is None:
        msg = f"{name_of(location)} ({form}) does not {'; nor does it '.join(missing)}."
        raise IncompleteError(
            msg, n_channels=found.image.shape[0], names=panel is not None, pixel_size=size is not None
        )
    slide = Slide(
        name=name or slide_name(location),
        image=found.image,
        markers=distinct(panel.names, panel.cycles),
        pixel_size_um=size,
        pyramid=found.pyramid,
        tile_px=found.tile_px,
        path=location,
        markers_from=panel.source,
        markers_in_file=found.markers if found.markers and len(found.markers) == found.image.shape[0] else (),
        pixel_size_from=size_from,
        storage=f"{form}, {found.storage}",
    )
    unwanted = [marker for marker, goes in zip(slide.markers, panel.unwanted, strict=False) if goes]
    return drop_markers(rename_markers(drop_markers(slide, unwanted), rename or {}), drop)


def _counted(n_channels: int) -> str:
    return "only channel" if n_channels == 1 else f"{n_channels} channels"


def _read(location: Location) -> tuple[str, ImageFile]:
    for form, read in READERS.items():
        if isinstance(location, Path) and location.is_dir() and form != "OME-Zarr":
            msg = f"{location} is a folder; give the image file of one slide, or the folder of an OME-Zarr image."
            raise InputError(msg)
        found = read(location)
        if found is not None:
            return form, found
    msg = f"{name_of(location)} is in none of the formats that can be read: {', '.join(READERS)}."
    raise InputError(msg)


def slide_name(path: str | Path) -> str:
    """Return the file's name without the endings of image formats.

    Examples
    --------
    >>> slide_name("study/CRC01.ome.tiff")
    'CRC01'
    """
    place = Path(path)
    if place.name.isdigit() and place.parent.suffix == ".zarr":  # one series of an OME-Zarr
        place = place.parent
    name = place.name
    for ending in (".tiff", ".tif", ".qptiff", ".zarr", ".ome", ".companion"):
        name = name.removesuffix(ending)
    return name
