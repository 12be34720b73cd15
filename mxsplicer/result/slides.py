"""One record of a slide, from the call that names it to the result that holds it.

:class:`SlideRecord` is what a row of a cohort's table, an argument of ``embed_slides``, the inputs in
``settings.json`` and an entry of ``mxsplicer.json`` describe; this module reads and writes all of them. Each field is
checked once, when the slide is opened. Three other descriptions remain, because they have to make sense without a
result:

- :class:`~mxsplicer.embedding.sources.Source`: cells to embed, which may come from a patch store alone;
- the header of a patch store (:mod:`mxsplicer.patches.store`), which is used without the slide;
- the header of the journal of blocks (:mod:`mxsplicer.embedding.journal`), from which the AnnData is written after the
  slides are closed.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mxsplicer.errors import InputError
from mxsplicer.images.lazy_images import LazyImage
from mxsplicer.images.markers import parse_renames
from mxsplicer.images.opening import open_slide, slide_name
from mxsplicer.images.slide import Slide, select_channels
from mxsplicer.masks.files import open_mask, open_nuclei
from mxsplicer.result.folder import FORMAT, VERSION, Result, open_result
from mxsplicer.system.files import write_json
from mxsplicer.system.fingerprints import fingerprint
from mxsplicer.system.location import Location, absolute, locate, name_of
from mxsplicer.system.tables import MISSING

logger = logging.getLogger(__name__)

FILE_COLUMNS = ("path", "mask", "nuclei", "markers", "labels")  # of the table of a cohort


@dataclass(frozen=True)
class SlideRecord:
    """A slide: which files it consists of and how they are read.

    Attributes
    ----------
    name
        What the slide is called.
    image, mask, nuclei
        Its image, label image of cells and label image of nuclei. ``mask`` is None until one is given or made.
    mask_page, nuclei_page
        Page of a mask file that holds several; and of the file of nuclei.
    labels
        Table of labels of its cells.
    markers_table, rename, drop
        Table of marker names; new names (``"OLD=NEW"``); and markers that are left out.
    pixel_size_um
        Given; after opening that of the slide.
    image_in_file
        Number or name of the image, of a file that holds several; None for the one that is read by default.
    markers, shape_px
        Known after opening: markers in order; height and width.
    selected
        Whether only ``markers`` are used of those that the file holds, in this order.
    patches
        Its patch store, if it has one.
    fingerprints
        Of ``image``, ``mask`` and ``nuclei``; "" for a mask that was not given.
    """

    name: str
    image: Location
    mask: Location | None = None
    nuclei: Location | None = None
    mask_page: int | None = None
    nuclei_page: int | None = None
    labels: Path | None = None
    markers_table: Path | None = None
    rename: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    pixel_size_um: float | None = None
    image_in_file: str | None = None
    markers: tuple[str, ...] = ()
    shape_px: tuple[int, int] | None = None
    selected: bool = False
    patches: Path | None = None
    fingerprints: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_image(cls, image: str | Path, **files: Any) -> "SlideRecord":
        """Return the record of an image file, which names the slide."""
        place = locate(image)
        return cls(slide_name(place), place, **files)

    @classmethod
    def from_row(cls, row: Mapping[str, object], folder: Path) -> "SlideRecord":
        """Return the record of a row of a cohort's table; paths are relative to ``folder``."""
        given = {column: value for column in FILE_COLUMNS if (value := row.get(column)) not in MISSING}
        places = {column: _place(given.get(column), folder) for column in FILE_COLUMNS}
        tables = {column: None if places[column] is None else Path(str(places[column])) for column in FILE_COLUMNS}
        image = places["path"]
        assert image is not None, "read_cohort checks it"
        return cls(
            str(row["slide"]),
            image,
            mask=places["mask"],
            nuclei=places["nuclei"],
            markers_table=tables["markers"],
            labels=tables["labels"],
        )

    @classmethod
    def from_index(cls, entry: Mapping[str, Any], folder: Path) -> "SlideRecord":
        """Return the record of a slide by its entry in the index of the result in ``folder``."""
        table, patches = entry.get("markers_table"), entry.get("patches")
        return cls(
            str(entry["name"]),
            locate(entry["image"]),
            mask=_place(entry["mask"], folder),
            mask_page=entry.get("mask_page"),
            markers_table=Path(table) if table else None,
            rename=tuple(entry.get("rename", ())),
            drop=tuple(entry.get("drop", ())),
            pixel_size_um=entry["pixel_size_um"],
            image_in_file=entry.get("image_in_file"),
            markers=tuple(entry["markers"]),
            shape_px=tuple(entry["shape_px"]),
            selected=bool(entry.get("selected", False)),
            patches=folder / patches if patches else None,
            fingerprints=entry.get("fingerprints", {}),
        )

    def to_index(self, folder: Path) -> dict[str, Any]:
        """Return the entry in the index of the result in ``folder``; masks and patches inside it are relative to it."""
        assert self.shape_px is not None, "the slide was opened"
        return {
            "name": self.name,
            "image": absolute(self.image),
            "mask": _relative(self.mask, folder),
            "mask_page": self.mask_page,
            "markers": list(self.markers),
            "selected": self.selected,
            "markers_table": str(self.markers_table.resolve()) if self.markers_table else None,
            "rename": list(self.rename),
            "drop": list(self.drop),
            "pixel_size_um": self.pixel_size_um,
            "image_in_file": self.image_in_file,
            "shape_px": list(self.shape_px),
            "patches": _relative(self.patches, folder) if self.patches else None,
            "fingerprints": dict(self.fingerprints),
        }

    def files(self) -> list[Path]:
        """Return the files on this machine that were given for the slide."""
        given = (self.image, self.mask, self.nuclei, self.markers_table, self.labels)
        return [path for path in given if isinstance(path, Path)]

    def open_image(self) -> Slide:
        """Open the image with its markers as the record says."""
        slide = open_slide(
            self.image,
            markers=self.markers_table,
            rename=parse_renames(self.rename),
            drop=self.drop,
            pixel_size_um=self.pixel_size_um,
            image=self.image_in_file,
            name=self.name,
        )
        return select_channels(slide, slide.channels_of(self.markers)) if self.selected else slide

    def open_mask(self, slide: Slide) -> LazyImage | None:
        """Open the mask and compare it with the slide; None without a mask."""
        return None if self.mask is None else open_mask(self.mask, page=self.mask_page, slide=slide)

    def open_nuclei(self, slide: Slide, mask: LazyImage | None) -> LazyImage | None:
        """Open the mask of the nuclei, with the ids of the cells of ``mask``; None without one."""
        return None if self.nuclei is None else open_nuclei(self.nuclei, slide, page=self.nuclei_page, mask=mask)

    def as_opened(self, slide: Slide) -> "SlideRecord":
        """Return the record with what opening the image has found."""
        return replace(
            self,
            image=self.image if slide.path is None else locate(slide.path),
            markers=slide.markers,
            pixel_size_um=slide.pixel_size_um,
            shape_px=slide.shape_px,
        )

    def read_fingerprints(self) -> dict[str, str]:
        """Read the fingerprints of the files that were given."""
        return {
            "image": fingerprint(self.image),
            "mask": fingerprint(self.mask) if self.mask else "",
            **({"nuclei": fingerprint(self.nuclei)} if self.nuclei else {}),
        }

    def find_moved(self, folder: Path) -> "SlideRecord | None":
        """Return the record with the places where image and mask are now; None if one of them is gone.

        Files that were copied along with the result lie next to its folder; they are used if they have the recorded
        fingerprints.
        """
        image = _find(self.image, folder, self.fingerprints.get("image"))
        mask = None if self.mask is None else _find(self.mask, folder, self.fingerprints.get("mask"))
        return None if image is None or mask is None else replace(self, image=image, mask=mask)


