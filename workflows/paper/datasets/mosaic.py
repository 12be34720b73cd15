"""Any set of square pictures as a slide: a mosaic, a mask with one square per picture, and a table of labels.

What mxsplicer does with cells it then does with pictures, by the same commands. Every loader beside this one writes
``<slide>.ome.tiff``, ``<slide>_mask.ome.tiff`` and ``<slide>_labels.csv``.
"""

import argparse
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
import pandas as pd
import tifffile
from PIL import Image


def write_mosaic(
    pictures: Iterable[np.ndarray],
    labels: pd.DataFrame,
    path: Path,
    *,
    channels: Sequence[str],
    side_px: int,
    dtype: str = "uint8",
    masks: np.ndarray | None = None,
    regions: np.ndarray | None = None,
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
    regions
        A part of each picture that is to be a component of its own (``--deconstruct mask``), (N, P, P) boolean: nuclei,
        lungs. The cell is then the middle 4 x 4 px, for a patch to be cut around, and the regions of all pictures are
        one further cell, which ``--cells-from <path>_labels.csv`` leaves out.
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
    tiles = _tiles_of_mask(ids, side_px, masks, regions)
    tifffile.imwrite(
        f"{path}_mask.ome.tiff", tiles, shape=shape, dtype=np.uint32, metadata={"axes": "YX", **microns}, **options
    )
    labels.assign(cell_id=np.arange(1, len(labels) + 1)).to_csv(f"{path}_labels.csv", index=False)


def _tiles(pictures: np.ndarray, n_tiles: int) -> Iterator[np.ndarray]:
    empty = np.zeros(pictures.shape[2:], pictures.dtype)
    for channel in range(pictures.shape[1]):
        for number in range(n_tiles):
            yield pictures[number, channel] if number < len(pictures) else empty


def _tiles_of_mask(
    ids: np.ndarray, side_px: int, masks: np.ndarray | None, regions: np.ndarray | None
) -> Iterator[np.ndarray]:
    n, middle = int(ids.max()), slice(side_px // 2 - 2, side_px // 2 + 2)
    for number in ids:
        tile = np.zeros((side_px, side_px), np.uint32)
        if number and regions is not None:
            tile[regions[number - 1]] = n + 1
            tile[middle, middle] = number
        elif number:
            tile[... if masks is None else masks[number - 1]] = number
        yield tile


def link(source: Path, path: Path) -> None:
    """Make ``path`` another name of a file."""
    path.unlink(missing_ok=True)
    path.symlink_to(source.resolve())


def refuse(message: str) -> NoReturn:
    """End with one sentence: what was found, what was needed."""
    raise SystemExit(message)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return the arguments that loaders of pictures have in common."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("source", type=Path, help="what was downloaded, unpacked")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--per-class", type=int, default=1000, help="pictures of a class, at most")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def some(files: Iterable[Path], n: int, seed: int) -> list[Path]:
    """Return at most ``n`` of some files, drawn at random from them in the order of their names."""
    ordered = sorted(files)
    return [ordered[i] for i in np.sort(np.random.default_rng(seed).permutation(len(ordered))[:n])]


def split_at_random(n: int, seed: int) -> np.ndarray:
    """Return ``train`` for four fifths of the pictures and ``test`` for the others."""
    return np.where(np.random.default_rng(seed).random(n) < 0.8, "train", "test")


def read_picture(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """Return a picture (C, P, P), whether the file has its channels first or last.

    Raises
    ------
    SystemExit
        If it has another shape.
    """
    picture = tifffile.imread(path) if path.suffix in (".tif", ".tiff") else np.asarray(Image.open(path).convert("RGB"))
    channels, *side = shape
    if picture.shape == (*side, channels):
        picture = np.moveaxis(picture, -1, 0)
    if picture.shape != shape:
        refuse(f"{path} is {picture.shape}; {shape} (C, Y, X) is needed.")
    return picture


def read_region(path: Path, side_px: int) -> np.ndarray:
    """Return which pixels of a picture belong to a region: those above 0 in an image of one channel."""
    if not path.is_file():
        refuse(f"there is no mask {path}; every picture needs one of its own name.")
    image = tifffile.imread(path) if path.suffix in (".tif", ".tiff") else np.asarray(Image.open(path))
    if image.shape != (side_px, side_px):
        refuse(f"mask {path} is {image.shape}; {(side_px, side_px)} is needed.")
    return image > 0
