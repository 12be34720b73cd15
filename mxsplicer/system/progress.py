"""Progress of long work, with the time left.

Library code wraps its loops in :func:`track`. Nothing is displayed until a program calls :func:`shown`: then there is a
bar on a terminal, or a line of text every 20 seconds if the output goes to a file (a SLURM log).
"""

import logging
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)
T = TypeVar("T")

_SECONDS_BETWEEN_LINES = 20.0
_display: ContextVar[Progress | None] = ContextVar("mxsplicer_progress", default=None)


def track(items: Iterable[T], description: str, *, total: int | None = None, start: int = 0) -> Iterator[T]:
    """Yield ``items`` and display the progress if a display is on.

    Parameters
    ----------
    items
        Items to iterate over.
    description
        Name of the work, for people: ``"Cutting patches"``.
    total
        Total number of items; ``len(items)`` by default, if ``items`` has a length.
    start
        Number of items that an interrupted run has done before.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    display = _display.get()
    if display is None:
        yield from items
    elif display.console.is_terminal:
        task = display.add_task(description, total=total, completed=start)
        for item in items:
            yield item
            display.advance(task)
    else:
        yield from _as_lines(items, description, total, start)


def _as_lines(items: Iterable[T], description: str, total: int | None, start: int) -> Iterator[T]:
    began = logged = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - logged >= _SECONDS_BETWEEN_LINES:
            logged = now
            left = f", {(now - began) / done * (total - start - done):.0f} s left" if total else ""
            logger.info("%s: %d%s%s", description, start + done, f"/{total}" if total else "", left)


@contextmanager
def shown(console: Console | None = None) -> Iterator[None]:
    """Display the progress of every :func:`track` in the ``with`` block."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = console or Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as display:
        token = _display.set(display)
        try:
            yield
        finally:
            _display.reset(token)
