"""Outcomes: how a command on one slide ended, in a small file that later commands read.

A workflow of many slides does not stop at one that cannot be used. A command with an outcome file records what it
made, or why it failed on its slide, and exits with 0 in both cases; the next command passes a failure on.
Commands over all slides accept such files instead of what the commands made, and leave out slides that failed. A
process that was killed, a full disk and full memory leave no outcome, because they are not caused by the slide.
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

_outputs: ContextVar[list[str] | None] = ContextVar("mxsplicer_outputs", default=None)


@dataclass(frozen=True)
class Outcome:
    """The outcome of a command: how it ended.

    Attributes
    ----------
    made
        What it wrote, relative to the folder of the file; "" if it failed.
    failed
        Why it failed; "" if it did not.
    seconds
        How long it took.
    """

    made: str = ""
    failed: str = ""
    seconds: float = 0.0


def concerns_one_slide(error: BaseException) -> bool:
    """Return whether an outcome concerns one slide, so that others continue: not if disk or memory is full."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return False
    return isinstance(error, Exception) and not isinstance(error, MemoryError)


def describe_failure(error: BaseException) -> str:
    """Return the outcome of a slide that failed, on one line."""
    reason = " ".join(str(error).split()) or "no reason was given"
    return reason if isinstance(error, InputError) else f"{type(error).__name__}: {reason}"


def record_output(path: str | Path) -> None:
    """Add what was made to the outcome of the command that runs, if one is recorded."""
    outputs = _outputs.get()
    if outputs is not None:
        outputs.append(str(path))


@contextmanager
def record_outcome(file: Path | None, command: str = "") -> Iterator[None]:
    """Write to a file how the ``with`` block ended; an error that concerns one slide is recorded and not raised.

    Parameters
    ----------
    file
        The file; nothing is recorded if it is None.
    command
        Name of what failed, for people.
    """
    if file is None:
        yield
        return
    began, outputs = time.monotonic(), list[str]()
    token = _outputs.set(outputs)
    try:
        with folder_lock(file):
            try:
                yield
                outcome = Outcome(made=_relative(outputs[-1], file) if outputs else "")
            except Exception as error:
                if not concerns_one_slide(error):
                    raise
                reason = describe_failure(error)
                outcome = Outcome(failed=f"{command}: {reason}" if command else reason)
                logger.error("%s", outcome.failed, exc_info=not isinstance(error, InputError))
            _write(file, Outcome(outcome.made, outcome.failed, round(time.monotonic() - began, 3)))
    finally:
        _outputs.reset(token)


def pass_failure_on(after: Path, file: Path) -> bool:
    """Return whether an earlier command's outcome is a failure; if so, write it to ``file`` too."""
    before = read_outcome(after)
    if before.failed:
        _write(file, Outcome(failed=before.failed))
    return bool(before.failed)


def read_outcome(file: str | Path) -> Outcome:
    """Return the outcome in a file.

    Raises
    ------
    InputError
        If the file is not an outcome.
    """
    try:
        return Outcome(**json.loads(Path(file).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        msg = f"{file} is not the outcome of a command of mxsplicer ({error})."
        raise InputError(msg, "Run that command with `outcome`.") from error


def read_outcomes(paths: Sequence[str | Path]) -> tuple[list[Path], dict[str, str]]:
    """Return what was made, and for each slide that failed the reason.

    Parameters
    ----------
    paths
        What commands made, or the files of their outcomes. A slide is called after the folder of its outcome.

    Raises
    ------
    InputError
        If nothing was made.
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


def check_any_left(slides: Sequence[object], failed: dict[str, str]) -> None:
    """Raise if the outcome of every slide is a failure."""
    if not slides:
        name, reason = next(iter(failed.items()))
        msg = f"none of the {len(failed)} slides can be used. The first, {name}: {reason}"
        raise InputError(msg)
