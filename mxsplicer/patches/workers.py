"""Workers that cut the blocks: threads of this process, processes of this machine, or a dask cluster.

All of them make the same blocks. A worker takes a *stretch* at a time, a run of blocks along the curve: it reads its
tiles once and keeps what its blocks share. Threads share one reader, so for them all blocks are one stretch.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from mxsplicer.errors import InputError
from mxsplicer.patches.cutting import Cutter
from mxsplicer.system.dask_cluster import is_cluster, map_on_cluster
from mxsplicer.system.memory import Budget, format_bytes
from mxsplicer.system.processes import map_in_processes
from mxsplicer.system.workers import default_workers, map_in_order

logger = logging.getLogger(__name__)
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_MAX_CACHE = 512 << 20  # of tiles and strips; the strips along the curve of a whole slide are less
_OF_BLOCK = 1.15  # what cutting and writing a block takes, in blocks
_OF_PROCESS = 200 << 20  # what a worker process holds before it cuts: Python, NumPy, zarr, pandas are 122 MiB
_MAX_STRETCH = 256  # blocks; shorter than that, so that the last worker does not keep the others waiting for long


class BlockTask(Protocol[T_co]):
    """What a worker does with a block that it has cut; it is pickled for other processes."""

    def __call__(self, number: int, patches: np.ndarray, regions: np.ndarray, /) -> T_co:
        """Use a block, and return what the caller gets of it."""
        ...

    def is_done(self, number: int, /) -> bool:
        """Return whether a worker that died later has used a block already."""
        ...


@dataclass(frozen=True)
class WorkerPlan:
    """How many workers cut at a time and how much memory each may use, so that all of them stay within a budget."""

    executor: str  # "threads", "processes" or the address of a dask scheduler
    n_workers: int
    cache_bytes: int  # for the tiles of the one reader of threads, or of each process or dask task
    n_ahead: int  # blocks that may wait until the caller asks for them
    peak_bytes: int  # what this process and the workers it starts allocate


def plan_workers(
    cutter: Cutter, budget: Budget, *, workers: int | None = None, executor: str = "threads", streams: bool = False
) -> WorkerPlan:
    """Return as many workers as are wanted and fit into the budget.

    Parameters
    ----------
    workers
        Number wanted; None for the number of processors, at most 4.
    executor
        Kind of worker.
    streams
        Whether blocks are returned to the caller rather than written by the workers.

    Raises
    ------
    InputError
        If not even one worker fits, or the kind is unknown.
    """
    on_cluster = is_cluster(executor)
    if executor not in ("threads", "processes") and not on_cluster:
        msg = f"{executor!r} is not a kind of worker."
        raise InputError(msg, "Set `executor` to threads, processes, or the address of a dask scheduler.")
    n_workers = workers or default_workers()
    each = int(cutter.block_bytes * _OF_BLOCK) + 2 * cutter.tile_bytes + (0 if executor == "threads" else _OF_PROCESS)
    outside = 0  # bytes held outside the workers
    if on_cluster:  # on other machines: the limit is that of each task
        budget = Budget(budget.total)
    elif streams:  # the caller holds a block, the next one, and what it makes of them
        budget = Budget(budget.total, budget.taken + budget.batches)
        outside = 2 * cutter.block_bytes
    budget.require(each + outside, f"a block of {min(cutter.block_size, len(cutter.tops)):,} patches with its tiles")
    n_here = 1 if on_cluster else min(n_workers, (budget.free - outside) // each)
    if n_here < n_workers and not on_cluster:
        logger.info("%d of %d workers fit into %s of memory.", n_here, n_workers, format_bytes(budget.total))
        n_workers = n_here
    spare = budget.free - outside - n_here * each
    # Finished blocks wait, one per worker. Without memory for that, blocks are cut only when they are asked for.
    n_ahead = min(n_workers, spare // cutter.block_bytes) if streams else n_workers
    spare -= n_ahead * cutter.block_bytes if streams else 0
    n_readers = n_here if executor == "processes" else 1
    cache = min(_MAX_CACHE, spare // n_readers)
    peak = 0 if on_cluster else budget.free - spare + cache * n_readers
    return WorkerPlan(executor, n_workers, cache, n_ahead, peak)


def cut_blocks(
    cutter: Cutter, blocks: Sequence[int], task: BlockTask[T], plan: WorkerPlan, *, in_order: bool
) -> Iterator[T]:
    """Yield ``task(number, patches, regions)`` of each of ``blocks``; the workers cut the block and run the task.

    Parameters
    ----------
    task
        For processes and dask it must be picklable, and so must what it returns.
    in_order
        Whether results are wanted in the order of the blocks. Processes then share no tiles between blocks.
    """
    if plan.executor == "threads":
        yield from _cut_on_threads(cutter, blocks, task, plan)
        return
    size = 1 if in_order else max(1, min(_MAX_STRETCH, -(-len(blocks) // plan.n_workers)))
    stretches = [blocks[first : first + size] for first in range(0, len(blocks), size)]

    def make_job(stretch: Sequence[int]) -> _Job:
        return _Job(cutter.only(stretch[0], stretch[-1]), stretch, task, plan.cache_bytes)

    if plan.executor != "processes":
        jobs = map(make_job, stretches)
        for results in map_on_cluster(_results, jobs, plan.executor, "cutting patches", all_at_once=not in_order):
            yield from results
        return
    max_ahead = plan.n_workers if in_order else None
    results_by_number = map_in_processes(make_job, stretches, plan.n_workers, max_ahead=max_ahead)
    yield from _sorted(results_by_number, blocks) if in_order else (result for _, result in results_by_number)


def _cut_on_threads(cutter: Cutter, blocks: Sequence[int], task: BlockTask[T], plan: WorkerPlan) -> Iterator[T]:
    reader = cutter.reader(blocks, plan.cache_bytes)

    def work(number: int) -> T:
        return task(number, *cutter.cut(number, reader))

    yield from map_in_order(work, blocks, plan.n_workers, n_ahead=plan.n_ahead)
    logger.debug("%d tiles decoded %d times.", len(reader.tiles), reader.n_decoded)


def _sorted(results: Iterator[tuple[int, T]], numbers: Sequence[int]) -> Iterator[T]:
    """Yield results in the order of the numbers; those that are early wait."""
    early: dict[int, T] = {}
    wanted = iter(numbers)
    number = next(wanted, None)
    for done, result in results:
        early[done] = result
        while number in early:
            yield early.pop(number)
            number = next(wanted, None)


@dataclass(frozen=True)
class _Job:
    """A stretch of blocks and what cuts it, for a worker in another process."""

    cutter: Cutter
    blocks: Sequence[int]
    task: BlockTask[Any]
    cache_bytes: int

    def results(self) -> Iterator[tuple[int, Any]]:
        """Yield the number and result of each block; those that a worker finished before it died are not cut again."""
        left = [number for number in self.blocks if not self.task.is_done(number)]
        yield from ((number, None) for number in self.blocks if number not in left)
        for number, patches, regions in self.cutter.cut_all(left, self.cache_bytes):
            yield number, self.task(number, patches, regions)


def _results(job: _Job) -> list[Any]:
    return [result for _, result in job.results()]
