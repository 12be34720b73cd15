"""Open a slide from a file of any format: the metadata of the file, completed with what the user gives.

The file is read by the first of :data:`mxsplicer.images.readers.READERS` that knows its format.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from mxsplicer.errors import InputError
from mxsplicer.images.converting import check_can_be_read
from mxsplicer.images.markers import MarkerPanel, agree, distinct, read_panel, rename_markers, rows_of_channels
from mxsplicer.images.readers import READERS
from mxsplicer.images.readers.image_file import ImageFile
from mxsplicer.images.readers.tiff_folder import find_folders_of_channels
from mxsplicer.images.slide import Slide, drop_markers, select_channels
from mxsplicer.images.units import PLAUSIBLE_UM
from mxsplicer.system.location import Location, locate, name_of

logger = logging.getLogger(__name__)

_ENDINGS = re.compile(r"(\.(companion|ome|tiff?|btf|tf2|tf8|qptiff|zarr|zip|ozx))+$", re.IGNORECASE)

_OF_FOLDERS = ("OME-Zarr", "folder of TIFF files")


class IncompleteError(InputError):
    """A slide cannot be opened: the names of its channels, or the size of its pixels, are not known."""

    def __init__(self, problem: str, remedy: str = "", *, n_channels: int, names: bool, pixel_size: bool) -> None:
        super().__init__(problem, remedy)
        self.n_channels = n_channels
        self.names, self.pixel_size = names, pixel_size  # whether each is known


def open_slide(
    path: str | Path,
    *,
    markers: str | Path | Sequence[str] | None = None,
    rename: Mapping[str, str] | None = None,
    drop: Sequence[str] = (),
    pixel_size_um: float | None = None,
    image: str | int | None = None,
    name: str | None = None,
) -> Slide:
    """Open a slide lazily: headers are read, pixels are not.

    Parameters
    ----------
    path
        An OME-TIFF (pyramidal or not, tiled or striped, in one file or several), an OME-Zarr (a folder, or zipped as
        ``.ozx``), a qptiff, an ImageJ stack, a stack of TIFF pages, or a folder with one TIFF per channel: a path, or a
        URL such as ``https://host/slide.ome.zarr`` or ``s3://...``.
    markers
        Table with one row per channel, or the names themselves. Needed if the file does not name its channels, and used
        instead of its names otherwise. Unwanted channels (mcmicro's ``remove``) are dropped.
    rename
        New names of markers.
    drop
        Markers, by their new names, to leave out; their channels are never read.
    pixel_size_um
        Micrometres per pixel. Needed if the file does not give it, and used instead of the file's otherwise.
    image
        Which image of a file that holds several: its number, from 0, or its name. By default the largest with several
        channels is read, and single-channel images of one size are joined; what the file holds is logged.
    name
        Name of the slide; by default the file's name without its endings.

    Raises
    ------
    InputError
        If the file cannot be read as (C, Y, X), if its markers or pixel size are neither in it nor given, if file and
        table contradict each other (the message then shows both, row by row), or if the file has no such image.
    """
    location = locate(path)
    if isinstance(location, Path) and not location.exists():
        msg = f"file {location} not found."
        raise InputError(msg)
    form, found = _read(location, None if image is None else str(image))
    if found.choice.report:
        level = logging.WARNING if found.choice.is_ambiguous else logging.INFO
        logger.log(level, "%s holds %s; choose another by `image`", name_of(location), found.choice.report)
    low, high = PLAUSIBLE_UM
    if pixel_size_um is not None and not low <= pixel_size_um <= high:
        msg = f"`pixel_size_um` is {pixel_size_um:g}; {low:g} to {high:g} µm are plausible."
        raise InputError(msg)
    panel = None if found.markers is None else MarkerPanel(found.markers, form)
    order: list[int] = []
    if markers is not None:
        given = read_panel(markers) if isinstance(markers, str | Path) else MarkerPanel(tuple(markers))
        order = rows_of_channels(given, found.markers or ()) if found.any_order else []
        panel = agree(
            given.only(order) if order else given, found.image.shape[0], found.markers, name=name_of(location)
        )
    if found.unless_named is not None:
        if markers is None:
            raise found.unless_named
        logger.warning("%s They are read as channels, since they were named.", found.unless_named.problem)
    size, size_from = (pixel_size_um, "given") if pixel_size_um else (found.pixel_size_um, found.pixel_size_from)
    if panel is None or size is None:
        raise _incomplete(name_of(location), form, found, names=panel is not None, pixel_size=size is not None)
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
        uncropped_px=found.uncropped_px,
        images_in_file=found.choice.report,
    )
    unwanted = [marker for marker, goes in zip(slide.markers, panel.unwanted, strict=False) if goes]
    slide = select_channels(slide, [order.index(row) for row in sorted(order)]) if order else slide
    return drop_markers(rename_markers(drop_markers(slide, unwanted), rename or {}), drop)


def _incomplete(name: str, form: str, found: ImageFile, *, names: bool, pixel_size: bool) -> IncompleteError:
    n_channels = found.image.shape[0]
    missing, remedies = [], []
    if not names:
        missing.append("the name of its only channel" if n_channels == 1 else f"the names of its {n_channels} channels")
        remedies.append("`markers`, a table with one row per channel")
    if not pixel_size:
        reason = f" ({found.pixel_size_problem})" if found.pixel_size_problem else ""
        missing.append(f"a plausible pixel size{reason}")
        remedies.append("`pixel_size_um`")
    msg, remedy = f"{name} ({form}) lacks {' and '.join(missing)}.", f"Give {', and '.join(remedies)}."
    return IncompleteError(msg, remedy, n_channels=n_channels, names=names, pixel_size=pixel_size)


def _read(location: Location, image: str | None) -> tuple[str, ImageFile]:
    check_can_be_read(location)
    is_folder = isinstance(location, Path) and location.is_dir()
    for form, read in READERS.items():
        if is_folder and form not in _OF_FOLDERS:
            raise _not_a_slide(Path(location))
        found = read(location, image)
        if found is not None:
            return form, found
    msg = f"{name_of(location)} has none of the supported formats: {', '.join(READERS)}."
    raise InputError(msg)


def _not_a_slide(folder: Path) -> InputError:
    inner = find_folders_of_channels(folder)
    if inner:
        msg = f"{folder} is a folder of {len(inner)} folders with TIFF files."
        return InputError(msg, f"Give one of them as a slide, such as {inner[0]}.")
    msg = f"{folder} is a folder."
    remedy = "Give the image file of one slide, the folder of an OME-Zarr image, or a folder with one TIFF per channel."
    return InputError(msg, remedy)


def slide_name(path: str | Path) -> str:
    """Return the name of a slide that is opened: that of its file without the endings of image formats.

    Examples
    --------
    >>> slide_name("study/CRC01.ome.tiff")
    'CRC01'
    """
    place = Path(path)
    if place.name.isdigit() and place.parent.suffix == ".zarr":  # one series of an OME-Zarr
        place = place.parent
    if place.name.lower() in ("tifs", "tiffs") and place.parent.name:  # the channels of a MIBI field
        place = place.parent
    return _ENDINGS.sub("", place.name) or place.name
