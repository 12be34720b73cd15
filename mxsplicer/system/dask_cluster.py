"""Work on a dask cluster: a function and its items are sent there, and the results come back in order.

Images are sent as names of files rather than pixels, so every machine of the cluster has to see the slides under the
same paths.
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
    """Return whether ``executor`` is the address of a dask scheduler, ``"tcp://..."``."""
    return "://" in executor


def map_on_cluster(
    function: Callable[[T], R], items: Iterable[T], address: str, activity: str, *, all_at_once: bool = False
) -> Iterator[R]:
    """Yield ``function(item)`` of each item, in order, computed by a dask cluster.

    If a worker dies, another one computes its items.

    Parameters
    ----------
    function, items
        Function, items and results must be picklable.
    address
        Address of the scheduler.
    activity
        What is computed, for error messages: ``"cutting patches"``.
    all_at_once
        Submit all items at once. By default one item more than the cluster has threads is submitted ahead, so that
        results do not pile up.

    Raises
    ------
    InputError
        If no scheduler answers, it has no workers, or they die repeatedly.
    """
    with _connected(address, activity) as (client, n_threads):
        # A task rather than scattered data: if a worker dies with it, dask recomputes it.
        sent = client.submit(_identity, to_bytes(function), pure=False)
        ahead: deque[Any] = deque()
        for item in items:
            if len(ahead) == n_threads + 1 and not all_at_once:
                yield ahead.popleft().result()
            ahead.append(client.submit(_call, sent, to_bytes(item), pure=False))
        while ahead:
            yield ahead.popleft().result()


def to_bytes(value: Any) -> bytes:
    """Pickle a value to send it to a dask cluster; arrays mapped from files are pickled as names of the files."""
    file = BytesIO()
    _Pickler(file, protocol=5).dump(value)
    return file.getvalue()


@contextmanager
def _connected(address: str, activity: str) -> Iterator[tuple[Any, int]]:
    """Yield the client of a dask cluster and the number of its threads."""
    try:
        from distributed import Client, KilledWorker
    except ImportError as error:
        msg = "a dask cluster needs the package distributed, which is not installed."
        raise InputError(msg, "Run `pip install 'mxsplicer[dask]'`.") from error
    try:
        client = Client(address, set_as_default=False, timeout=_TIMEOUT)
    except (OSError, ValueError) as error:
        msg = f"no dask scheduler answers at {address} ({error})."
        raise InputError(msg, "Start one with `dask scheduler`.") from error
    with client:
        n_threads = sum(client.nthreads().values())
        if not n_threads:
            msg = f"the dask scheduler at {address} has no workers."
            raise InputError(msg, f"Start some with `dask worker {address}`.")
        try:
            yield client, n_threads
        except KilledWorker as error:
            msg = f"workers of the dask cluster at {address} died repeatedly while {activity} ({error})."
            remedy = (
                "If they ran out of memory, give them more, or fewer threads. What is written is kept: the same "
                "command continues from there."
            )
            raise InputError(msg, remedy) from error


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        # NumPy would send all pixels of a mapped file.
        if type(value) is np.memmap and value.filename is not None and not isinstance(value.base, np.ndarray):
            order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
            return np.memmap, (str(value.filename), value.dtype, "r", value.offset, value.shape, order)
        return NotImplemented


def _identity(data: bytes) -> bytes:
    return data


def _call(function: bytes, item: bytes) -> Any:
    return _loaded(function)(pickle.loads(item))  # both are from the client


@lru_cache(maxsize=1)
def _loaded(data: bytes) -> Callable[[Any], Any]:
    function: Callable[[Any], Any] = pickle.loads(data)
    return function
