"""Lazy images: NumPy's slicing on top of a function that reads a window of pixels."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

Pick = range | np.ndarray  # the wanted indices of one axis: an ascending range, or a list


class Windowed:
    """A lazy image that slices like an array; subclasses read its pixels in :meth:`read`.

    Integers, slices of any step and one list of indices are accepted, as in NumPy.
    """

    def __init__(self, shape: Sequence[int], dtype: Any) -> None:
        self.shape = tuple(int(n) for n in shape)
        self.dtype: np.dtype[Any] = np.dtype(dtype).newbyteorder("=")

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def read(self, picks: Sequence[Pick]) -> np.ndarray:
        """Return the pixels at ``picks``, one entry per axis, none of them empty and every range ascending."""
        raise NotImplementedError

    def __getitem__(self, key: Any) -> np.ndarray:
        key = complete_key(key, self.ndim)
        if len(key) != self.ndim:
            msg = f"{len(key)} indices for an image of {self.ndim} axes"
            raise IndexError(msg)
        wanted = [_pick(one, length) for one, length in zip(key, self.shape, strict=True)]
        if sum(isinstance(pick, np.ndarray) for pick in wanted) > 1:
            msg = "one axis of a lazy image can be indexed by a list; slice the others"
            raise IndexError(msg)
        lengths = tuple(len(pick) for pick in wanted)
        if 0 in lengths:
            window = np.zeros(lengths, dtype=self.dtype)
        else:
            window = self.read([pick[::-1] if _descends(pick) else pick for pick in wanted])
        back = (
            0 if isinstance(one, int | np.integer) else slice(None, None, -1 if _descends(pick) else None)
            for one, pick in zip(key, wanted, strict=True)
        )
        found: np.ndarray = window[tuple(back)]
        return found


class LazyImage(Protocol):
    """Anything that slices like a NumPy array and returns one: a NumPy or zarr array, or a view of mxsplicer."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the pixels."""
        ...

    @property
    def ndim(self) -> int:
        """Number of axes."""
        ...

    def __getitem__(self, key: Any, /) -> Any: ...


class Reordered(Windowed):
    """A lazy view of an image with its axes in another order."""

    def __init__(self, image: LazyImage, order: Sequence[int]) -> None:
        """Create a view whose axis ``i`` is axis ``order[i]`` of the image."""
        super().__init__([image.shape[axis] for axis in order], image.dtype)
        self._image, self._order = image, tuple(order)

    @classmethod
    def of(cls, image: LazyImage, order: Sequence[int]) -> LazyImage:
        """Return the view, or the image itself if its axes have that order already."""
        return image if list(order) == sorted(order) else cls(image, order)

    def read(self, picks: Sequence[Pick]) -> np.ndarray:
        """Return the pixels at ``picks``."""
        key: list[Any] = [None] * self.ndim
        for axis, pick in zip(self._order, picks, strict=True):
            key[axis] = as_index(pick)
        return np.transpose(np.asarray(self._image[tuple(key)]), self._order)


class Single(Windowed):
    """A plane (Y, X) as a lazy image of one channel, (1, Y, X)."""

    def __init__(self, plane: LazyImage) -> None:
        super().__init__((1, *plane.shape), plane.dtype)
        self._plane = plane

    def read(self, picks: Sequence[Pick]) -> np.ndarray:
        """Return the pixels at ``picks``."""
        channels, *window = picks
        plane: np.ndarray = np.asarray(self._plane[tuple(as_index(pick) for pick in window)])[None]
        return np.asarray(plane[as_index(channels)])


class Stacked(Windowed):
    """Lazy images (C, Y, X) of one height and width as the channels of one image, in their order."""

    def __init__(self, images: Sequence[LazyImage]) -> None:
        counts = [image.shape[0] for image in images]
        super().__init__((sum(counts), *images[0].shape[1:]), np.result_type(*(image.dtype for image in images)))
        self._images = tuple(images)
        self._places = [(image, channel) for image, n in enumerate(counts) for channel in range(n)]

    def read(self, picks: Sequence[Pick]) -> np.ndarray:
        """Return the pixels at ``picks``."""
        channels, *window = picks
        index = tuple(as_index(pick) for pick in window)
        places = [self._places[channel] for channel in channels]
        planes = [np.asarray(self._images[image][(channel, *index)]) for image, channel in places]
        return np.stack(planes).astype(self.dtype, copy=False)


class Cropped(Windowed):
    """The upper left part of a lazy image (..., Y, X)."""

    def __init__(self, image: LazyImage, shape_px: tuple[int, int]) -> None:
        super().__init__((*image.shape[:-2], *shape_px), image.dtype)
        self._image = image

    def read(self, picks: Sequence[Pick]) -> np.ndarray:
        """Return the pixels at ``picks``."""
        return np.asarray(self._image[tuple(as_index(pick) for pick in picks)])


def as_index(pick: Pick) -> Any:
    """Return the index of a lazy image for NumPy and zarr: a slice, or the list of indices."""
    return slice(pick.start, pick.stop, pick.step) if isinstance(pick, range) else pick


def _pick(key: Any, length: int) -> Pick:
    if isinstance(key, slice):
        return range(length)[key]
    if isinstance(key, int | np.integer):
        place = range(length)[int(key)]
        return range(place, place + 1)
    places: np.ndarray = np.arange(length)[np.asarray(key, dtype=None if len(key) else np.intp)]
    if places.ndim != 1:
        msg = f"a list of indices has one axis, not {places.ndim}"
        raise IndexError(msg)
    return places


def _descends(pick: Pick) -> bool:
    return isinstance(pick, range) and pick.step < 0


def complete_key(key: Any, ndim: int) -> tuple[Any, ...]:
    """Return an index of a lazy image with one entry per axis, as NumPy would read ``key``.

    Examples
    --------
    >>> complete_key((..., 3), 3)
    (slice(None, None, None), slice(None, None, None), 3)
    """
    key = key if isinstance(key, tuple) else (key,)
    if not any(one is Ellipsis for one in key):  # `in` would compare lists of places element by element
        key = (*key, Ellipsis)
    place = next(i for i, one in enumerate(key) if one is Ellipsis)
    return (*key[:place], *(slice(None),) * (ndim - len(key) + 1), *key[place + 1 :])
