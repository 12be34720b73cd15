"""One command at a time works on a folder: a lock file next to it names the process that holds it.

The lock is a lease of the filelock package, which works on any file system, those of clusters included. Its holder
touches the file every 15 seconds. The lock of a process that ended on the same machine is taken over at once; a lock
that nobody touches for three minutes is taken over from any machine. Clocks of machines need not agree.
"""

import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from filelock import SoftFileLease, Timeout

from mxsplicer.errors import InputError

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 15.0
STALE_SECONDS = 180.0  # a shared file system may show the touch of another machine a minute late
_PATIENCE_SECONDS = 0.5  # for a command that is about to end


@dataclass(frozen=True)
class Lock:
    """A lock as it was found.

    Attributes
    ----------
    path
        The lock file.
    pid, host
        The process that holds it and its machine; None if the file does not say, as after a crash while it was written.
    age_s
        Seconds since its holder last touched it.
    is_stale
        Whether its holder has ended.
    """

    path: Path
    pid: int | None
    host: str | None
    age_s: float
    is_stale: bool

    def __str__(self) -> str:
        """Return who holds it, for people."""
        holder = "an unknown process" if self.pid is None else f"process {self.pid} on {self.host}"
        return f"{holder}, last seen {self.age_s:.0f} s ago"


def lock_path(folder: str | Path) -> Path:
    """Return the lock file of a folder; it lies next to the folder, which may not exist yet or be replaced.

    Examples
    --------
    >>> lock_path("study/S01.mxs").as_posix()
    'study/S01.mxs.lock'
    """
    folder = Path(folder)
    return folder.with_name(folder.name + ".lock")


def find_lock(folder: str | Path) -> Lock | None:
    """Return the lock of a folder as it is now, or None if nobody holds it."""
    path = lock_path(folder)
    try:
        age = max(0.0, time.time() - path.stat().st_mtime)
    except FileNotFoundError:
        return None
    owner = SoftFileLease(path).owner
    if owner is None:
        return Lock(path, None, None, age, age > STALE_SECONDS)
    host = owner.hostname.partition("?")[0]  # filelock appends the namespace of processes in a container
    has_ended = host == socket.gethostname() and not psutil.pid_exists(owner.pid)
    return Lock(path, owner.pid, host, age, has_ended or age > STALE_SECONDS)


@contextmanager
def folder_lock(folder: str | Path) -> Iterator[None]:
    """Hold the lock of a folder during the ``with`` block.

    Functions of one process that lock the same folder may call each other.

    Raises
    ------
    InputError
        If another process holds the lock and is alive.
    """
    path = lock_path(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    lease = SoftFileLease(
        path,
        lease_duration=STALE_SECONDS,
        heartbeat_interval=HEARTBEAT_SECONDS,
        thread_local=False,
        is_singleton=True,
    )
    found = None if lease.is_locked else find_lock(folder)
    patience = _PATIENCE_SECONDS
    if found is not None and found.age_s > STALE_SECONDS:  # perhaps stale: watch whether anybody touches it
        patience = STALE_SECONDS + 2 * HEARTBEAT_SECONDS
        logger.warning("%s is held by %s; it is taken over if nobody touches it for %.0f s", path, found, STALE_SECONDS)
    try:
        lease.acquire(timeout=patience, poll_interval=patience / 50)
    except Timeout as error:
        msg = f"{Path(folder).name} is in use by {find_lock(folder) or found}."
        remedy = f"Wait until that command ends, or end it; if you know that it has ended, remove {path}."
        raise InputError(msg, remedy) from error
    if found is not None:
        logger.warning("%s was left behind by %s; it is taken over", path, found)
    try:
        yield
    finally:
        if (owner := lease.owner) is None or owner.token != lease.token:
            logger.warning("%s was taken over by another command meanwhile: check %s", path, folder)
        lease.release()
