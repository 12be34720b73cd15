"""PatchStore: patches, regions and cells of one slide on disk. Only this module knows the layout and its version.

A zarr v3 group: ``patches`` (N, C, P, P) and ``regions`` (N, P, P), one shard per block; ``cells/<column>`` (N,);
``intensities`` (N, C). A store is built under ``<path>.partial`` and renamed when it is complete. A shard is written to
a temporary file and renamed, so it is complete or absent, and the shards present are the blocks that are done.
"""

import errno
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c  # zarr's own
import numpy as np
import pandas as pd
import zarr
from numcodecs import Blosc  # type: ignore[import-untyped]
from zarr.codecs import BloscCodec
from zarr.storage import LocalStore

from mxsplicer.errors import InputError
from mxsplicer.system.files import atomic_write, check_free, partial_path, remove, remove_partial
from mxsplicer.system.files import replace as replace_path

BACKGROUND, THIS_CELL, OTHER_CELL = 0, 1, 2
NUCLEUS = 3  # of this cell, if a mask of nuclei was passed

_FORMAT = "mxsplicer patches"
_VERSION = 1
_CHUNK_BYTES = 1 << 20  # read for a single cell; smaller chunks cost zarr more time than they save
_BLOSC = Blosc(cname="lz4", clevel=5, shuffle=Blosc.BITSHUFFLE)  # 16-bit images: 0.58 of their size at 1.2 GB/s
_CODEC = {"cname": "lz4", "clevel": 5, "shuffle": "bitshuffle"}  # the same, in zarr's words
_ABSENT = 2**64 - 1  # offset and length of a chunk that a shard lacks


@dataclass(frozen=True, eq=False)
class Block:
    """A run of cells that lie close together on the slide, with their patches."""

    number: int
    rows: np.ndarray  # (n,) positions in the table of all cells in block order
    cells: pd.DataFrame
    intensities: np.ndarray  # (n, C) float32, mean of each marker inside the cell
    patches: np.ndarray  # (n, C, P, P) in the slide's dtype
    regions: np.ndarray  # (n, P, P) uint8: BACKGROUND, THIS_CELL, OTHER_CELL, NUCLEUS


