"""A result folder is begun, gone on with, or refused because it was made differently."""

import json
import shutil
from pathlib import Path
from typing import Any

from mxsplicer.errors import InputError
from mxsplicer.result.cohort import (
    FILES,
)
from mxsplicer.result.folder import differences
from mxsplicer.result.options import Options, options_as_json
from mxsplicer.result.work import Work, record
from mxsplicer.system.files import write_json


def begin(work: Work, *, overwrite: bool) -> None:
    """Create the result folder, or go on with one that was begun by the same call."""
    path, file = work.result.path, work.result.settings
    if path.exists() and not file.is_file() and (not path.is_dir() or any(path.iterdir())):
        msg = f"{path} exists and is not a result of mxsplicer. Choose another folder by --out."
        raise InputError(msg)
    if file.is_file():
        before = _recorded(file)
        differ = differences(before, record(work))
        if not differ and not overwrite:
            work.seconds.update(before["seconds"])
            work.is_begun = True
            return
        if not overwrite:
            msg = (
                f"{path} exists and was made differently ({'; '.join(differ[:3])}). "
                "Choose another folder by --out, or --overwrite to replace it."
            )
            raise InputError(msg)
        for given in _given_paths(work):
            if given.resolve().is_relative_to(path.resolve()):
                msg = f"{given} lies in {path}, which --overwrite would delete. Choose another folder by --out."
                raise InputError(msg)
        shutil.rmtree(path)
    path.mkdir(parents=True, exist_ok=True)
    write_json(file, record(work))
    work.is_begun = True


def is_begun(work: Work) -> bool:
    """Return whether the result folder was begun by the same call."""
    file = work.result.settings
    return file.is_file() and differences(_recorded(file), record(work)) == []


def _recorded(settings: Path) -> dict[str, Any]:
    """Return what a result was begun with; options that are newer than it were at their defaults."""
    record: dict[str, Any] = json.loads(settings.read_text(encoding="utf-8"))
    return record | {"options": options_as_json(Options()) | record["options"]}


def _given_paths(work: Work) -> list[Path]:
    options = work.options
    tables = (options.markers, options.labels, options.samples, options.cohort, options.roi)
    of_slides = [getattr(entry.sample, one) for entry in work.entries for one in FILES]
    given = (*of_slides, options.model, *tables)
    return [path for path in given if isinstance(path, Path)]
