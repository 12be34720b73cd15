"""Memory: how much a call may take, what it takes already, and how the rest is shared out.

The promise of ``--max-memory`` is about resident memory as the system counts it: the interpreter, the libraries, the
table of cells and mapped files all count. So a :class:`Budget` is made when work begins, measures what is there, and
shares out only the rest.
"""

import ctypes
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from mxsplicer.errors import InputError

_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_MARGIN = 0.1  # of the total: what an allocator keeps of what was freed, and what libraries allocate on the side
_SHARES = {"tiles": 0.35, "queue": 0.45, "batches": 0.2}


@dataclass(frozen=True)
class Budget:
    """What a call may hold in memory, and what of that is free for its work.

    ``tiles``, ``queue`` and ``batches`` are shares of ``free`` for stages that run at the same time: decoded tiles,
    work under way and waiting (blocks, labels), and what a network needs. A stage that runs alone may use ``free``.

    Examples
    --------
    >>> Budget(total=2 << 30, taken=600 << 20).free >> 20
    1243
    """

    total: int  # bytes, everything in
    taken: int = 0  # bytes the process holds when the work begins

    @classmethod
    def of(cls, max_bytes: int | None, *, default: int = 4 << 30, to_come: int = 0) -> "Budget":
        """Return the budget of a call that begins now.

        Parameters
        ----------
        max_bytes
            The limit for the whole process; where None, the work may take ``default`` on top of what is held now.
        to_come
            What libraries that are not loaded yet will take.
        """
        give_back()
        taken = resident_bytes() + to_come
        return cls(max_bytes if max_bytes is not None else int((taken + default) / (1 - _MARGIN)), taken)

    @property
    def free(self) -> int:
        """Bytes that work may take; 0 where the process holds more than the total already."""
        return max(0, int(self.total * (1 - _MARGIN)) - self.taken)

    @property
    def tiles(self) -> int:
        """Bytes for decoded tiles."""
        return int(self.free * _SHARES["tiles"])

    @property
    def queue(self) -> int:
        """Bytes for work under way and for what waits to be used."""
        return int(self.free * _SHARES["queue"])

    @property
    def batches(self) -> int:
        """Bytes for batches and what a network makes of them."""
        return int(self.free * _SHARES["batches"])

    def require(self, n_bytes: int, what: str) -> None:
        """Raise InputError unless ``n_bytes`` are free; ``what`` says what they are for: "one block of patches"."""
        if n_bytes > self.free:
            enough = (self.taken + n_bytes) / (1 - _MARGIN)
            msg = (
                f"{format_bytes(self.total)} of memory is too little: {what} takes {format_bytes(n_bytes)}, in "
                f"addition to the {format_bytes(self.taken)} that the program itself holds."
            )
            raise InputError(msg, f"Raise `max_bytes` to at least {format_bytes(enough)}.")


def parse_bytes(text: str) -> int:
    """Return a number of bytes as people write it; K, M, G and T are powers of 1,024.

    Examples
    --------
    >>> parse_bytes("2G"), parse_bytes("1.5 GiB"), parse_bytes("512MB"), parse_bytes("4096")
    (2147483648, 1610612736, 536870912, 4096)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:I?B)?\s*", text.upper())
    if found is None or float(found[1]) == 0:
        msg = f"{text!r} is no amount of memory; write it as 2G, 512M or 1.5G."
        raise InputError(msg)
    return int(float(found[1]) * 1024 ** _UNITS[found[2]])


def format_bytes(n_bytes: float) -> str:
    """Return a number of bytes as people, and :func:`parse_bytes`, read it.

    Rounded up in the second place, so that what is said to be enough is enough.

    Examples
    --------
    >>> format_bytes(2 << 30), format_bytes(1_700_000_000), format_bytes(300)
    ('2G', '1.59G', '300')
    """
    for unit, power in reversed(_UNITS.items()):
        if n_bytes >= 1024**power and unit:
            return f"{-(-(n_bytes * 100) // 1024**power) / 100:.2f}".rstrip("0").rstrip(".") + unit
    return f"{n_bytes:.0f}"


def resident_bytes() -> int:
    """Return what this process holds in memory now, mapped files included."""
    return int(psutil.Process().memory_info().rss)


def give_back() -> None:
    """Return what was freed to the system, which the C library of Linux otherwise keeps: hundreds of megabytes.

    Elsewhere nothing happens.
    """
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def measured_peak(pid: int | None = None) -> int:
    """Return the most that this process, or on Linux another that still runs, has held so far: for tests."""
    status = Path(f"/proc/{'self' if pid is None else pid}/status")
    if status.exists() or pid is not None:
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024  # type: ignore[index]
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