class PatchStore:
    """The patches of a slide's cells on disk, in block order. Open one with :meth:`PatchStore.open`.

    Attributes
    ----------
    patches
        zarr array (N, C, P, P): intensities as they were read, in the slide's dtype.
    regions
        zarr array (N, P, P) uint8: 0 background, 1 this cell, 2 another cell, 3 the nucleus of this cell.
    made_from
        The inputs and settings that the store was made from.
    """

    def __init__(self, path: Path, group: Any) -> None:
        header = group.attrs[_FORMAT]
        self.path = path
        self.patches = group["patches"]
        self.regions = group["regions"]
        self.slide_name: str = header["slide_name"]
        self.markers: tuple[str, ...] = tuple(header["markers"])
        self.pixel_size_um: float = header["pixel_size_um"]
        self.patch_size_um: float = header["patch_size_um"]
        self.level: int = header["level"]
        self.ledger: dict[str, int] = header["ledger"]
        self.made_from: dict[str, Any] = header["made_from"]
        self._group = group
        self._patch_shards = _Shards(self.patches, path / "patches")
        self._region_shards = _Shards(self.regions, path / "regions")

    @classmethod
    def open(cls, path: str | Path) -> "PatchStore":
        """Open a store for reading.

        Examples
        --------
        >>> from mxsplicer.testing import tiny_store
        >>> store = PatchStore.open(tiny_store().path)
        >>> store.n_cells, store.markers, store.patch_px
        (2, ('DAPI', 'CD3e', 'CD20'), 32)
        """
        path = Path(path)
        if not path.exists():
            msg = f"patch store {path} not found."
            raise InputError(msg, "Make one with `mxsplicer extract`.")
        header, group = _header(path)
        if header is None:
            msg = f"{path} is not a patch store."
            raise InputError(msg, "Make one with `mxsplicer extract`.")
        if header["version"] > _VERSION:
            msg = f"{path} has version {header['version']} of the patch format; this mxsplicer reads up to {_VERSION}."
            raise InputError(msg, "Update mxsplicer, or extract the patches again.")
        if not header["complete"]:
            msg = f"{path} is unfinished."
            raise InputError(msg, "Run `mxsplicer extract` again with the same settings: it continues.")
        return cls(path, group)

    @property
    def knows_nuclei(self) -> bool:
        """Whether the store was cut with a mask of nuclei; without one, no pixel of ``regions`` is NUCLEUS."""
        return bool(self.made_from.get("nuclei"))

    @property
    def n_cells(self) -> int:
        """Number of cells, N."""
        return int(self.patches.shape[0])

    @property
    def patch_px(self) -> int:
        """Side of a patch in pixels, P."""
        return int(self.patches.shape[-1])

    @property
    def block_size(self) -> int:
        """Number of cells of a block; the last may have fewer."""
        return int(self.patches.shards[0])

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return -(-self.n_cells // self.block_size)

    @cached_property
    def cells(self) -> pd.DataFrame:
        """One row per cell, in block order; row i describes patch i."""
        return pd.DataFrame({name: self._group["cells"][name][:] for name in self._group["cells"].attrs["columns"]})

    @cached_property
    def intensities(self) -> np.ndarray:
        """Mean raw intensity of each marker inside each cell, (N, C) float32."""
        return np.asarray(self._group["intensities"][:])

    def read_block(self, number: int) -> Block:
        """Return a block: the rows of ``cells`` from ``number * block_size`` on."""
        if not 0 <= number < self.n_blocks:
            msg = f"{self.path} has blocks 0 to {self.n_blocks - 1}, but block {number} was asked for."
            raise InputError(msg)
        rows = np.arange(number * self.block_size, min((number + 1) * self.block_size, self.n_cells))
        patches, regions = self.read_rows(rows)
        return Block(number, rows, self.cells.iloc[rows], self.intensities[rows], patches, regions)

    def read_rows(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return patches (n, C, P, P) and regions (n, P, P) of any rows, in the order given; rows may repeat."""
        rows = np.asarray(rows)
        if len(rows) and not 0 <= rows.min() <= rows.max() < self.n_cells:
            msg = f"{self.path} has rows 0 to {self.n_cells - 1}, but {rows.min()} to {rows.max()} were asked for."
            raise InputError(msg)
        return self._patch_shards.read(rows), self._region_shards.read(rows)


class PatchStoreView(PatchStore):
    """A patch store whose patches are transformed as they are read; everything else is that of the store.

    Parameters
    ----------
    store
        The store that is read.
    transform
        Takes patches (n, C, P, P) of the store and returns the view's.
    dtype
        Data type of the view's patches.
    markers
        Markers of the view's patches; those of the store by default.
    """

    def __init__(
        self,
        store: PatchStore,
        transform: Callable[[np.ndarray], np.ndarray],
        *,
        dtype: Any,
        markers: Sequence[str] | None = None,
    ) -> None:
        self.store, self._transform = store, transform
        self.markers = store.markers if markers is None else tuple(markers)
        n_cells, _, *sides = store.patches.shape
        self.patches = _ArraySpec((n_cells, len(self.markers), *sides), np.dtype(dtype), store.patches.shards)

    def __getattr__(self, name: str) -> Any:
        if name == "store":  # before __init__, as while it is unpickled
            raise AttributeError(name)
        return getattr(self.store, name)

    @property
    def cells(self) -> pd.DataFrame:
        """One row per cell, in block order."""
        return self.store.cells

    @property
    def intensities(self) -> np.ndarray:
        """Mean raw intensity of each marker of the store inside each cell, (N, C) float32."""
        return self.store.intensities

    def read_block(self, number: int) -> Block:
        """Return a block with the view's patches."""
        block = self.store.read_block(number)
        return replace(block, patches=self._transform(block.patches))

    def read_rows(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the view's patches (n, C, P, P) and the regions (n, P, P) of any rows, in the order given."""
        patches, regions = self.store.read_rows(rows)
        return self._transform(patches), regions


class _ArraySpec(NamedTuple):
    """The attributes of an array that are asked for before it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    shards: Any


class _Shards:
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


class PatchWriter:
    """Build a store block by block, from any number of threads, and continue one that was interrupted.

    Parameters
    ----------
    path
        Final name of the store; until :meth:`finish`, everything is in ``<path>.partial``.
    header
        Attributes of the :class:`PatchStore`. An unfinished store is continued only if its ``made_from`` is the same.
    cells, intensities
        Table and mean intensities of all cells, in block order.
    overwrite
        Replace a finished store of this name, or an unfinished one that was made from something else.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        header: Mapping[str, Any],
        cells: pd.DataFrame,
        intensities: np.ndarray,
        patch_px: int,
        dtype: np.dtype[Any],
        block_size: int,
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path)
        self.partial = partial_path(self.path)
        self._shape: tuple[int, ...] = (len(cells), intensities.shape[1], patch_px, patch_px)
        self._dtype = dtype
        self._block_size = block_size
        self._header = {"version": _VERSION, "complete": False, **header}
        self._cells, self._intensities = cells, intensities
        self._check_path(overwrite=overwrite)
        self._continues = self._can_continue(overwrite=overwrite)

    def begin(self) -> list[int]:
        """Create or open the unfinished store, and return the numbers of the blocks that it has already."""
        if not self._continues:
            self._create()
        remove_partial(self.partial)  # shards whose writing was killed
        return self.written()

    def written(self) -> list[int]:
        """Return the numbers of the blocks that are on disk."""
        n_blocks = -(-self._shape[0] // self._block_size)
        return [number for number in range(n_blocks) if self.shards.has(number)]

    @property
    def shards(self) -> "ShardWriter":
        """The writer of blocks, which can be pickled for other processes."""
        patch_bytes = int(np.prod(self._shape[1:])) * int(self._dtype.itemsize)
        return ShardWriter.of(self.partial, patch_bytes, self._block_size, self.raw_bytes)

    @property
    def raw_bytes(self) -> int:
        """Size of all patches and regions before compression."""
        n, n_channels, height, width = self._shape
        return n * height * width * (n_channels * int(self._dtype.itemsize) + 1)

    def free_bytes(self) -> int:
        """Return the largest size the store may have: the free space of the disk plus what is written already."""
        folder = next(folder for folder in self.partial.absolute().parents if folder.is_dir())
        written = (
            sum(file.stat().st_size for file in self.partial.rglob("*") if file.is_file()) if self._continues else 0
        )
        return shutil.disk_usage(folder).free + written

    def estimate_bytes(self, patches: np.ndarray, regions: np.ndarray) -> int:
        """Estimate the size of the finished store from how well the patches of some cells compress."""
        return round(self.shards.size_of(patches, regions) * self._shape[0] / len(patches))

    def finish(self) -> PatchStore:
        """Rename the finished store and return it."""
        remove_partial(self.partial)  # shards whose writing was killed
        with _explain_full_disk(self.path, self.raw_bytes):
            group = zarr.open_group(LocalStore(self.partial), mode="r+", zarr_format=3)
            group.attrs[_FORMAT] = {**self._header, "complete": True}
        replace_path(self.partial, self.path)
        return PatchStore.open(self.path)

    def _check_path(self, *, overwrite: bool) -> None:
        check_free(self.path, overwrite=overwrite)
        if self.path.exists() and _header(self.path)[0] is None:
            msg = f"{self.path} exists and is not a patch store, so it is not replaced. Choose another name."
            raise InputError(msg)

    def _can_continue(self, *, overwrite: bool) -> bool:
        started, _ = _header(self.partial)
        if started is None:
            return False
        then, now = ({"version": header["version"], **header["made_from"]} for header in (started, self._header))
        differing = [key for key in now if then.get(key) != now[key]]
        if not differing or overwrite:
            return not differing
        msg = (
            f"{self.partial} is an unfinished store of another extraction: "
            f"{'; '.join(_describe_difference(key, then.get(key), now[key]) for key in differing)}."
        )
        raise InputError(msg, "Repeat that one, delete the folder, or pass `overwrite=True` to start again.")

    def _create(self) -> None:
        remove(self.partial)
        with _explain_full_disk(self.path, self.raw_bytes):
            group = zarr.create_group(LocalStore(self.partial), zarr_format=3)
            _create_arrays(group, self._shape, self._dtype, self._block_size)
            group.create_array("intensities", data=self._intensities.astype(np.float32))
            table = group.create_group("cells", attributes={"columns": list(self._cells.columns)})
            for column in self._cells.columns:
                table.create_array(column, data=self._cells[column].to_numpy())
            group.attrs[_FORMAT] = self._header  # last: a folder without it is not an unfinished store


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
        with _explain_full_disk(self.folder.with_suffix(""), self.raw_bytes):
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


def _create_arrays(group: Any, shape: tuple[int, ...], dtype: np.dtype[Any], block_size: int) -> None:
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


def _header(path: Path) -> tuple[dict[str, Any] | None, Any]:
    """Return the attributes and group of a store; None if the folder is not one."""
    if not (path / "zarr.json").is_file():
        return None, None
    try:
        group = zarr.open_group(LocalStore(path, read_only=True), mode="r", zarr_format=3)
    except (ValueError, KeyError, FileNotFoundError, TypeError):
        return None, None  # an array, or metadata that is not zarr's
    return group.attrs.asdict().get(_FORMAT), group


@contextmanager
def _explain_full_disk(path: Path, raw_bytes: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        msg = f"the disk of {path} is full; the store needs up to {raw_bytes / 1e9:.3g} GB in total."
        raise InputError(
            msg, "Free some space and run the same command again: it continues where it stopped."
        ) from error


def _describe_difference(key: str, then: object, now: object) -> str:
    if key in ("image", "cells"):  # compared by fingerprints, which mean nothing to a reader
        return f"the {key} differ{'s' if key == 'image' else ', so the mask or the image does'}"
    return f"{key} was {then} and is {now}"
