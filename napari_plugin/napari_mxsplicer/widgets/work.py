"""Run functions in threads of napari, keeping only the result of the latest."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from inspect import isgeneratorfunction
from typing import Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QWidget

from mxsplicer import InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Failure:
    error: Exception


def _catch_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return work whose errors are results: napari would show a raised error in a window."""

    def call(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except Exception as error:
            return _Failure(error)

    def run_generator(*arguments: Any, **options: Any) -> Any:
        try:
            return (yield from function(*arguments, **options))
        except Exception as error:
            return _Failure(error)

    return run_generator if isgeneratorfunction(function) else call


class LatestWorker:
    """Runs work in a thread; starting new work drops the one before."""

    def __init__(self, failed: Callable[[str], None]) -> None:
        self._failed, self._worker, self._number = failed, None, 0

    def start(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        done: Callable[[Any], None],
        progress: Callable[..., Any] | None = None,
        **options: Any,
    ) -> Any:
        """Run a function or a generator; ``done`` gets its result unless a newer one was started."""
        from napari.qt.threading import create_worker

        self.stop()
        number = self._number
        worker = create_worker(_catch_errors(function), *arguments, _start_thread=False, **options)

        def deliver(result: Any) -> None:
            if number != self._number:
                return
            self._worker = None
            if isinstance(result, _Failure):
                error = result.error
                logger.debug("a computation of the panel failed", exc_info=error)
                self._failed(str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}")
            else:
                done(result)

        worker.returned.connect(deliver)
        if progress is not None:
            worker.yielded.connect(lambda step: progress(*step) if number == self._number else None)
        self._worker = worker
        worker.start()
        return worker

    @property
    def is_busy(self) -> bool:
        """Whether a computation is running whose result will be used."""
        return self._worker is not None

    def stop(self) -> None:
        """Drop the result of the running function; a generator ends at its next step."""
        self._number += 1
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.quit()


class Debounced:
    """Work that is done once, some milliseconds after the last request for it."""

    def __init__(self, parent: QWidget, milliseconds: int, call: Callable[[], Any]) -> None:
        self._timer = QTimer(parent)
        self._timer.setSingleShot(True)
        self._timer.setInterval(milliseconds)
        self._timer.timeout.connect(call)

    def start(self) -> None:
        """Request a call; an earlier request is postponed."""
        self._timer.start()

    def stop(self) -> None:
        """Cancel the request."""
        self._timer.stop()
