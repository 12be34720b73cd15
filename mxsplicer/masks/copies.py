"""Copy label images that are stored in long strips to a temporary folder, in tiles.

A tile of the slide crosses as many strips as it is high, and each strip is as wide as the slide. Reading tile by tile
would decode every strip again for each tile: two hundred times for a slide of 100,000 pixels.
"""

import logging
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from mxsplicer.images.lazy_images import LazyImage, Pick, Windowed, as_index

logger = logging.getLogger(__name__)

_WIDE_PX, _MANY_PX = 4096, 1 << 22  # a strip is wider than any tile, or holds more pixels than a large one
_BAND_PX = 1 << 22  # decoded at a time
_TILE_PX = 512


def tiled(labels: LazyImage, chunk: Sequence[int], name: str) -> LazyImage:
    """Return labels (Y, X), copied to tiles if needed, whose windows can be read without decoding long strips.

    Parameters
    ----------
    labels
        A label image.
    chunk
        Height and width of the stored chunks.
    name
        Name of the image, for messages.
    """
    height, width = (min(of_chunk, whole) for of_chunk, whole in zip(chunk, labels.shape, strict=True))
    is_long = width > _WIDE_PX or height * width > _MANY_PX
    return TiledCopy(labels, height, name) if is_long and width == labels.shape[1] else labels


class TiledCopy(Windowed):
    """A label image whose strips are decoded when a window first needs them, and kept on disk in tiles.

    The copy lies in the temporary folder (``TMPDIR``) and is removed with the object; labels compress to about a byte
    per few pixels. If the disk is full, strips are decoded again for every window. The pickle holds only the original
    image: another process copies the strips that it reads.
    """

    def __init__(self, labels: LazyImage, strip_px: int, name: str) -> None:
        super().__init__(labels.shape, labels.dtype)
        self._labels, self._strip_px, self._name = labels, strip_px, name
        self._band_px = max(1, _BAND_PX // (strip_px * self.shape[1])) * strip_px
        self._bands: dict[int, zarr.Array] = {}
        self._lock = threading.Lock()  # one band at a time: a strip may be as large as the image
        self._folder: Path | None = None
        self._is_full = False

    def __reduce__(self) -> tuple[Callable[..., LazyImage], tuple[Any, ...]]:
        return TiledCopy, (self._labels, self._strip_px, self._name)

    def read(self, picks: Sequence[Pick]) -> np.ndarray:
        """Return the pixels at ``picks``."""
        rows, columns = np.asarray(picks[0]), as_index(picks[1])
        out = np.empty((len(rows), len(picks[1])), dtype=self.dtype)
        of_row = rows // self._band_px
        for number in np.unique(of_row).tolist():
            here = rows[of_row == number]
            first, last = int(here.min()), int(here.max())
            band, top = self._band(number), number * self._band_px
            if band is None:
                found = np.asarray(self._labels[first : last + 1, columns])
            else:
                found = band.oindex[slice(first - top, last + 1 - top), columns]
            out[of_row == number] = found[here - first]
        return out

    def _band(self, number: int) -> Any:
        """Return a band of strips from the copy, or None if the disk is full."""
        if number in self._bands:
            return self._bands[number]
        with self._lock:
            if number not in self._bands and not self._is_full:
                top = number * self._band_px
                pixels = np.asarray(self._labels[top : min(top + self._band_px, self.shape[0]), :])
                try:
                    self._bands[number] = self._kept(pixels, number)
                except OSError as error:
                    self._is_full = True
                    logger.warning(
                        "no space for a tiled copy of mask %s in %s (%s), so its strips are decoded again for every "
                        "tile of the slide. Set TMPDIR to another folder, or save the mask in tiles.",
                        self._name,
                        tempfile.gettempdir(),
                        error.strerror or error,
                    )
            return self._bands.get(number)

    def _kept(self, pixels: np.ndarray, number: int) -> zarr.Array:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="mxsplicer-mask-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)  # also at the end of the program
        chunks = tuple(min(_TILE_PX, side) for side in pixels.shape)
        band = zarr.create_array(self._folder / str(number), shape=pixels.shape, chunks=chunks, dtype=self.dtype)
        band[...] = pixels
        return band
