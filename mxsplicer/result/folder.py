"""The result folder: what ``embed`` leaves of one or more slides, where each file lies, and how it is opened again.

slide.mxs/
  mxsplicer.json    index of a finished result; the file that viewers open
  settings.json     what the folder was begun with, and how long each stage took
  mask.zarr         where it was made here, with nuclei.zarr; patches.zarr: the training sample; slides/NAME/ where
                    there are several
  run/              the trained encoder; baselines/joint/ beside it where there are labels to compare it on
  cells.h5ad  features.zarr  report.html  log.txt
"""

import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from mxsplicer.errors import InputError
from mxsplicer.images.markers import parse_renames
from mxsplicer.images.readers import open_slide
from mxsplicer.images.slide import LazyImage, Slide, select_channels
from mxsplicer.masks.files import open_mask
from mxsplicer.system.files import atomic_write, write_json
from mxsplicer.system.fingerprints import fingerprint
from mxsplicer.system.location import Location, locate
from mxsplicer.system.progress import track

logger = logging.getLogger(__name__)

_FORMAT, _VERSION = "mxsplicer result", 1
# What is held at a time of z: 32 MB, and as wide as a piece of the AnnData file, so that each is read once.
_FEATURES_AT_ONCE, _CELLS_AT_ONCE = 16, 1 << 19


@dataclass(frozen=True, eq=False)
class Result:
    """A result folder: where everything lies that ``embed`` makes of one or more slides."""

    path: Path
    slide_names: tuple[str, ...]

    index = property(lambda self: self.path / "mxsplicer.json")
    settings = property(lambda self: self.path / "settings.json")
    embedded = property(lambda self: self.path / "embedded.h5ad")  # cells.h5ad, before anything was made of z
    cells = property(lambda self: self.path / "cells.h5ad")
    features = property(lambda self: self.path / "features.zarr")
    report = property(lambda self: self.path / "report.html")
    run = property(lambda self: self.path / "run")
    joint = property(lambda self: self.path / "baselines" / "joint")
    log = property(lambda self: self.path / "log.txt")

    @property
    def failed(self) -> dict[str, str]:
        """The slides that could not be used, by name, and why; the result holds the others."""
        return failures(self.settings)

    def of_slide(self, name: str, file: str) -> Path:
        """Return the place of a file of one slide; several slides have a folder each."""
        return self.path / file if len(self.slide_names) == 1 else self.path / "slides" / name / file


def open_result(path: str | Path) -> dict[str, Any]:
    """Return the index of a finished result: its slides, markers, pixel sizes, files and fingerprints."""
    index = Path(path) / "mxsplicer.json"
    if not index.is_file():
        msg = f"{path} is no finished result: it has no mxsplicer.json. Run `mxsplicer embed` to the end."
        raise InputError(msg)
    content: dict[str, Any] = json.loads(index.read_text(encoding="utf-8"))
    if content.get("format") != _FORMAT or content["version"] > _VERSION:
        msg = f"{index} was written by another version of mxsplicer: update it."
        raise InputError(msg)
    return content


def failures(settings: Path) -> dict[str, str]:
    """Return the slides that a call gave up on, by name, and why, from its ``settings.json``."""
    if not settings.is_file():
        return {}
    failed: dict[str, str] = json.loads(settings.read_text(encoding="utf-8")).get("failed", {})
    return failed


def cells_of(path: str | Path) -> Path:
    """Return the AnnData file of a result folder, or the file itself where one is given."""
    path = Path(path)
    cells = path / "cells.h5ad" if path.is_dir() else path
    if not cells.is_file() or cells.suffix != ".h5ad":
        msg = f"{path} is neither a finished result nor an .h5ad file of cells. Run `mxsplicer embed` to the end."
        raise InputError(msg)
    return cells


def open_images(path: Path) -> tuple[list[Slide], list[LazyImage]]:
    """Open the slides and masks of a result where its index says they are; those that were moved are left out."""
    slides, masks = [], []
    for one in open_result(path)["slides"]:
        found = open_image(path, one)
        if found is None:
            logger.warning(
                "slide %s or its mask is no longer where it was; it is left out of the pictures", one["name"]
            )
            continue
        slides.append(found[0])
        masks.append(found[1])
    return slides, masks


def open_result_slide(path: str | Path, name: str) -> tuple[Slide, LazyImage]:
    """Open the image and the mask of one slide of a result.

    Raises
    ------
    InputError
        If the result has no such slide, or its image or mask was moved.
    """
    path = Path(path)
    entries = {one["name"]: one for one in open_result(path)["slides"]}
    if name not in entries:
        msg = f"{path.name} has no slide {name!r}; it has {', '.join(entries)}."
        raise InputError(msg)
    entry = entries[name]
    found = open_image(path, entry)
    if found is None:
        msg = f"slide {name!r} of {path.name} was moved: {entry['image']} or {entry['mask']} is missing."
        raise InputError(msg, f"Put both back, or into {path.resolve().parent}.")
    return found


