"""Work off the interface thread, of which only the newest counts."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from inspect import isgeneratorfunction
from typing import Any

from mxsplicer import InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Failure:
    error: Exception


def _caught(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return what hands on an error in place of a result: one that is raised napari shows in a window of its own."""

    def call(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except Exception as error:
            return _Failure(error)

    def go_through(*arguments: Any, **options: Any) -> Any:
        try:
            return (yield from function(*arguments, **options))
        except Exception as error:
            return _Failure(error)

    return go_through if isgeneratorfunction(function) else call


class Newest:
    """Runs one function after the other in a thread of napari's; what was begun before is dropped."""

    def __init__(self, failed: Callable[[str], None]) -> None:
        self._failed, self._worker, self._number = failed, None, 0

    def start(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        done: Callable[[Any], None],
        progress: Callable[[int, int], None] | None = None,
        **options: Any,
    ) -> Any:
        """Call a function, or run a generator through, and hand on what it returns if nothing newer was begun."""
        from napari.qt.threading import create_worker

        self.stop()
        number = self._number
        worker = create_worker(_caught(function), *arguments, _start_thread=False, **options)

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
        """Whether something is being computed that will be handed on."""
        return self._worker is not None

    def stop(self) -> None:
        """Hand on nothing of what runs; a generator ends at its next step."""
        self._number += 1
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.quit()
