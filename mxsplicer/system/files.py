"""Files and folders that are whole or absent: written under a temporary name, renamed when they are complete.

The temporary name is ``<name>.partial``, next to the final one. What a killed process leaves under that name is
overwritten by the next one, or continued where a module keeps its progress there (patch stores, masks, runs).
"""

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mxsplicer.errors import InputError

_SUFFIX = ".partial"
_WAITS_S = (0.05, 0.2, 0.5, 1.0)  # for a virus scanner or an indexer of Windows, which opens what was just written
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # names of devices on Windows
_UNFIT = re.compile(r"[<>:\"|?*\\/\x00-\x1f]|[. ]$")


def partial_path(path: Path) -> Path:
    """Return the temporary name of a file or folder.

    Examples
    --------
    >>> partial_path(Path("study/cells.h5ad")).as_posix()
    'study/cells.h5ad.partial'
    """
    return path.with_name(path.name + _SUFFIX)


def check_free(path: Path, *, overwrite: bool) -> None:
    """Raise if a file or folder exists and must not be replaced.

    Raises
    ------
    InputError
        If ``path`` exists and ``overwrite`` is False.
    """
    if path.exists() and not overwrite:
        msg = f"{path} exists."
        raise InputError(msg, "Choose another name, or pass `overwrite=True` to replace it.")


@contextmanager
def atomic_write(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """Yield a temporary name to write a file or folder to, and rename it to ``path`` at the end of the block.

    What exists at ``path`` is replaced. If the block raises, it stays and the temporary file or folder is removed.

    Parameters
    ----------
    shared
        Whether several processes may write ``path`` at the same time; each then has a temporary name of its own.

    Examples
    --------
    >>> path = getfixture("tmp_path") / "table.csv"
    >>> with atomic_write(path) as temporary:
    ...     _ = temporary.write_text("a,b")
    ...     path.exists()
    False
    >>> path.read_text()
    'a,b'
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}{_SUFFIX}") if shared else partial_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not shared:
        remove(temporary)
    try:
        yield temporary
        replace(temporary, path)
    finally:
        remove(temporary)


def replace(temporary: Path, path: Path) -> None:
    """Rename a complete file or folder to ``path``, which it replaces."""
    if path.is_dir() or (path.exists() and temporary.is_dir()):  # only a file replaces a file in one step
        replaced = path.with_name(path.name + ".replaced")
        remove(replaced)
        _patiently(lambda: path.rename(replaced))
        _patiently(lambda: temporary.rename(path))
        remove(replaced)
    else:
        _patiently(lambda: temporary.replace(path))


def _patiently(rename: Callable[[], object]) -> None:
    """Rename a file or folder; on Windows, try again for two seconds if another program has it open."""
    for seconds in _WAITS_S if sys.platform == "win32" else ():
        try:
            rename()
        except PermissionError:
            time.sleep(seconds)
        else:
            return
    rename()


def check_folder_names(names: Sequence[str], what: str) -> None:
    """Raise if names cannot be those of folders next to each other on this system.

    Parameters
    ----------
    what
        What they name, for the message: ``"slides"``.

    Raises
    ------
    InputError
        If a name has a slash or begins with a dot; on Windows also for its forbidden characters and names of devices,
        and on Windows and macOS if two names differ only in capitals.
    """
    for name in names:
        on_windows = sys.platform == "win32" and (_UNFIT.search(name) or _RESERVED.fullmatch(name))
        if Path(name).name != name or name.startswith(".") or on_windows:
            msg = f"{name!r}, one of the {what}, cannot name a folder."
            more = ' and any of < > : " | ? *' if sys.platform == "win32" else ""
            raise InputError(msg, f"Leave out slashes, a leading dot{more}.")
    known: dict[str, str] = {}
    for name in names:
        other = known.setdefault(name.casefold(), name)
        if other != name and sys.platform in ("win32", "darwin"):
            msg = f"{what} {other!r} and {name!r} differ only in capitals: this system would give them one folder."
            raise InputError(msg, "Rename one of them.")


def remove(path: Path) -> None:
    """Remove a file or a folder with all that it holds; one that does not exist is ignored."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_partial(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder and those below it."""
    for leftover in folder.rglob(f"*{_SUFFIX}"):
        leftover.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file that is whole or absent."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
