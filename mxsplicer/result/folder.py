"""The result folder: the names of its files, in this module alone, and how a finished result is found.

slide.mxs/
  mxsplicer.json    index of a finished result; the file that viewers open
  settings.json     what the folder was begun with, and how long each stage took
  config.toml       its options, which `mxsplicer embed --config` repeats
  mask.zarr, nuclei.zarr    where no mask was given
  patches.zarr      the training sample
  run/              the trained encoder; baselines/joint/, if there are labels to compare it on
  cells.h5ad  features.zarr  report.html  log.txt

Files of single slides lie in slides/NAME/ if there are several.
"""

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mxsplicer.errors import InputError

FORMAT, VERSION = "mxsplicer result", 1  # of the index
_INDEX, _CELLS = "mxsplicer.json", "cells.h5ad"
_HEAD = 4096  # bytes of an index in which it names its format


@dataclass(frozen=True, eq=False)
class Result:
    """A result folder and the files in it, whether they exist or not.

    Attributes
    ----------
    path
        The folder.
    slide_names
        Names of its slides; not needed for the files that all slides share.
    """

    path: Path
    slide_names: tuple[str, ...] = ()

    index = property(lambda self: self.path / _INDEX)
    settings = property(lambda self: self.path / "settings.json")
    config = property(lambda self: self.path / "config.toml")  # the options, for `mxsplicer embed --config`
    groups = property(lambda self: self.path / "groups.yaml")  # of markers, which config.toml refers to
    embedded = property(lambda self: self.path / "embedded.h5ad")  # becomes cells.h5ad when it is complete
    cells = property(lambda self: self.path / _CELLS)
    features = property(lambda self: self.path / "features.zarr")
    report = property(lambda self: self.path / "report.html")
    run = property(lambda self: self.path / "run")
    training_log = property(lambda self: self.run / "log.jsonl")
    joint = property(lambda self: self.path / "baselines" / "joint")
    log = property(lambda self: self.path / "log.txt")
    slides = property(lambda self: self.path / "slides")

    @property
    def failed(self) -> dict[str, str]:
        """The slides that could not be used, by name, and why; the result has the other slides."""
        failed: dict[str, str] = self.read_settings().get("failed", {})
        return failed

    def read_settings(self) -> dict[str, Any]:
        """Return the content of ``settings.json``; empty if nothing was begun here."""
        if not self.settings.is_file():
            return {}
        settings: dict[str, Any] = json.loads(self.settings.read_text(encoding="utf-8"))
        return settings

    def mask_of(self, slide: str) -> Path:
        """Return where the mask of a slide lies if it was made here."""
        return self._of_slide(slide, "mask.zarr")

    def nuclei_of(self, slide: str) -> Path:
        """Return where the mask of the nuclei of a slide lies if it was made here."""
        return self._of_slide(slide, "nuclei.zarr")

    def patches_of(self, slide: str) -> Path:
        """Return where the patches of the training sample of a slide lie."""
        return self._of_slide(slide, "patches.zarr")

    def sample_of(self, slide: str) -> Path:
        """Return where patches lie that only a slide's own normalisation is measured on."""
        return self._of_slide(slide, "sample.zarr")

    def cells_of(self, slide: str) -> Path:
        """Return where the AnnData of a slide lies; of a single slide it is that of the result."""
        return self._of_slide(slide, _CELLS)

    def report_of(self, roi: str | Path) -> Path:
        """Return where the report on the cells inside outlines lies."""
        page = Path(self.report)
        return page.with_stem(f"{page.stem}_{Path(roi).name.partition('.')[0]}")

    def _of_slide(self, slide: str, file: str) -> Path:
        return self.path / file if len(self.slide_names) == 1 else self.slides / slide / file


def find_result(path: str | Path) -> Path | None:
    """Return the folder of a finished result, given by its folder or its ``mxsplicer.json``; None for anything else.

    Only the first bytes of the index are read.
    """
    path = Path(path)
    index = Result(path).index if path.is_dir() else path
    if index.name != _INDEX or not index.is_file():
        return None
    with index.open("rb") as file:
        return index.parent if f'"{FORMAT}"'.encode() in file.read(_HEAD) else None


def open_result(path: str | Path) -> dict[str, Any]:
    """Return the index of a finished result folder: its slides, markers, pixel sizes, files and fingerprints.

    Raises
    ------
    InputError
        If the folder is not a finished result, or was written by a newer version of mxsplicer.
    """
    index = Result(Path(path)).index
    if not index.is_file():
        msg = f"{path} is not a finished result: it has no {index.name}."
        raise InputError(msg, "Run `mxsplicer embed` to the end.")
    content: dict[str, Any] = json.loads(index.read_text(encoding="utf-8"))
    if content.get("format") != FORMAT or content["version"] > VERSION:
        msg = f"{index} was written by another version of mxsplicer."
        raise InputError(msg, "Update mxsplicer.")
    return content


def find_cells(path: str | Path) -> Path:
    """Return the AnnData file of a result folder, or the file itself if one is given."""
    path = Path(path)
    cells = Result(path).cells if path.is_dir() else path
    if not cells.is_file() or cells.suffix != ".h5ad":
        msg = f"{path} is neither a finished result nor an .h5ad file of cells."
        raise InputError(msg, "Run `mxsplicer embed` to the end.")
    return cells


def name_cells(path: Path) -> str:
    """Return what to call an AnnData file: by its folder in a result, otherwise by its own name."""
    return path.parent.name if path.name == _CELLS and path.parent.name else path.stem


@contextmanager
def log_to(result: Result) -> Iterator[None]:
    """Write the messages of a call to the log in its result folder.

    If the call fails with an :class:`~mxsplicer.errors.InputError` and the folder holds nothing else, it is removed.
    """
    package = logging.getLogger("mxsplicer")
    handler, level = logging.FileHandler(result.log, encoding="utf-8"), package.level
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    package.addHandler(handler)
    package.setLevel(min(package.getEffectiveLevel(), logging.INFO))
    try:
        yield
    except InputError as error:
        logging.getLogger(__name__).error("%s", error)
        of_options = {result.settings, result.config, result.groups, result.log}
        if {path for path in result.path.rglob("*") if path.is_file()} <= of_options:
            shutil.rmtree(result.path)
        raise
    finally:
        package.removeHandler(handler)
        package.setLevel(level)
        handler.close()
