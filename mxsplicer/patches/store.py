"""PatchStore: patches, regions and cells of one slide on disk. Only this folder knows the layout and its version.

A zarr v3 group: ``patches`` (N, C, P, P) and ``regions`` (N, P, P), one shard per block; ``cells/<column>`` (N,);
``intensities`` (N, C). A store is built under ``<path>.partial`` and renamed when it is complete. A shard is written to
a temporary file and renamed, so it is complete or absent, and the shards present are the blocks that are done.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import zarr
from zarr.storage import LocalStore

from mxsplicer.cells.intensities import measure_spread
from mxsplicer.errors import InputError
from mxsplicer.patches.blocks import Block
from mxsplicer.patches.shards import ShardReader, ShardWriter, create_arrays, explain_full_disk
from mxsplicer.system.files import check_free, partial_path, remove, remove_partial
from mxsplicer.system.files import replace as replace_path

BACKGROUND, THIS_CELL, OTHER_CELL = 0, 1, 2
NUCLEUS = 3  # of this cell, if a mask of nuclei was passed

_FORMAT = "mxsplicer patches"
_VERSION = 1


class PatchStore:
    """The patches of a slide's cells on disk, in block order. Open one with :meth:`PatchStore.open`.

    Attributes
    ----------
    patches
        zarr array (N, C, P, P): intensities as they were read, in the slide's dtype; 0 outside the slide. Pixel
        (P/2, P/2) holds the centroid of the cell.
    regions
        zarr array (N, P, P) uint8: 0 background, 1 this cell, 2 another cell, 3 the nucleus of this cell.
    markers, slide_name
        Names of the channels, in order, and of the slide.
    pixel_size_um, patch_size_um
        Micrometres of a pixel and of the side of a patch; P is their ratio, rounded to an even number.
    ledger
        Number of ids of the mask for each outcome, such as ``kept`` or ``too small``.
    made_from
        The settings that the store was made with, and fingerprints of its inputs.
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
        self._patch_shards = ShardReader(self.patches, path / "patches")
        self._region_shards = ShardReader(self.regions, path / "regions")

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
        """One row per cell, in block order; row i describes patch i.

        ``cell_id``, ``x`` and ``y`` (µm), shape, bounding box ``y0``, ``x0``, ``y1``, ``x1`` (pixels, ends excluded),
        ``block`` and ``patch_valid_fraction``, the fraction of the patch that lies on the slide.
        """
        return pd.DataFrame({name: self._group["cells"][name][:] for name in self._group["cells"].attrs["columns"]})

    @cached_property
    def intensities(self) -> np.ndarray:
        """Mean raw intensity of each marker inside each cell, (N, C) float32."""
        return np.asarray(self._group["intensities"][:])

    @cached_property
    def spread(self) -> np.ndarray:
        """Standard deviation of each marker between all measured cells of the slide, (C,); 0 if it is unknown."""
        known = self._group.attrs[_FORMAT].get("spread")
        return measure_spread(self.intensities) if known is None else np.asarray(known)

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

    @property
    def spread(self) -> np.ndarray:
        """Standard deviation of each marker of the view between the cells of the slide, (C,); 0 if it is unknown."""
        known = dict(zip(self.store.markers, self.store.spread.tolist(), strict=True))
        return np.array([known.get(marker, 0.0) for marker in self.markers])

    def read_block(self, number: int) -> Block:
        """Return a block with the view's patches."""
        block = self.store.read_block(number)
        return replace(block, patches=self._transform(block.patches))

    def read_rows(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the view's patches (n, C, P, P) and the regions (n, P, P) of any rows, in the order given."""
        patches, regions = self.store.read_rows(rows)
        return self._transform(patches), regions


class _ArraySpec(NamedTuple):
    """The attributes of the arrays of a patch store that are asked for before they are read."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    shards: Any


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
    def shards(self) -> ShardWriter:
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
        with explain_full_disk(self.path, self.raw_bytes):
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
        with explain_full_disk(self.path, self.raw_bytes):
            group = zarr.create_group(LocalStore(self.partial), zarr_format=3)
            create_arrays(group, self._shape, self._dtype, self._block_size)
            group.create_array("intensities", data=self._intensities.astype(np.float32))
            table = group.create_group("cells", attributes={"columns": list(self._cells.columns)})
            for column in self._cells.columns:
                table.create_array(column, data=self._cells[column].to_numpy())
            group.attrs[_FORMAT] = self._header  # last: a folder without it is not an unfinished store


def _header(path: Path) -> tuple[dict[str, Any] | None, Any]:
    """Return the attributes and group of a patch store; None if the folder is not one."""
    if not (path / "zarr.json").is_file():
        return None, None
    try:
        group = zarr.open_group(LocalStore(path, read_only=True), mode="r", zarr_format=3)
    except (ValueError, KeyError, FileNotFoundError, TypeError):
        return None, None  # an array, or metadata that is not zarr's
    return group.attrs.asdict().get(_FORMAT), group


def _describe_difference(key: str, then: object, now: object) -> str:
    if key in ("image", "cells"):  # compared by fingerprints, which mean nothing to a reader
        return f"the {key} differ{'s' if key == 'image' else ', so the mask or the image does'}"
    return f"{key} was {then} and is {now}"
