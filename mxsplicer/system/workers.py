"""Worker pools: a function over many items on threads or a dask cluster, with results in order and little ahead."""

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from mxsplicer.system.dask_cluster import is_cluster, map_on_cluster

T = TypeVar("T")
R = TypeVar("R")

_MAX_WORKERS = 4

_MAX_THREADS = 4


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
