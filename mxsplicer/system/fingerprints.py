"""Fingerprints: short digests of files, arrays and code, which change when the content changes.

Results store them to recognise their inputs. The values must not change between versions.
"""

import hashlib
import importlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mxsplicer.system.location import below, locate, read_small_file

_SAMPLE_BYTES = 1 << 20  # of a file, at its head, its tail and sixteen places between: enough to distinguish files
# Of an OME-Zarr, and of its first series and level where it is laid out so.
_REMOTE_DOCUMENTS = tuple(
    folder + name for folder in ("", "0/", "0/0/") for name in ("zarr.json", ".zattrs", ".zgroup", ".zarray")
)


def fingerprint(path: str | Path) -> str:
    """Return 16 hexadecimal digits that change with the content of a file, a folder or a URL.

    Of a file, its size and samples of its bytes are hashed; of a folder (a zarr store), the names and sizes of its
    files and the bytes of its metadata; of a URL, the URL and its metadata documents, since listing a bucket of a
    million chunks takes too long.
    """
    location = locate(path)
    digest = hashlib.blake2b(digest_size=8)
    if isinstance(location, str):
        digest.update(location.encode())
        for name in _REMOTE_DOCUMENTS:
            digest.update(read_small_file(below(location, name)) or b"-")
        return digest.hexdigest()
    if location.is_dir():
        for file in sorted(location.rglob("*")):
            if file.is_file():
                digest.update(f"{file.relative_to(location)} {file.stat().st_size}\n".encode())
                if file.suffix == ".json" or file.name in (".zattrs", ".zarray", ".zgroup"):
                    digest.update(file.read_bytes())
        return digest.hexdigest()
    size = location.stat().st_size
    digest.update(str(size).encode())
    with location.open("rb") as stream:
        for offset in sorted({int(i * max(0, size - _SAMPLE_BYTES) / 17) for i in range(18)}):
            stream.seek(offset)
            digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def fingerprint_arrays(arrays: Iterable[np.ndarray | bytes]) -> str:
    """Return 16 hexadecimal digits that change with the bytes of any of the arrays, or with their order.

    Examples
    --------
    >>> fingerprint_arrays([np.arange(3)]) == fingerprint_arrays([np.arange(3)])
    True
    >>> fingerprint_arrays([np.arange(3)]) == fingerprint_arrays([np.arange(4)])
    False
    """
    digest = hashlib.blake2b(digest_size=8)
    for array in arrays:
        digest.update(array if isinstance(array, bytes) else np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def fingerprint_code(name: str) -> str:
    """Return the SHA-256 of the file that defines an imported ``module:name``.

    Examples
    --------
    >>> len(fingerprint_code("json:dumps"))
    64
    """
    file = getattr(importlib.import_module(name.partition(":")[0]), "__file__", None)
    return hashlib.sha256(Path(file).read_bytes() if file else b"").hexdigest()