def open_image(path: Path, entry: Mapping[str, Any]) -> tuple[Slide, LazyImage] | None:
    """Open one slide of a result and its mask by its entry in the index; None where one of them was moved.

    Files that were copied along with the result are found beside it, if their fingerprints are those of the index.
    """
    prints = entry.get("fingerprints", {})
    image = _here_or_beside(path, locate(entry["image"]), prints.get("image"))
    mask = _here_or_beside(path, locate_mask(path, entry), prints.get("mask"))
    if image is None or mask is None:
        return None
    slide = open_slide(
        image,
        markers=entry["markers_table"],
        rename=parse_renames(entry.get("rename", [])),
        drop=entry.get("drop", []),
        pixel_size_um=entry["pixel_size_um"],
        name=entry["name"],
    )
    if entry.get("selected"):  # of slides whose panels differ, those markers that they share, in one order
        slide = select_channels(slide, slide.channels_of(entry["markers"]))
    return slide, open_mask(mask, page=entry["mask_page"], slide=slide)


def _here_or_beside(path: Path, place: Location, print_of_it: str | None) -> Location | None:
    if not isinstance(place, Path) or place.exists():
        return place
    beside = path.resolve().parent / place.name
    return beside if beside.exists() and print_of_it in (None, fingerprint(beside)) else None


def locate_mask(path: Path, entry: Mapping[str, Any]) -> Location:
    """Return where the mask of a slide lies, by the slide's entry in the index of the result at ``path``."""
    mask = locate(entry["mask"])
    return path / mask if isinstance(mask, Path) else mask  # an absolute path stays as it is


def write_index(result: Result, slides: Sequence[Mapping[str, Any]], *, run: str) -> None:
    """Write ``mxsplicer.json``: the result is finished."""
    names = {"cells": result.cells, "features": result.features, "report": result.report, "log": result.log}
    files = {name: path.name for name, path in names.items() if path.exists()} | {"run": run}
    write_json(result.index, {"format": _FORMAT, "version": _VERSION, "slides": list(slides), "files": files})


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return in words how two calls differ in what decides their outcome; see ``settings.json``."""
    options = [
        f"{name.replace('_', '-')} was {was}, now {value}"
        for name, value in now["options"].items()
        # An option that is newer than the folder was off.
        if (was := before["options"].get(name)) != value and (was or value)
    ]
    failed = {*before.get("failed", {}), *now.get("failed", {})}  # the others of a cohort are what they were
    inputs = [
        f"slide {name!r} or its mask changed"
        for name in {**before["inputs"], **now["inputs"]}
        if name not in failed and before["inputs"].get(name) != now["inputs"].get(name)
    ]
    files = [
        f"what --{option} holds changed"
        for option, content in now["files"].items()
        if before["files"].get(option, content) != content
    ]
    return options + inputs + files


@contextmanager
def logged(result: Result) -> Iterator[None]:
    """Write the messages of a call to the log of its result; leave no folder behind if there is nothing else in it."""
    package = logging.getLogger("mxsplicer")
    handler, level = logging.FileHandler(result.log, encoding="utf-8"), package.level
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    package.addHandler(handler)
    package.setLevel(min(package.getEffectiveLevel(), logging.INFO))
    try:
        yield
    except InputError as error:
        logger.error("%s", error)
        if {path for path in result.path.rglob("*") if path.is_file()} <= {result.settings, result.log}:
            shutil.rmtree(result.path)
        raise
    finally:
        package.removeHandler(handler)
        package.setLevel(level)
        handler.close()


def write_features(path: Path, z: Any) -> None:
    """Write z (N, d), an array or an h5py dataset, feature by feature, so that a viewer reads one of all cells at once.

    A chunk holds one feature of up to 2¹⁹ cells. What is held in memory does not grow with the cells: 16 features of
    as many.
    """
    n, d = z.shape
    chunks = (1, min(n, _CELLS_AT_ONCE))
    with atomic_write(path) as temporary:
        features = zarr.create_array(temporary, shape=(d, n), chunks=chunks, dtype=z.dtype, zarr_format=3)
        for start in track(range(0, n, _CELLS_AT_ONCE), "Writing features"):
            cells = slice(start, min(start + _CELLS_AT_ONCE, n))
            for first in range(0, d, _FEATURES_AT_ONCE):
                some = np.asarray(z[cells, first : first + _FEATURES_AT_ONCE])
                for number, feature in enumerate(some.T, start=first):  # each compressed by itself, without a copy
                    features[number, cells] = np.ascontiguousarray(feature)