def read_records(path: str | Path) -> list[SlideRecord]:
    """Return the records of the slides of a finished result."""
    return [SlideRecord.from_index(entry, Path(path)) for entry in open_result(path)["slides"]]


def image_files(records: Sequence[SlideRecord]) -> dict[str, str]:
    """Return the image file in the record of each slide, by whose name other tables may name the slide."""
    return {record.name: name_of(record.image) for record in records}


def write_records(result: Result, slides: Sequence[SlideRecord], *, run: str) -> None:
    """Write the records of the slides to ``mxsplicer.json``, which finishes the result; ``run`` holds its model."""
    names = {"cells": result.cells, "features": result.features, "report": result.report, "log": result.log}
    files = {name: path.name for name, path in names.items() if path.exists()} | {"run": run}
    entries = [slide.to_index(result.path) for slide in slides]
    write_json(result.index, {"format": FORMAT, "version": VERSION, "slides": entries, "files": files})


def open_recorded(record: SlideRecord, folder: Path) -> tuple[Slide, LazyImage] | None:
    """Open a slide of the result in ``folder`` and its mask; None if one of them is gone."""
    found = record.find_moved(folder)
    if found is None:
        return None
    slide = found.open_image()
    mask = found.open_mask(slide)
    assert mask is not None, "a finished result has a mask of each slide"
    return slide, mask


def open_images(path: Path) -> tuple[list[Slide], list[LazyImage]]:
    """Open the slides of a result and their masks; those that are gone are left out, with a warning."""
    slides, masks = [], []
    for record in read_records(path):
        found = open_recorded(record, path)
        if found is None:
            logger.warning("slide %s or its mask was moved; it is left out of the figures", record.name)
            continue
        slides.append(found[0])
        masks.append(found[1])
    return slides, masks


def open_result_slide(path: str | Path, name: str) -> tuple[Slide, LazyImage]:
    """Open one slide of a result: its image and its mask.

    Raises
    ------
    InputError
        If the result does not have the slide, or its image or mask was moved.
    """
    path = Path(path)
    records = {record.name: record for record in read_records(path)}
    if name not in records:
        msg = f"{path.name} has no slide {name!r}; it has {', '.join(records)}."
        raise InputError(msg)
    record = records[name]
    found = open_recorded(record, path)
    if found is None:
        files = (("image", record.image), ("mask", record.mask))
        missing = [str(at) for key, at in files if at and not _find(at, path, record.fingerprints.get(key))]
        msg = f"slide {name!r} of {path.name} was moved: {' and '.join(missing)} not found."
        raise InputError(msg, f"Put {'it' if len(missing) == 1 else 'both'} back, or into {path.resolve().parent}.")
    return found


def _place(value: object, folder: Path) -> Location | None:
    """Return a slide's place relative to a folder; an absolute path and a URL stay as they are."""
    if not isinstance(value, str) or not value:
        return None
    found = locate(value)
    if not isinstance(found, Path):
        return found
    from_windows = folder / value.replace("\\", "/")
    return from_windows if "\\" in value and from_windows.exists() else folder / found


def _relative(place: Location | None, folder: Path) -> str:
    assert place is not None, "given or made"
    if isinstance(place, str):
        return place
    place, folder = place.resolve(), folder.resolve()
    return str(place.relative_to(folder)) if place.is_relative_to(folder) else str(place)


def _find(place: Location, folder: Path, expected: str | None) -> Location | None:
    if not isinstance(place, Path) or place.exists():
        return place
    copy = folder.resolve().parent / place.name  # next to the result
    return copy if copy.exists() and expected in (None, fingerprint(copy)) else None
