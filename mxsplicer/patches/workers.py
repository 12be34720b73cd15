"""Workers: who cuts the blocks. Threads of this process, processes of this machine, or a dask cluster.

All of them make the same blocks. What one worker takes at a time is a *stretch*, a run of blocks along the curve: it
reads its tiles once and keeps what its blocks share. Threads share one reader, so for them all blocks are one stretch.
"""

import logging
import multiprocessing
import os
import pickle
import signal
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol, TypeVar

import numpy as np

from mxsplicer.errors import InputError
from mxsplicer.patches.cutting import Cutter
from mxsplicer.system.distributing import connected, is_cluster, pickled
from mxsplicer.system.memory import Budget, format_bytes

logger = logging.getLogger(__name__)
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_MAX_WORKERS = 4
_MAX_CACHE = 512 << 20  # of tiles and strips; the strips along the curve of a whole slide are less
_OF_BLOCK = 1.15  # what cutting and writing a block takes, in blocks
_OF_PROCESS = 200 << 20  # what a worker process holds before it cuts: Python, NumPy, zarr, pandas are 122 MiB
_STRETCH = 256  # blocks; at most, so that the last worker does not keep the others waiting for long
_PATIENCE = 10  # seconds for a worker process to end
_MOST_DEATHS = 3  # of workers at the same block


class Use(Protocol[T_co]):
    """What becomes of a block, in the worker that cut it; other processes get copies of it."""

    def __call__(self, number: int, patches: np.ndarray, regions: np.ndarray, /) -> T_co:
        """Use a block."""
        ...

    def is_done(self, number: int, /) -> bool:
        """Return whether a block was used already, by a worker that died later."""
        ...


@dataclass(frozen=True)
class Crew:
    """How many workers cut at a time and what each reader may hold, so that all of them stay inside a budget."""

    kind: str  # "threads", "processes" or the address of a dask scheduler
    n_workers: int
    cache_bytes: int  # of the one reader of threads, of each process, of each dask task
    n_ahead: int  # blocks that may wait for whoever asks for them
    peak_bytes: int  # what this process and the workers it starts take, beside what is held now


