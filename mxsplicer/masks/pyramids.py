"""Label images that are made here: OME-Zarr 0.5 with coarser levels, so that a viewer need not read all of one.

https://ngff.openmicroscopy.org/0.5: a zarr group whose arrays ``0``, ``1``, ... are the levels, finest first.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr

from mxsplicer.images.tiles import Grid, Window, in_order
from mxsplicer.system.progress import track

_CHUNK_PX = 512  # of every level; the coarsest is one chunk


def create_labels(path: Path, shape_px: tuple[int, int]) -> zarr.Array:
    """Create the group of a label image (Y, X), uint32, and return its finest level for writing.

    What lies at ``path`` is replaced.
    """
    shutil.rmtree(path, ignore_errors=True)
    return _create_level(zarr.create_group(path, zarr_format=3), 0, shape_px)


def finish_labels(path: Path, *, pixel_size_um: float, about: dict[str, Any], workers: int) -> None:
    """Write the coarser levels of a label image whose finest is complete, and say what it is.

    A level takes every second pixel of the one before, since ids cannot be averaged. It is written a chunk at a time,
    so that memory does not grow with the image.

    Parameters
    ----------
    path
        The group of :func:`create_labels`.
    pixel_size_um
        Of the finest level.
    about
        What else to tell of it, as its attribute ``mxsplicer``.
    workers
        Threads.
    """
    group = zarr.open_group(path, mode="r+")
    levels = [_level(group, 0)]
    while max(levels[-1].shape) > _CHUNK_PX:
        height, width = levels[-1].shape
        levels.append(_create_level(group, len(levels), (-(-height // 2), -(-width // 2))))
        _halve(levels[-2], levels[-1], workers)
    levels[0].update_attributes({"mxsplicer": about})  # for whoever holds the array alone
    group.update_attributes({"ome": _described(levels, pixel_size_um), "mxsplicer": about})


def is_made_here(path: Path) -> bool:
    """Return whether a folder holds a label image of :func:`finish_labels`."""
    try:
        return "mxsplicer" in json.loads((path / "zarr.json").read_text(encoding="utf-8"))["attributes"]
    except (OSError, ValueError, LookupError, TypeError):
        return False


def open_finest(path: Path, mode: Literal["r", "r+"] = "r") -> zarr.Array:
    """Return the finest level of a label image of :func:`create_labels`, for reading or also for writing (r+)."""
    return _level(zarr.open_group(path, mode=mode), 0)


def _level(group: zarr.Group, number: int) -> zarr.Array:
    level = group[str(number)]
    assert isinstance(level, zarr.Array)
    return level


def _create_level(group: zarr.Group, number: int, shape_px: tuple[int, int]) -> zarr.Array:
    chunks = (min(_CHUNK_PX, shape_px[0]), min(_CHUNK_PX, shape_px[1]))
    return group.create_array(
        str(number), shape=shape_px, chunks=chunks, dtype="uint32", dimension_names=("y", "x"), overwrite=True
    )


def _halve(fine: zarr.Array, coarse: zarr.Array, workers: int) -> None:
    def write(window: Window) -> None:
        rows, columns = (slice(2 * one.start, 2 * one.stop) for one in window)
        coarse[window] = np.asarray(fine[rows, columns])[::2, ::2]

    chunks = Grid((coarse.shape[0], coarse.shape[1]), (coarse.chunks[0], coarse.chunks[1]))
    for _ in track(in_order(write, chunks, workers), f"Writing level {coarse.basename}", total=len(chunks)):
        pass


def _described(levels: Sequence[zarr.Array], pixel_size_um: float) -> dict[str, Any]:
    """Return the attributes of OME-NGFF."""
    datasets = [
        {
            "path": level.basename,
            "coordinateTransformations": [{"type": "scale", "scale": [pixel_size_um * (1 << number)] * 2}],
        }
        for number, level in enumerate(levels)
    ]
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"]
    return {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}], "image-label": {}}
