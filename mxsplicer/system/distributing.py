"""Work on a dask cluster: a function and its images are sent there once, and its results come back in order.

What is sent are the names of files rather than their pixels, so every machine of the cluster has to see the slides
under the same paths.
"""

import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from typing import Any, TypeVar

import numpy as np

from mxsplicer.errors import InputError

T = TypeVar("T")
R = TypeVar("R")

_TIMEOUT = 20  # seconds for a scheduler to answer


def is_cluster(executor: str) -> bool:
    """Return whether workers are named by the address of a dask scheduler, ``"tcp://..."``."""
    return "://" in executor


@contextmanager
def connected(address: str, doing: str) -> Iterator[tuple[Any, int]]:
    """Be the client of a dask cluster, of which the threads are told too.

    Parameters
    ----------
    address
        Of the scheduler.
    doing
        What is done there, for people.

    Raises
    ------
    InputError
        If no scheduler answers, it has no workers, or they end again and again.
    """
    try:
        from distributed import Client, KilledWorker
    except ImportError as error:
        msg = "--dask needs dask.distributed: pip install 'mxsplicer[dask]'."
        raise InputError(msg) from error
    try:
        client = Client(address, set_as_default=False, timeout=_TIMEOUT)
    except (OSError, ValueError) as error:
        msg = f"no dask scheduler answers at {address} ({error}). Start one with `dask scheduler`."
        raise InputError(msg) from error
    with client:
        n_threads = sum(client.nthreads().values())
        if not n_threads:
            msg = f"the dask scheduler at {address} has no workers. Start some with `dask worker {address}`."
            raise InputError(msg)
        try:
            yield client, n_threads
        except KilledWorker as error:
            msg = (
                f"workers of the dask cluster at {address} ended again and again while {doing} ({error}). Where memory "
                "ran out, give them more, or fewer threads. What is written stays: the same command goes on."
            )
            raise InputError(msg) from error


def in_order_there(function: Callable[[T], R], items: Iterable[T], address: str, doing: str) -> Iterator[R]:
    """Yield ``function(item)`` of each item, in order, worked out by a dask cluster that is never far ahead.

    Where a worker dies, another one does its items. The function must be picklable, and so must what it returns.
    """
    with connected(address, doing) as (client, n_threads):
        # A task of its own, and not data that is handed out: where a worker dies with it, it is made again.
        sent = client.submit(_same, pickled(function), pure=False)
        ahead: deque[Any] = deque()
        for item in items:
            if len(ahead) == n_threads + 1:
                yield ahead.popleft().result()
            ahead.append(client.submit(_call, sent, item, pure=False))
        while ahead:
            yield ahead.popleft().result()


def pickled(value: Any) -> bytes:
    """Return a value as bytes, in which images are named by their files where they can be."""
    file = BytesIO()
    _Pickler(file, protocol=5).dump(value)
    return file.getvalue()


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        # NumPy would send all pixels of a mapped file.
        if type(value) is np.memmap and value.filename is not None and not isinstance(value.base, np.ndarray):
            order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
            return np.memmap, (str(value.filename), value.dtype, "r", value.offset, value.shape, order)
        return NotImplemented


def _same(data: bytes) -> bytes:
    return data


def _call(data: bytes, item: Any) -> Any:
    return _loaded(data)(item)


@lru_cache(maxsize=1)
def _loaded(data: bytes) -> Callable[[Any], Any]:
    function: Callable[[Any], Any] = pickle.loads(data)  # from the client
    return function