def choose_crew(
    cutter: Cutter, budget: Budget, *, workers: int | None = None, kind: str = "threads", streams: bool = False
) -> Crew:
    """Return as many workers as are wanted and fit into the budget.

    Parameters
    ----------
    workers
        Wanted; as many as there are processors, at most 4, where None.
    kind
        What they are.
    streams
        Whether blocks are handed out rather than written by the workers.

    Raises
    ------
    InputError
        If not even one worker fits, or there is no such kind.
    """
    is_dask = is_cluster(kind)
    if kind not in ("threads", "processes") and not is_dask:
        msg = f"there are no workers called {kind!r}: choose threads, processes, or the address of a dask scheduler."
        raise InputError(msg)
    n_workers = workers or min(_MAX_WORKERS, os.cpu_count() or 1)
    each = int(cutter.block_bytes * _OF_BLOCK) + 2 * cutter.tile_bytes + (0 if kind == "threads" else _OF_PROCESS)
    outside = 0  # of what workers hold
    if is_dask:  # elsewhere: the limit is that of each task
        budget = Budget(budget.total)
    elif streams:  # to whoever asked for a block, beside what is made of it: that block, and the next
        budget = Budget(budget.total, budget.taken + budget.batches)
        outside = 2 * cutter.block_bytes
    budget.require(each + outside, f"a block of {min(cutter.block_size, len(cutter.tops)):,} patches with its tiles")
    n_here = 1 if is_dask else min(n_workers, (budget.free - outside) // each)
    if n_here < n_workers and not is_dask:
        logger.info("%d of %d workers fit into %s of memory.", n_here, n_workers, format_bytes(budget.total))
        n_workers = n_here
    spare = budget.free - outside - n_here * each
    # What is done early waits, a block per worker. Without room for that, blocks are cut only when they are asked for.
    n_ahead = min(n_workers, spare // cutter.block_bytes) if streams else n_workers
    spare -= n_ahead * cutter.block_bytes if streams else 0
    n_readers = n_here if kind == "processes" else 1
    cache = min(_MAX_CACHE, spare // n_readers)
    peak = 0 if is_dask else budget.free - spare + cache * n_readers
    return Crew(kind, n_workers, cache, n_ahead, peak)


def cut_blocks(cutter: Cutter, blocks: Sequence[int], use: Use[T], crew: Crew, *, in_order: bool) -> Iterator[T]:
    """Yield ``use(number, patches, regions)`` of each of ``blocks``; both the cutting and ``use`` run in the workers.

    Parameters
    ----------
    use
        For processes and dask it must be picklable, and so must what it returns.
    in_order
        Whether results are wanted in the order of the blocks. Processes then share no tiles between blocks.
    """
    if crew.kind == "threads":
        yield from _by_threads(cutter, blocks, use, crew)
        return
    size = 1 if in_order else max(1, min(_STRETCH, -(-len(blocks) // crew.n_workers)))
    stretches = [list(blocks[first : first + size]) for first in range(0, len(blocks), size)]
    if crew.kind != "processes":
        yield from _by_dask(cutter, stretches, use, crew, in_order=in_order)
        return
    results = _by_processes(cutter, stretches, use, crew, max_ahead=crew.n_workers if in_order else None)
    if not in_order:
        yield from (result for _, result in results)
        return
    early: dict[int, T] = {}
    wanted = iter(blocks)
    number = next(wanted, None)
    for done, result in results:
        early[done] = result
        while number in early:
            yield early.pop(number)
            number = next(wanted, None)


def _by_threads(cutter: Cutter, blocks: Sequence[int], use: Use[T], crew: Crew) -> Iterator[T]:
    reader = cutter.reader(blocks, crew.cache_bytes)

    def work(number: int) -> T:
        return use(number, *cutter.cut(number, reader))

    if crew.n_ahead == 0:
        yield from map(work, blocks)
        return
    pool = ThreadPoolExecutor(crew.n_workers, thread_name_prefix="patches")
    ahead: deque[Future[T]] = deque()
    try:
        for block in blocks:
            ahead.append(pool.submit(work, block))
            if len(ahead) > crew.n_ahead:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
    logger.debug("%d tiles decoded %d times.", len(reader.tiles), reader.n_decoded)


# --- processes ---


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    stretch: list[int]  # what it has still to do

    def give(self, job: "_Job") -> None:
        self.stretch = list(job.blocks)
        try:
            self.connection.send_bytes(job.pickled())
        except OSError:  # it is dead; who waits for its answers will notice
            logger.debug("worker %s does not listen.", self.process.pid)

    def end(self) -> None:
        self.connection.close()  # an idle one ends of itself
        if not self.stretch:
            self.process.join(_PATIENCE)
        self.process.terminate()
        self.process.join()


def _by_processes(
    cutter: Cutter, stretches: list[list[int]], use: Use[T], crew: Crew, *, max_ahead: int | None
) -> Iterator[tuple[int, T]]:
    """Yield number and result of each block as it is done; none is begun ``max_ahead`` blocks before all others."""
    # Not a ProcessPoolExecutor: there the death of one worker is the end of all.
    waiting, workers = deque(stretches), list[_Worker]()
    deaths: Counter[int] = Counter()
    try:
        while waiting or any(worker.stretch for worker in workers):
            first = min((worker.stretch[0] for worker in workers if worker.stretch), default=None)
            while waiting and (max_ahead is None or first is None or waiting[0][0] <= first + max_ahead):
                idle = next((worker for worker in workers if not worker.stretch), None)
                if idle is None:
                    if len(workers) == crew.n_workers:
                        break
                    workers.append(idle := _started())
                first = waiting[0][0] if first is None else min(first, waiting[0][0])
                idle.give(_Job.of(cutter, waiting.popleft(), use, crew))
            for ready in wait([worker.connection for worker in workers if worker.stretch]):
                worker = next(one for one in workers if one.connection is ready)
                try:
                    answer = worker.connection.recv()
                except (EOFError, OSError, pickle.UnpicklingError):
                    worker.process.join()
                    workers.remove(worker)
                    _count_death(deaths, worker)
                    waiting.appendleft(worker.stretch)
                    continue
                if isinstance(answer, BaseException):
                    raise answer
                worker.stretch.remove(answer[0])
                yield answer
    finally:
        for worker in workers:
            worker.end()


def _started() -> _Worker:
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), name="mxsplicer patches", daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours, [])


def _serve(connection: Connection) -> None:
    """Do what comes through the connection until it closes: a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    try:
        while True:
            job = pickle.loads(connection.recv_bytes())  # from our parent
            for answer in job.results():
                connection.send(answer)
    except (EOFError, BrokenPipeError, ConnectionResetError):  # the parent is gone
        return
    except Exception as error:
        with suppress(OSError):  # the parent is gone
            connection.send(error if _is_picklable(error) else RuntimeError(f"{type(error).__name__}: {error}"))


def _count_death(deaths: Counter[int], worker: _Worker) -> None:
    number, code = worker.stretch[0], worker.process.exitcode
    deaths[number] += 1
    how = f"by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"
    if deaths[number] >= _MOST_DEATHS:
        msg = (
            f"{_MOST_DEATHS} worker processes ended at block {number}, the last {how}. Where memory ran out, lower "
            "--workers or --max-memory; a script must start its work under `if __name__ == '__main__':`. What is "
            "written stays: the same command goes on."
        )
        raise InputError(msg)
    logger.warning("a worker process ended %s at block %d; another one does its work.", how, number)


# --- dask ---


def _by_dask(cutter: Cutter, stretches: list[list[int]], use: Use[T], crew: Crew, *, in_order: bool) -> Iterator[T]:
    with connected(crew.kind, "cutting patches") as (client, n_threads):
        waiting, under_way = deque(stretches), deque[Any]()
        n_at_once = n_threads + 1 if in_order else len(stretches)
        while waiting or under_way:
            while waiting and len(under_way) < n_at_once:
                job = _Job.of(cutter, waiting.popleft(), use, crew)
                under_way.append(client.submit(_do, job.pickled(), pure=False))
            yield from under_way.popleft().result()


def _do(job: bytes) -> list[Any]:
    return [result for _, result in pickle.loads(job).results()]  # from the client


# --- what is sent ---


@dataclass(frozen=True)
class _Job:
    cutter: Cutter
    blocks: Sequence[int]
    use: Use[Any]
    cache_bytes: int

    @classmethod
    def of(cls, cutter: Cutter, blocks: Sequence[int], use: Use[Any], crew: Crew) -> "_Job":
        return cls(cutter.only(blocks[0], blocks[-1]), blocks, use, crew.cache_bytes)

    def pickled(self) -> bytes:
        """Return the job as bytes."""
        return pickled(self)

    def results(self) -> Iterator[tuple[int, Any]]:
        """Do the job, less what a worker that died has done of it."""
        left = [number for number in self.blocks if not self.use.is_done(number)]
        yield from ((number, None) for number in self.blocks if number not in left)
        for number, patches, regions in self.cutter.cut_all(left, self.cache_bytes):
            yield number, self.use(number, patches, regions)


def _is_picklable(error: Exception) -> bool:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return False
    return True
