"""Any set of square images as a slide: a mosaic, a mask with one square per image, and a table of labels.

The same commands of mxsplicer then work on images as on cells. Every loader in this folder writes
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
    images: Iterable[np.ndarray],
    labels: pd.DataFrame,
    path: Path,
    *,
    channels: Sequence[str],
    side_px: int,
    dtype: str = "uint8",
    masks: np.ndarray | None = None,
    regions: np.ndarray | None = None,
) -> None:
    """Write images (C, P, P) as ``<path>.ome.tiff``, ``<path>_mask.ome.tiff`` and ``<path>_labels.csv``.

    Image i, counted by rows, is cell i + 1; a pixel is 1 µm wide, so a patch of P µm is an image. Each
    image is one tile.

    Parameters
    ----------
    labels
        One row per image, in their order; ``cell_id`` is added.
    side_px
        Side P of an image, a multiple of 16: the side of a tile of a TIFF.
    masks
        The pixels of the cell in each image, (N, P, P) boolean; by default all. The cell must be centred in the image,
        since a patch is cut around it.
    regions
        Pixels of each image that become a component of their own (``--deconstruct mask``), (N, P, P) boolean: nuclei,
        lungs. The cell is then the middle 4 x 4 px, for a patch to be cut around, and the regions of all images are
        one further cell, which ``--cells-from <path>_labels.csv`` leaves out.
    """
    if side_px % 16:
        msg = f"images are {side_px} px wide; a tile of a TIFF needs a multiple of 16: pad them."
        raise ValueError(msg)
    columns = math.ceil(math.sqrt(len(labels)))
    rows = math.ceil(len(labels) / columns)
    shape = (rows * side_px, columns * side_px)
    stored = np.stack(list(images)).astype(dtype, copy=False)  # (N, C, P, P)
    if stored.shape != (len(labels), len(channels), side_px, side_px):
        msg = f"images are {stored.shape}; {(len(labels), len(channels), side_px, side_px)} were expected."
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


def _tiles(images: np.ndarray, n_tiles: int) -> Iterator[np.ndarray]:
    empty = np.zeros(images.shape[2:], images.dtype)
    for channel in range(images.shape[1]):
        for number in range(n_tiles):
            yield images[number, channel] if number < len(images) else empty


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
    """Return the arguments that loaders of images have in common."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("source", type=Path, help="what was downloaded, unpacked")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--per-class", type=int, default=1000, help="images of a class, at most")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def some(files: Iterable[Path], n: int, seed: int) -> list[Path]:
    """Return at most ``n`` of some files, drawn at random from them in the order of their names."""
    ordered = sorted(files)
    return [ordered[i] for i in np.sort(np.random.default_rng(seed).permutation(len(ordered))[:n])]


def split_at_random(n: int, seed: int) -> np.ndarray:
    """Return ``train`` for four fifths of the images and ``test`` for the others."""
    return np.where(np.random.default_rng(seed).random(n) < 0.8, "train", "test")


def read_image(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """Return an image (C, P, P), whether the file has its channels first or last.

    Raises
    ------
    SystemExit
        If it has another shape.
    """
    image = tifffile.imread(path) if path.suffix in (".tif", ".tiff") else np.asarray(Image.open(path).convert("RGB"))
    channels, *side = shape
    if image.shape == (*side, channels):
        image = np.moveaxis(image, -1, 0)
    if image.shape != shape:
        refuse(f"{path} is {image.shape}; {shape} (C, Y, X) is needed.")
    return image


def read_region(path: Path, side_px: int) -> np.ndarray:
    """Return which pixels of an image belong to a region: those above 0 in an image of one channel."""
    if not path.is_file():
        refuse(f"mask {path} not found; every image needs one of the same name.")
    image = tifffile.imread(path) if path.suffix in (".tif", ".tiff") else np.asarray(Image.open(path))
    if image.shape != (side_px, side_px):
        refuse(f"mask {path} is {image.shape}; {(side_px, side_px)} is needed.")
    return image > 0
