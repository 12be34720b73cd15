"""Any set of square pictures as a slide: a mosaic, a mask with one square per picture, and a table of labels.

What mxsplicer does with cells it then does with pictures, by the same commands. Every loader beside this one writes
``<slide>.ome.tiff``, ``<slide>_mask.ome.tiff`` and ``<slide>_labels.csv``.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile


def write_mosaic(
    pictures: Iterable[np.ndarray],
    labels: pd.DataFrame,
    path: Path,
    *,
    channels: Sequence[str],
    side_px: int,
    dtype: str = "uint8",
    masks: np.ndarray | None = None,
) -> None:
    """Write pictures (C, P, P) as ``<path>.ome.tiff``, ``<path>_mask.ome.tiff`` and ``<path>_labels.csv``.

    Picture i, counted by rows, is cell i + 1; a pixel is 1 µm wide, so a patch of P µm is a picture. Each
    picture is one tile.

    Parameters
    ----------
    labels
        One row per picture, in their order; ``cell_id`` is added.
    side_px
        Side P of a picture, a multiple of 16: the side of a tile of a TIFF.
    masks
        What of each picture is the cell, (N, P, P) boolean; by default all of it. Its middle has to be that of the
        picture, for a patch is cut around it.
    """
    if side_px % 16:
        msg = f"pictures are {side_px} px wide; a tile of a TIFF needs a multiple of 16: pad them."
        raise ValueError(msg)
    columns = math.ceil(math.sqrt(len(labels)))
    rows = math.ceil(len(labels) / columns)
    shape = (rows * side_px, columns * side_px)
    stored = np.stack(list(pictures)).astype(dtype, copy=False)  # (N, C, P, P)
    if stored.shape != (len(labels), len(channels), side_px, side_px):
        msg = f"pictures are {stored.shape}; {(len(labels), len(channels), side_px, side_px)} were promised."
        raise ValueError(msg)
    options = {"tile": (side_px, side_px), "photometric": "minisblack", "compression": "zlib"}
    microns = {"PhysicalSizeX": 1.0, "PhysicalSizeY": 1.0}
    tifffile.imwrite(
        f"{path}.ome.tiff",
        _tiles(stored, rows * columns),
        shape=(len(channels), *shape),
        dtype=dtype,
        metadata={"axes": "CYX", "Channel": {"Name": list(channels)}, **microns},
        **options,
    )
    ids = np.zeros(rows * columns, np.uint32)
    ids[: len(labels)] = np.arange(1, len(labels) + 1)
    inside = itertools.repeat(np.ones((side_px, side_px), bool)) if masks is None else _filled_up(masks, len(ids))
    squares = (number * cell.astype(np.uint32) for number, cell in zip(ids, inside, strict=False))
    tifffile.imwrite(
        f"{path}_mask.ome.tiff", squares, shape=shape, dtype=np.uint32, metadata={"axes": "YX", **microns}, **options
    )
    labels.assign(cell_id=np.arange(1, len(labels) + 1)).to_csv(f"{path}_labels.csv", index=False)


def _tiles(pictures: np.ndarray, n_tiles: int) -> Iterator[np.ndarray]:
    empty = np.zeros(pictures.shape[2:], pictures.dtype)
    for channel in range(pictures.shape[1]):
        for number in range(n_tiles):
            yield pictures[number, channel] if number < len(pictures) else empty


def _filled_up(masks: np.ndarray, n: int) -> Iterator[np.ndarray]:
    yield from masks
    yield from itertools.repeat(np.zeros_like(masks[0]), n - len(masks))
