"""Lazy arrays: images that napari slices like arrays, computed for the window on the canvas.

napari reads a multiscale layer only in the field of view, at the level that fits the screen. Each class here computes
that window from the file, so that memory does not grow with the slide.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from mxsplicer import LazyImage

_SMALLEST_PX = 1024  # levels no longer than this get no coarser level
_STRIP_PX = 1024  # rows that are read at once to take every k-th pixel


class LazyArray:
    """An image (Y, X) that :meth:`read` computes, with the last windows cached."""

    ndim = 2

    def __init__(self, shape: Sequence[int], dtype: Any, *, keep: int = 2) -> None:
        self.shape = (int(shape[0]), int(shape[1]))
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self.size = self.shape[0] * self.shape[1]
        self._keep, self._kept = keep, OrderedDict[tuple[Any, ...], np.ndarray]()

    def read(self, key: tuple[Any, ...]) -> np.ndarray:
        """Return the window, one index per axis."""
        raise NotImplementedError

    def __getitem__(self, key: Any) -> np.ndarray:
        key = key if isinstance(key, tuple) else (key,)
        key += (slice(None),) * (self.ndim - len(key))
        name = tuple((one.start, one.stop, one.step) if isinstance(one, slice) else one for one in key)
        try:
            known = self._kept.pop(name, None)
        except TypeError:  # fancy indexing, which napari does not use for drawing
            return self.read(key)
        window = self.read(key) if known is None else known
        self._kept[name] = window
        while len(self._kept) > self._keep:
            self._kept.popitem(last=False)
        return window

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return the whole image, which napari asks for if it is small."""
        return np.array(self[:, :], dtype=dtype)


class Channel(LazyArray):
    """One channel of an image (C, Y, X), read lazily for napari."""

    def __init__(self, image: LazyImage, channel: int) -> None:
        super().__init__(image.shape[1:], image.dtype)
        self._image, self._channel = image, channel

    def read(self, key: tuple[Any, ...]) -> np.ndarray:
        """Return the window of the channel."""
        return np.asarray(self._image[(self._channel, *key)])


class Labels(LazyArray):
    """A label image (Y, X), read lazily for napari."""

    def __init__(self, labels: LazyImage) -> None:
        super().__init__(labels.shape, labels.dtype)
        self._labels = labels

    def read(self, key: tuple[Any, ...]) -> np.ndarray:
        """Return the window."""
        return np.asarray(self._labels[key])


class Strided(LazyArray):
    """A lazy level that napari draws where a file has no coarser one: every ``step``-th pixel of an image (Y, X)."""

    def __init__(self, image: LazyImage, step: int) -> None:
        super().__init__([-(-n // step) for n in image.shape], image.dtype)
        self._image, self._step = image, step

    def read(self, key: tuple[Any, ...]) -> np.ndarray:
        """Return the window, read a strip of the image at a time."""
        rows, columns = (_range(one, n) for one, n in zip(key, self.shape, strict=True))
        out = np.empty((len(rows), len(columns)), dtype=self.dtype)
        at_once = max(1, _STRIP_PX // (self._step * abs(rows.step)))
        if not out.size:
            return out
        left, right = columns[0] * self._step, columns[-1] * self._step + 1
        for first in range(0, len(rows), at_once):
            part = rows[first : first + at_once]
            strip = np.asarray(self._image[part[0] * self._step : part[-1] * self._step + 1, left:right])
            out[first : first + len(part)] = strip[:: self._step * rows.step, :: self._step * columns.step]
        drop = tuple(0 if isinstance(one, int | np.integer) else slice(None) for one in key)
        return np.asarray(out[drop])


def label_levels(mask: LazyImage) -> list[LazyImage]:
    """Return a mask and its coarser levels as lazy arrays: those of the file, then strided ones."""
    return with_coarser([mask, *getattr(mask, "pyramid", ())])


def with_coarser(levels: Sequence[LazyImage]) -> list[LazyImage]:
    """Return lazy levels (Y, X), finest first, with coarser ones added until the last fits a screen."""
    out = list(levels)
    if max(out[-1].shape) > 2 * _SMALLEST_PX:
        halvings = math.ceil(math.log2(max(out[-1].shape) / (2 * _SMALLEST_PX)))
        last = out[-1]
        out += [Strided(last, 2**k) for k in range(1, halvings + 1)]
    return out


def _range(one: Any, length: int) -> range:
    if isinstance(one, slice):
        found = range(length)[one]
        if found and found.step < 0:
            msg = "negative steps are not supported"
            raise IndexError(msg)
        return found
    place = range(length)[int(one)]
    return range(place, place + 1)
