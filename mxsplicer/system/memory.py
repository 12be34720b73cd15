"""Memory: how much a call may use, how much it uses already, and how the rest is allocated.

A limit on memory (``max_bytes``) is about resident memory as the system counts it: the interpreter,
the libraries, the table of cells and mapped files all count. A :class:`Budget` is therefore made when work begins; it
measures the memory in use and allocates only the rest.
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
_MARGIN = 0.1  # of the total, for memory that the allocator keeps after it was freed, and for allocations of libraries
_SHARES = {"tiles": 0.35, "queue": 0.45, "batches": 0.2}


@dataclass(frozen=True)
class Budget:
    """The memory that a call may use, and how much of it is free for its work.

    ``tiles``, ``queue`` and ``batches`` are shares of ``free`` for stages that run at the same time: decoded tiles,
    blocks and labels that are in progress or waiting, and the batches and activations of a network. A stage that runs
    alone may use all of ``free``.

    Examples
    --------
    >>> Budget(total=2 << 30, taken=600 << 20).free >> 20
    1243
    """

    total: int  # bytes, including the program itself
    taken: int = 0  # bytes that the process uses when the work begins

    @classmethod
    def of(cls, max_bytes: int | None, *, default: int = 4 << 30, to_come: int = 0) -> "Budget":
        """Return the budget of a call that starts now.

        Parameters
        ----------
        max_bytes
            Limit for the whole process. None for ``default`` in addition to the memory in use now.
        to_come
            Bytes that libraries will take that are not loaded yet.
        """
        give_back()
        taken = resident_bytes() + to_come
        return cls(max_bytes if max_bytes is not None else int((taken + default) / (1 - _MARGIN)), taken)

    @property
    def free(self) -> int:
        """Bytes that work may use; 0 if the process uses more than the total already."""
        return max(0, int(self.total * (1 - _MARGIN)) - self.taken)

    @property
    def tiles(self) -> int:
        """Bytes for decoded tiles."""
        return int(self.free * _SHARES["tiles"])

    @property
    def queue(self) -> int:
        """Bytes for work in progress and results that wait."""
        return int(self.free * _SHARES["queue"])

    @property
    def batches(self) -> int:
        """Bytes for batches and the activations of a network."""
        return int(self.free * _SHARES["batches"])

    def require(self, n_bytes: int, what: str) -> None:
        """Raise InputError unless ``n_bytes`` are free; ``what`` names their purpose: ``"one block of patches"``."""
        if n_bytes > self.free:
            enough = (self.taken + n_bytes) / (1 - _MARGIN)
            msg = (
                f"{format_bytes(self.total)} of memory is too little: {what} takes {format_bytes(n_bytes)}, in "
                f"addition to the {format_bytes(self.taken)} that the program itself uses."
            )
            raise InputError(msg, f"Raise `max_bytes` to at least {format_bytes(enough)}.")


def parse_bytes(text: str) -> int:
    """Parse an amount of memory such as ``2G``; K, M, G and T are powers of 1,024.

    Examples
    --------
    >>> parse_bytes("2G"), parse_bytes("1.5 GiB"), parse_bytes("512MB"), parse_bytes("4096")
    (2147483648, 1610612736, 536870912, 4096)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:I?B)?\s*", text.upper())
    if found is None or float(found[1]) == 0:
        msg = f"{text!r} is not an amount of memory."
        raise InputError(msg, "Write it as 2G, 512M or 1.5G.")
    return int(float(found[1]) * 1024 ** _UNITS[found[2]])


def format_bytes(n_bytes: float) -> str:
    """Return a number of bytes as text that people and :func:`parse_bytes` can read.

    It is rounded up to two decimals, so that a reported requirement is never too small.

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
    """Return the resident memory of this process, including mapped files."""
    return int(psutil.Process().memory_info().rss)


def give_back() -> None:
    """Return freed memory to the system. The C library of Linux otherwise keeps hundreds of megabytes.

    On other systems nothing happens.
    """
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def measured_peak(pid: int | None = None) -> int:
    """Return the peak of resident memory of this process, or on Linux of another running one; for tests."""
    status = Path(f"/proc/{'self' if pid is None else pid}/status")
    if status.exists() or pid is not None:
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text("utf-8"))[1]) * 1024  # type: ignore[index]
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
