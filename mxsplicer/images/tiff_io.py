"""Open and read the bytes of a TIFF file, from a disk or from a URL."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mxsplicer.errors import InputError
from mxsplicer.system.location import Location, file_system, unreachable


@contextmanager
def open_for_tifffile(location: Location) -> Iterator[Any]:
    """Yield what tifffile opens: a path, or the file object of a URL."""
    if isinstance(location, Path):
        yield location
        return
    system, path = file_system(location)
    try:
        file = system.open(path, "rb")
    except FileNotFoundError as error:
        msg = f"nothing found at {location}."
        raise InputError(msg, "Give the address of a TIFF file, or of the folder of an OME-Zarr image.") from error
    except Exception as error:  # each backend of fsspec has its own
        raise unreachable(location, error) from error
    with file:
        yield file


@contextmanager
def byte_reader(location: Location) -> Iterator[Callable[[int, int], bytes]]:
    """Yield a function that reads (offset, length); the file is closed afterwards."""
    if isinstance(location, Path):
        with location.open("rb") as file:
            yield lambda offset, length: os.pread(file.fileno(), length, offset)
    else:
        system, path = file_system(location)
        yield lambda offset, length: system.cat_file(path, start=offset, end=offset + length)
