"""Workers: a function over many items on threads, on worker processes or on a dask cluster.

The pool of the standard library ends when one of its processes dies. Here another process takes over the unfinished
items, and only repeated deaths at the same item are an error.
"""

import logging
import multiprocessing
import os
import pickle
import signal
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol, TypeVar

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from mxsplicer.errors import InputError
from mxsplicer.system.dask_cluster import is_cluster, map_on_cluster, to_bytes

logger = logging.getLogger(__name__)
R_co = TypeVar("R_co", covariant=True)
R = TypeVar("R")

_SECONDS_TO_END = 10
_MAX_DEATHS = 3  # of workers at the same item

T = TypeVar("T")
_MAX_WORKERS = 4
_MAX_THREADS = 4


class WorkerJob(Protocol[R_co]):
    """Some items that one worker process computes one after the other; picklable, as the results must be."""

    def results(self) -> Iterator[tuple[int, R_co]]:
        """Yield the number of each item and its result."""
        ...


def map_in_processes(
    make_job: Callable[[Sequence[int]], WorkerJob[R]],
    stretches: Sequence[Sequence[int]],
    n_workers: int,
    *,
    max_ahead: int | None = None,
) -> Iterator[tuple[int, R]]:
    """Yield number and result of each item as it is finished by a worker process; a death costs only its items.

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

    def give(self, numbers: list[int], job: WorkerJob[Any]) -> None:
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
    make_job: Callable[[Sequence[int]], WorkerJob[R]],
    n_workers: int,
    max_ahead: int | None,
) -> None:
    """Give stretches to idle worker processes, and start workers as long as there are fewer than wanted."""
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
    """Compute the jobs that arrive through the connection until it closes: what a worker process runs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    try:
        while True:
            job: WorkerJob[Any] = pickle.loads(connection.recv_bytes())  # from our parent
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


def default_workers() -> int:
    """Return the number of workers to use by default: the number of processors, at most 4."""
    return min(_MAX_WORKERS, os.cpu_count() or 1)


def map_in_order(
    function: Callable[[T], R],
    items: Iterable[T],
    n_workers: int,
    *,
    n_ahead: int | None = None,
    executor: str = "threads",
    activity: str = "",
) -> Iterator[R]:
    """Yield ``function(item)`` of each item, in order, computed by worker threads.

    Parameters
    ----------
    n_workers
        Number of threads.
    n_ahead
        How many items may be started or finished before their result is asked for; ``n_workers - 1`` by default. With
        0, each item is computed in the calling thread when it is asked for.
    executor
        The address of a dask scheduler computes the items on its cluster instead; see
        :func:`~mxsplicer.system.dask_cluster.map_on_cluster`.
    activity
        What is computed, for error messages of the cluster: ``"cutting patches"``.

    Examples
    --------
    >>> list(map_in_order(abs, [-1, 2, -3], 2))
    [1, 2, 3]
    """
    if is_cluster(executor):
        yield from map_on_cluster(function, items, executor, activity)
        return
    n_ahead = n_workers - 1 if n_ahead is None else n_ahead
    if n_ahead == 0:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(n_workers, thread_name_prefix="mxsplicer")
    ahead: deque[Future[R]] = deque()
    try:
        for item in items:
            ahead.append(pool.submit(function, item))
            if len(ahead) > n_ahead:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def in_parallel(function: Callable[[Any], T], items: Iterable[Any]) -> list[T]:
    """Return the results of a function for each item, computed on worker threads with one thread of BLAS each."""
    # One thread of BLAS each: matrices this small run 3 to 20 times slower on several threads of a busy machine.
    n_threads = min(_MAX_THREADS, os.cpu_count() or 1)
    with warnings.catch_warnings(), threadpool_limits(1), ThreadPoolExecutor(n_threads) as pool:
        # A weakly regularised fit may stop early; the validation fold then does not choose it.
        warnings.simplefilter("ignore")
        return list(pool.map(function, items))
