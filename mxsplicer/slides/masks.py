"""Masks: label images from files, as unsigned integers, read lazily."""

from pathlib import Path
from typing import Any

import numpy as np
import zarr

from mxsplicer.errors import InputError
from mxsplicer.slides.slide import LazyImage, complete_key
from mxsplicer.slides.tiff import open_tiff

_LARGEST_ID = np.iinfo(np.uint32).max


def open_mask(path: str | Path, *, page: int | None = None) -> LazyImage:
    """Open a label image (Y, X) whose slices are uint32: 0 is background, every other value one cell.

    Masks of 64-bit or float numbers are taken as long as their values are whole numbers below 2³²; this is checked as
    they are read.

    Parameters
    ----------
    path
        A TIFF or OME-TIFF, a ``.npy`` file, or a zarr array such as the ``mask.zarr`` of a result.
    page
        Which page of a file that holds several, from 0.
    """
    path = Path(path)
    if not path.exists():
        msg = f"there is no mask {path}."
        raise InputError(msg)
    labels = _open(path)
    if page is not None:
        if labels.ndim != 3 or not 0 <= page < labels.shape[0]:
            msg = f"mask {path.name} is {tuple(labels.shape)} and has no page {page}."
            raise InputError(msg)
        labels = _Page(labels, page)
    if labels.ndim != 2:
        pages = f" It holds {labels.shape[0]} pages: choose one with --mask-page." if labels.ndim == 3 else ""
        msg = f"mask {path.name} has the shape {tuple(labels.shape)}; a label image (Y, X) is needed.{pages}"
        raise InputError(msg)
    return Mask(labels, path.name)


class Mask:
    """A label image (Y, X) of whatever numbers, read as uint32."""

    dtype = np.dtype(np.uint32)
    ndim = 2

    def __init__(self, labels: LazyImage, name: str) -> None:
        if np.dtype(labels.dtype).kind not in "uifb":
            msg = f"mask {name} holds {labels.dtype}; integers are needed."
            raise InputError(msg)
        self._labels, self._name = labels, name
        self.shape = (labels.shape[0], labels.shape[1])

    def __getitem__(self, key: Any) -> np.ndarray:
        labels = np.asarray(self._labels[key])
        if labels.dtype.kind == "u" and labels.dtype.itemsize <= 4:
            return labels.astype(np.uint32, copy=False)
        if labels.dtype.kind == "b":
            labels = labels.astype(np.uint8)
        if labels.size:
            self._check(labels)
        return labels.astype(np.uint32)

    def _check(self, labels: np.ndarray) -> None:
        if labels.dtype.kind == "f" and not (np.isfinite(labels).all() and (labels == np.floor(labels)).all()):
            strange = labels[~np.isfinite(labels) | (labels != np.floor(labels))][0]
            msg = (
                f"mask {self._name} holds {strange:g}, which is no cell id: it looks like an intensity or probability "
                "image. Give the label image, one whole number per cell."
            )
            raise InputError(msg)
        if labels.min() < 0 or labels.max() > _LARGEST_ID:
            strange = labels.min() if labels.min() < 0 else labels.max()
            msg = f"mask {self._name} holds the id {strange:.0f}; ids from 0 to {_LARGEST_ID} are needed. Relabel it."
            raise InputError(msg)


class _Page:
    """One page of an image (pages, Y, X)."""

    ndim = 2

    def __init__(self, pages: LazyImage, page: int) -> None:
        self._pages, self._page = pages, page
        self.dtype, self.shape = pages.dtype, pages.shape[1:]

    def __getitem__(self, key: Any) -> Any:
        return self._pages[(self._page, *complete_key(key, self.ndim))]


def _open(path: Path) -> LazyImage:
    if path.is_dir():
        try:
            return zarr.open_array(path, mode="r")  # type: ignore[no-any-return]
        except (FileNotFoundError, KeyError, ValueError, zarr.errors.NodeTypeValidationError) as error:
            msg = f"mask {path.name} is a folder but not a zarr array ({error})."
            raise InputError(msg) from error
    if path.suffix == ".npy":
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
        except (ValueError, EOFError) as error:
            msg = f"mask {path.name} is not a readable .npy array ({error})."
            raise InputError(msg) from error
    return open_tiff(path).image
