"""A pool of worker processes in which the death of one costs only the items it had not finished.

The pool of the standard library ends when one of its processes dies. Here another process takes over the unfinished
items, and only repeated deaths at the same item are an error.
"""

import logging
import multiprocessing
import pickle
import signal
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol, TypeVar

from mxsplicer.errors import InputError
from mxsplicer.system.dask_cluster import to_bytes

logger = logging.getLogger(__name__)
R_co = TypeVar("R_co", covariant=True)
R = TypeVar("R")

_SECONDS_TO_END = 10
_MAX_DEATHS = 3  # of workers at the same item


class Job(Protocol[R_co]):
    """Some items that one worker computes one after the other; it must be picklable, and so must the results."""

    def results(self) -> Iterator[tuple[int, R_co]]:
        """Yield the number of each item and its result."""
        ...


def map_in_processes(
    make_job: Callable[[Sequence[int]], Job[R]],
    stretches: Sequence[Sequence[int]],
    n_workers: int,
    *,
    max_ahead: int | None = None,
) -> Iterator[tuple[int, R]]:
    """Yield number and result of each item as it is finished.

    Parameters
    ----------
    make_job
        Returns the job of some items, by their numbers.
    stretches
        Numbers of items; those of one stretch are computed by one worker.
    n_workers
        Number of processes.
    max_ahead
        If given, no item is started that is more than this number ahead of the first unfinished one.

    Raises
    ------
    InputError
        If workers die repeatedly at the same item.
    """
    waiting, workers = deque(map(list, stretches)), list[_Worker]()
    deaths: Counter[int] = Counter()
    try:
        while waiting or any(worker.unfinished for worker in workers):
            _assign(waiting, workers, make_job, n_workers, max_ahead)
            for ready in wait([worker.connection for worker in workers if worker.unfinished]):
                worker = next(one for one in workers if one.connection is ready)
                try:
                    answer = worker.connection.recv()
                except (EOFError, OSError, pickle.UnpicklingError):
                    worker.process.join()
                    workers.remove(worker)
                    _count_death(deaths, worker)
                    waiting.appendleft(worker.unfinished)
                    continue
                if isinstance(answer, BaseException):
                    raise answer
                worker.unfinished.remove(answer[0])
                yield answer
    finally:
        for worker in workers:
            worker.end()


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    unfinished: list[int]  # numbers of the items that it has still to compute

    @classmethod
    def start(cls) -> "_Worker":
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs,), name="mxsplicer worker", daemon=True)
        process.start()
        theirs.close()
        return cls(process, ours, [])

    def give(self, numbers: list[int], job: Job[Any]) -> None:
        self.unfinished = numbers
        try:
            self.connection.send_bytes(to_bytes(job))
        except OSError:  # it is dead; the caller notices when it waits for the answers
            logger.debug("worker %s does not listen.", self.process.pid)

    def end(self) -> None:
        self.connection.close()  # an idle worker ends by itself
        if not self.unfinished:
            self.process.join(_SECONDS_TO_END)
        self.process.terminate()
        self.process.join()


def _assign(
    waiting: deque[list[int]],
    workers: list[_Worker],
    make_job: Callable[[Sequence[int]], Job[R]],
    n_workers: int,
    max_ahead: int | None,
) -> None:
    """Give stretches to idle workers, and start workers as long as there are fewer than wanted."""
    first = min((worker.unfinished[0] for worker in workers if worker.unfinished), default=None)
    while waiting and (max_ahead is None or first is None or waiting[0][0] <= first + max_ahead):
        idle = next((worker for worker in workers if not worker.unfinished), None)
        if idle is None:
            if len(workers) == n_workers:
                break
            workers.append(idle := _Worker.start())
        numbers = waiting.popleft()
        first = numbers[0] if first is None else min(first, numbers[0])
        idle.give(numbers, make_job(numbers))


def _serve(connection: Connection) -> None:
    """Compute the jobs that arrive through the connection until it closes: a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    try:
        while True:
            job: Job[Any] = pickle.loads(connection.recv_bytes())  # from our parent
            for answer in job.results():
                connection.send(answer)
    except (EOFError, BrokenPipeError, ConnectionResetError):  # the parent is gone
        return
    except Exception as error:
        with suppress(OSError):  # the parent is gone
            connection.send(error if _is_picklable(error) else RuntimeError(f"{type(error).__name__}: {error}"))


def _count_death(deaths: Counter[int], worker: _Worker) -> None:
    number, code = worker.unfinished[0], worker.process.exitcode
    deaths[number] += 1
    how = f"by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"
    if deaths[number] >= _MAX_DEATHS:
        msg = f"{_MAX_DEATHS} worker processes ended at block {number}, the last one {how}."
        remedy = (
            "If memory ran out, lower `workers` or `max_bytes`; a script must start its work under "
            "`if __name__ == '__main__':`. What is written is kept: the same command continues from there."
        )
        raise InputError(msg, remedy)
    logger.warning("a worker process ended %s at block %d; another one takes over its work.", how, number)


def _is_picklable(error: Exception) -> bool:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return False
    return True
