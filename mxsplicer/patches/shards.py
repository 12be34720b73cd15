"""Shards: the files of a patch store, one per block, read and written faster than zarr does, in zarr's layout."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c  # zarr's own
import numpy as np
from numcodecs import Blosc  # type: ignore[import-untyped]
from zarr.codecs import BloscCodec

from mxsplicer.errors import InputError
from mxsplicer.system.files import atomic_write

_CHUNK_BYTES = 1 << 20  # read for a single cell; smaller chunks cost zarr more time than they save
_BLOSC = Blosc(cname="lz4", clevel=5, shuffle=Blosc.BITSHUFFLE)  # 16-bit images: 0.58 of their size at 1.2 GB/s
_CODEC = {"cname": "lz4", "clevel": 5, "shuffle": "bitshuffle"}  # the same, in zarr's words
_ABSENT = 2**64 - 1  # offset and length of a chunk that a shard lacks


class ShardReader:
    """Read rows of a sharded array, in half the time that zarr takes for a block and a tenth for single rows.

    A shard holds its compressed chunks, an index (offset and length of each chunk, uint64) and a checksum of the index.
    """

    def __init__(self, array: Any, folder: Path) -> None:
        self._shape, self._dtype, self._n_chunk = array.shape, array.dtype, int(array.chunks[0])
        self._chunks_of_shard = array.shards[0] // self._n_chunk
        self._folder = folder / "c"
        self._indices: dict[int, np.ndarray] = {}

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return rows in the order given."""
        out = np.empty((len(rows), *self._shape[1:]), self._dtype)
        chunks, within = np.divmod(rows, self._n_chunk)
        order = np.argsort(chunks, kind="stable")
        for places in np.split(order, np.flatnonzero(np.diff(chunks[order])) + 1):
            if len(places):
                out[places] = self._read_chunk(int(chunks[places[0]]))[within[places]]
        return out

    def _read_chunk(self, number: int) -> np.ndarray:
        shard, number = divmod(number, self._chunks_of_shard)
        path = self._folder.joinpath(str(shard), *"0" * (len(self._shape) - 1))
        if shard not in self._indices:
            n_bytes = 16 * self._chunks_of_shard
            offset = path.stat().st_size - n_bytes - 4
            self._indices[shard] = np.fromfile(path, "<u8", 2 * self._chunks_of_shard, offset=offset).reshape(-1, 2)
        offset, length = self._indices[shard][number].tolist()
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            pixels = _BLOSC.decode(file.read(length))
        return np.frombuffer(pixels, self._dtype.newbyteorder("<")).reshape(self._n_chunk, *self._shape[1:])


@dataclass(frozen=True)
class ShardWriter:
    """Write blocks into an unfinished store, from any thread or process, chunk by chunk.

    The layout is that of zarr's sharding codec with the index at the end. zarr itself holds two copies of a shard.
    """

    folder: Path  # the unfinished store
    chunk_cells: int
    block_size: int
    raw_bytes: int  # of the whole store before compression

    @classmethod
    def of(cls, folder: Path, patch_bytes: int, block_size: int, raw_bytes: int) -> "ShardWriter":
        """Return the writer of patches of ``patch_bytes``."""
        return cls(folder, _chunk_cells(patch_bytes, block_size), block_size, raw_bytes)

    def has(self, number: int) -> bool:
        """Return whether a block is on disk."""
        return all(path.is_file() for path in self._paths(number))

    def write(self, number: int, patches: np.ndarray, regions: np.ndarray) -> None:
        """Write patches (n, C, P, P) and regions (n, P, P) of a block; each file is complete or absent."""
        with explain_full_disk(self.folder.with_suffix(""), self.raw_bytes):
            (self.folder / "zarr.json").stat()  # a worker that outlives its run must not create the folder again
            for path, array in zip(self._paths(number), (patches, regions), strict=True):
                with atomic_write(path, shared=True) as temporary, temporary.open("wb") as file:
                    for piece in self._encode(array):
                        file.write(piece)

    def size_of(self, patches: np.ndarray, regions: np.ndarray) -> int:
        """Return the number of bytes that :meth:`write` would write."""
        return sum(len(piece) for array in (patches, regions) for piece in self._encode(array))

    def _encode(self, array: np.ndarray) -> Iterator[bytes]:
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        index = np.full((self.block_size // self.chunk_cells, 2), _ABSENT, "<u8")  # offset, length
        offset = 0
        for number, first in enumerate(range(0, len(array), self.chunk_cells)):
            cells = array[first : first + self.chunk_cells]
            if len(cells) < self.chunk_cells:  # the last chunk of the store: all have the same size
                empty = np.zeros((self.chunk_cells - len(cells), *cells.shape[1:]), array.dtype)
                cells = np.concatenate([cells, empty])
            piece = _BLOSC.encode(np.ascontiguousarray(cells))
            yield piece
            index[number] = offset, len(piece)
            offset += len(piece)
        yield index.tobytes()
        yield google_crc32c.value(index.tobytes()).to_bytes(4, "little")

    def _paths(self, number: int) -> tuple[Path, Path]:
        chunks = self.folder / "patches" / "c" / str(number), self.folder / "regions" / "c" / str(number)
        return chunks[0] / "0" / "0" / "0", chunks[1] / "0" / "0"


def _chunk_cells(patch_bytes: int, block_size: int) -> int:
    return min(block_size, 1 << (max(1, _CHUNK_BYTES // patch_bytes).bit_length() - 1))  # both are powers of two


def create_arrays(group: Any, shape: tuple[int, ...], dtype: np.dtype[Any], block_size: int) -> None:
    """Create the empty sharded arrays ``patches``, of this shape (N, C, P, P), and ``regions`` in a zarr group."""
    n_chunk = _chunk_cells(int(np.prod(shape[1:])) * dtype.itemsize, block_size)
    for name, patch, kind in [("patches", shape[1:], dtype), ("regions", shape[2:], np.dtype(np.uint8))]:
        group.create_array(
            name,
            shape=(shape[0], *patch),
            dtype=kind,
            chunks=(n_chunk, *patch),
            shards=(block_size, *patch),
            fill_value=0,
            compressors=BloscCodec(**_CODEC),
        )


@contextmanager
def explain_full_disk(path: Path, raw_bytes: int) -> Iterator[None]:
    """Raise InputError if the disk is full while a shard is written, with the size that the store may need."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        msg = f"the disk of {path} is full; the store needs up to {raw_bytes / 1e9:.3g} GB in total."
        remedy = "Free some space and run the same command again: it continues where it stopped."
        raise InputError(msg, remedy) from error
