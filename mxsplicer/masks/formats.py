"""Arrays of label images as files store them: TIFF, PNG, NumPy, zarr."""

from pathlib import Path
from typing import Any

import numpy as np
import zarr

from mxsplicer.errors import InputError
from mxsplicer.images.lazy_images import LazyImage
from mxsplicer.images.ngff import open_labels
from mxsplicer.images.tiff import open_tiff
from mxsplicer.system.location import name_of

_FORMATS = "TIFF, PNG, .npy, .npz, the labels of an OME-Zarr, a zarr array, or outlines in GeoJSON"
_LABEL_NAMES = ("masks", "mask", "labels", "label", "cells", "y")  # of arrays in an .npz file
_ENDINGS = (".tif", ".tiff", ".btf", ".tf2", ".tf8", ".png", ".npy", ".npz", ".zarr")


def is_label_file(path: Path) -> bool:
    """Return whether a file or folder has a format of label images, by its name."""
    return path.name.lower().endswith(_ENDINGS)


def open_levels(location: Path | str) -> list[LazyImage]:
    """Open the array of a label image of any format and number of axes, and its coarser levels, finest first.

    TIFF, ``.npy`` and zarr are read lazily; PNG and ``.npz`` are decoded as a whole.

    Raises
    ------
    InputError
        If the file is none of these or cannot be read.
    """
    name = name_of(location)
    if isinstance(location, str) or location.is_dir():
        levels = open_labels(location)
        return [_zarr_array(location)] if levels is None else levels
    ending = location.suffix.lower()
    if ending == ".npy":
        return [_NpyFile(location)]
    if ending == ".npz":
        return [_read_npz(location)]
    with location.open("rb") as file:
        magic = file.read(8)
    if magic == b"\x89PNG\r\n\x1a\n":
        return [_read_png(location)]
    if magic[:2] not in (b"II", b"MM"):
        msg = f"mask {name} is not a file of labels (it begins with {magic[:4]!r})."
        raise InputError(msg, f"Give a label image as {_FORMATS}.")
    series = open_tiff(location)
    return [series.image, *series.pyramid]


class _NpyFile:
    """A label image in the format ``.npy``, mapped only while it is sliced: mapped pages count as resident memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            msg = f"mask {path.name} is not a readable .npy array ({error})."
            remedy = "Cellpose's _seg.npy holds Python objects: save its masks as TIFF." if "_seg" in path.name else ""
            raise InputError(msg, remedy) from error
        self.shape, self.dtype, self.ndim = mapped.shape, mapped.dtype, mapped.ndim

    def __getitem__(self, key: Any) -> np.ndarray:
        return np.array(np.load(self._path, mmap_mode="r", allow_pickle=False)[key])


def _read_npz(path: Path) -> np.ndarray:
    """Return the array of labels in a file of the format ``.npz``: the only one, or the one that is named so."""
    try:
        with np.load(path, allow_pickle=False) as file:
            names = list(file.files)
            named = [name for name in _LABEL_NAMES if name in names] if len(names) > 1 else names
            if named:
                return np.asarray(file[named[0]])
    except Exception as error:  # a damaged archive raises almost anything
        msg = f"mask {path.name} is not a readable .npz file ({error})."
        raise InputError(msg, "Save the labels again, or as TIFF.") from error
    msg = f"mask {path.name} holds {len(names)} arrays ({', '.join(names[:10])}), none of them named 'labels'."
    raise InputError(msg, "Save the label image alone.")


def _read_png(path: Path) -> np.ndarray:
    import imagecodecs

    try:
        return np.asarray(imagecodecs.png_decode(path.read_bytes()))
    except Exception as error:
        msg = f"mask {path.name} is not a readable PNG ({error})."
        raise InputError(msg, "Save the labels again, or as TIFF.") from error


def _zarr_array(location: Path | str) -> LazyImage:
    try:
        return zarr.open_array(location, mode="r")  # type: ignore[no-any-return]
    except (OSError, KeyError, ValueError, TypeError, zarr.errors.NodeTypeValidationError) as error:
        msg = f"mask {name_of(location)} is a folder but not a zarr array ({error})."
        raise InputError(msg) from error
