"""Outcomes: how a command on one slide ended, in a small file, so that the commands after it know which slides go on.

In a workflow of many slides a slide that cannot be used is no reason to stop. ``mxsplicer --outcome FILE.json ...``
notes what a command made, or why it could make nothing of its slide, and ends with 0 in both cases; ``--after FILE``
passes a failure on. Commands over all slides take such files in place of what they tell of, and leave out those that
failed. A process that was killed, a full disk and a full memory leave no outcome: they are no slide's fault.
"""

import errno
import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path

from mxsplicer.errors import InputError
from mxsplicer.system.files import write_json
from mxsplicer.system.locks import folder_lock

logger = logging.getLogger(__name__)

_made: ContextVar[list[str] | None] = ContextVar("mxsplicer_made", default=None)


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes
    ----------
    made
        What it wrote, relative to the folder of the file; "" where it failed.
    failed
        Why it failed; "" where it did not.
    seconds
        How long it took.
    """

    made: str = ""
    failed: str = ""
    seconds: float = 0.0


def is_of_slide(error: BaseException) -> bool:
    """Return whether the others of a cohort can go on after an error: not where the disk or the memory is full."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return False
    return isinstance(error, Exception) and not isinstance(error, MemoryError)


def reason_of(error: BaseException) -> str:
    """Return why a slide failed, in one line."""
    said = " ".join(str(error).split()) or "no reason was given"
    return said if isinstance(error, InputError) else f"{type(error).__name__}: {said}"


def note(path: str | Path) -> None:
    """Tell the outcome of the command that runs, if one is kept, what was made."""
    made = _made.get()
    if made is not None:
        made.append(str(path))


@contextmanager
def kept(file: Path | None, command: str = "") -> Iterator[None]:
    """Keep the outcome of what is in the ``with`` block in a file; a failure that is a slide's ends there.

    Parameters
    ----------
    file
        The file; none is kept where it is None.
    command
        What fails, for people.
    """
    if file is None:
        yield
        return
    began, made = time.monotonic(), list[str]()
    token = _made.set(made)
    try:
        with folder_lock(file):
            try:
                yield
                outcome = Outcome(made=_relative(made[-1], file) if made else "")
            except Exception as error:
                if not is_of_slide(error):
                    raise
                outcome = Outcome(failed=f"{command}: {reason_of(error)}" if command else reason_of(error))
                logger.error("%s", outcome.failed, exc_info=not isinstance(error, InputError))
            _write(file, Outcome(outcome.made, outcome.failed, round(time.monotonic() - began, 3)))
    finally:
        _made.reset(token)


def pass_on(after: Path, file: Path) -> bool:
    """Return whether what came before failed; then its outcome is that of ``file`` too."""
    before = read_outcome(after)
    if before.failed:
        _write(file, Outcome(failed=before.failed))
    return bool(before.failed)


def read_outcome(file: str | Path) -> Outcome:
    """Return an outcome.

    Raises
    ------
    InputError
        If the file is none.
    """
    try:
        return Outcome(**json.loads(Path(file).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        msg = f"{file} is no outcome of a command of mxsplicer ({error}). Run that command with --outcome."
        raise InputError(msg) from error


def usable(paths: Sequence[str | Path]) -> tuple[list[Path], dict[str, str]]:
    """Return what was made, of paths and of files that tell outcomes, and for each slide that failed the reason.

    A slide is called as the folder in which its outcome lies.
    """
    found, failed = [], {}
    for path in map(Path, paths):
        if path.suffix != ".json":
            found.append(path)
            continue
        outcome = read_outcome(path)
        if outcome.failed:
            failed[path.absolute().parent.name] = outcome.failed
        else:
            found.append(path.parent / outcome.made)
    if not found:
        name, reason = next(iter(failed.items()), ("", "none was given"))
        msg = f"none of the {len(paths)} slides can be used. The first{', ' + name if name else ''}: {reason}"
        raise InputError(msg)
    return found, failed


def _write(file: Path, outcome: Outcome) -> None:
    write_json(file, asdict(outcome))


def _relative(made: str, file: Path) -> str:
    path, folder = Path(made).absolute(), file.absolute().parent
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
