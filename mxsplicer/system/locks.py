"""One command at a time on a folder: a lock file beside it that says who holds it and since when.

The file is created in one step that fails where it exists (O_EXCL), which every file system does, those that lack or
fake locking too. Its holder touches it now and then. A lock is stale where its process is gone (on the same machine),
or where nobody touched it for some minutes (on any); a stale one is taken over. Ages are differences between times
that the file system itself wrote, so that clocks of machines need not agree.
"""

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from mxsplicer.errors import InputError

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 15.0
STALE_SECONDS = 180.0  # a shared file system may show the touch of another machine a minute late

_held: set[Path] = set()  # by this process: its own functions may call each other


@dataclass(frozen=True)
class Holder:
    """Who holds a lock.

    Attributes
    ----------
    host, pid
        The machine and the process.
    since
        When it was taken, by the clock of that machine, in seconds since 1970.
    token
        Tells this lock from every other.
    started
        When the process began: another one may have its number by now.
    """

    host: str
    pid: int
    since: float
    token: str
    started: float = 0.0


@dataclass(frozen=True)
class Lock:
    """A lock as it is found.

    Attributes
    ----------
    path
        The file.
    holder
        Who holds it; None where the file does not say, as of a process that was killed while it wrote.
    age_s
        Seconds since it was last touched.
    is_stale
        Whether its holder is gone.
    """

    path: Path
    holder: Holder | None
    age_s: float
    is_stale: bool

    def __str__(self) -> str:
        """Return who holds it, for people."""
        if self.holder is None:
            return f"an unknown process, last seen {self.age_s:.0f} s ago"
        return f"process {self.holder.pid} on {self.holder.host}, last seen {self.age_s:.0f} s ago"


def lock_of(folder: str | Path) -> Path:
    """Return the lock file of a folder; it lies beside it, for the folder may not exist yet, or be replaced.

    Examples
    --------
    >>> lock_of("study/S01.mxs").as_posix()
    'study/S01.mxs.lock'
    """
    folder = Path(folder)
    return folder.with_name(folder.name + ".lock")


def find_lock(folder: str | Path) -> Lock | None:
    """Return the lock on a folder as it is now, or None where nobody holds it."""
    return _read(lock_of(folder))


@contextmanager
def held(folder: str | Path) -> Iterator[None]:
    """Hold the lock of a folder for what is in the ``with`` block.

    A process that holds it already goes on, so that functions that lock the same folder may call each other.

    Raises
    ------
    InputError
        If another process holds it and lives.
    """
    path = lock_of(folder)
    key = path.absolute()
    if key in _held:
        yield
        return
    holder = _take(path)
    _held.add(key)
    done = threading.Event()
    beat = threading.Thread(target=_touch, args=(path, done), daemon=True)
    beat.start()
    try:
        yield
    finally:
        done.set()
        beat.join()
        _held.discard(key)
        _give_back(path, holder)


def _take(path: Path) -> Holder:
    process = psutil.Process()
    holder = Holder(socket.gethostname(), process.pid, time.time(), uuid.uuid4().hex, process.create_time())
    path.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(10):
        try:
            number = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            found = _read(path)
            if found is not None and _take_over(found, holder):
                return holder
            continue
        with os.fdopen(number, "w", encoding="utf-8") as stream:
            json.dump(asdict(holder), stream)
        return holder
    msg = f"{path} changes hands all the time: several commands want {_folder_of(path)}. Run one."
    raise InputError(msg)


def _take_over(found: Lock, holder: Holder) -> bool:
    """Put a holder in the place of a stale one; return whether the lock was still the one found.

    Of several that find a lock stale, one has the right to replace it: who holds the lock named after what is replaced.
    A process that is killed between taking that one and giving it back leaves a stale one, which is taken over alike.
    """
    path = found.path
    if not found.is_stale:
        msg = (
            f"{_folder_of(path)} is in use by {found}. Wait until that command is done, or end it; if you know that it "
            f"is gone, remove {path}."
        )
        raise InputError(msg)
    right = path.with_name(f"{path.name}.{found.holder.token if found.holder else 'unknown'}")
    holder_of_right = _take(right)
    try:
        now = _read(path)
        if now is None or not now.is_stale or now.holder != found.holder:
            return False
        written = path.with_name(f"{path.name}.{holder.token}.partial")
        written.write_text(json.dumps(asdict(holder)), encoding="utf-8")
        written.replace(path)
    finally:
        _give_back(right, holder_of_right)
    logger.warning("%s was left behind by %s; it is taken over", path, found)
    return True


def _folder_of(path: Path) -> str:
    return path.name.rpartition(".lock")[0]


def _read(path: Path) -> Lock | None:
    try:
        touched = path.stat().st_mtime
    except FileNotFoundError:
        return None
    holder = _content(path)
    age = max(0.0, _now(path) - touched)
    return Lock(path, holder, age, age > STALE_SECONDS or _is_gone(holder))


def _content(path: Path) -> Holder | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Holder(**found)
    except (OSError, ValueError, TypeError):  # gone again, or not written to its end
        return None


def _now(path: Path) -> float:
    """Return the time by the clock that wrote the lock's: that of its file system, where it takes a new file."""
    probe = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
    except OSError:  # only to be read here
        return time.time()
    return now


def _is_gone(holder: Holder | None) -> bool:
    if holder is None or holder.host != socket.gethostname():
        return False
    try:
        return bool(abs(psutil.Process(holder.pid).create_time() - holder.started) > 1)
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False


def _touch(path: Path, done: threading.Event) -> None:
    while not done.wait(HEARTBEAT_SECONDS):
        try:
            os.utime(path)
        except OSError as error:  # a network that is away for a moment; the next touch may succeed
            logger.debug("%s could not be touched: %s", path, error)


def _give_back(path: Path, holder: Holder) -> None:
    if _content(path) == holder:
        path.unlink(missing_ok=True)
    else:
        logger.warning("%s was taken over by another command meanwhile: check what lies beside it", path)
