"""A slide: one imaged piece of tissue, its markers and its pixel size, read lazily."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from mxsplicer.errors import InputError
from mxsplicer.images.lazy_images import LazyImage, complete_key


@dataclass(frozen=True, eq=False)
class Slide:
    """An image (C, Y, X) with the marker of each channel and the size of a pixel.

    Nothing is read until ``image`` is sliced; reading along ``tile_px`` decodes each stored tile once.
    """

    name: str
    image: LazyImage  # (C, Y, X)
    markers: tuple[str, ...]
    pixel_size_um: float  # at `level`
    level: int = 0  # level of the pyramid that `image` is; 0 is the finest
    pyramid: tuple[LazyImage, ...] = ()  # coarser copies of `image`, (C, Y, X), finest first
    tile_px: tuple[int, int] = (512, 512)  # height and width of what is decoded at once
    path: Path | str | None = None  # a str is a URL
    markers_from: str = "given"
    markers_in_file: tuple[str, ...] = ()  # names of the channels in the file; empty if it has none
    pixel_size_from: str = "given"
    storage: str = "in memory"  # format and compression, as text
    uncropped_px: tuple[int, int] | None = None  # height and width before channels of several sizes were cropped
    images_in_file: str = ""  # which images the file holds and which was read, as text; empty if it holds one

    def __post_init__(self) -> None:
        if self.image.ndim != 3:
            msg = f"image of slide {self.name!r} has {self.image.ndim} axes; (C, Y, X) are needed."
            raise InputError(msg)
        if len(self.markers) != self.image.shape[0]:
            msg = (
                f"slide {self.name!r} has {self.image.shape[0]} channels but {len(self.markers)} marker names "
                f"({self.markers_from}): {_listed(self.markers)}."
            )
            raise InputError(msg, "Give `markers`, a table with one row per channel.")

    @property
    def shape_px(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.image.shape[1], self.image.shape[2]

    def channels_of(self, markers: Sequence[str]) -> list[int]:
        """Return the index of each of ``markers`` on the C axis."""
        places = {marker: channel for channel, marker in enumerate(self.markers)}
        for marker in markers:
            if marker not in places:
                close = get_close_matches(marker, self.markers, n=1, cutoff=0.4)
                hint = f"Did you mean {close[0]!r}? " if close else ""
                msg = f"slide {self.name!r} has no marker {marker!r}."
                raise InputError(msg, f"{hint}Its markers: {_listed(self.markers)}.")
        return [places[marker] for marker in markers]


def drop_markers(slide: Slide, markers: Sequence[str]) -> Slide:
    """Return a slide without some of its markers; their channels are never read.

    Raises
    ------
    InputError
        If the slide lacks a marker to drop, or none would be left.
    """
    gone = set(slide.channels_of(markers))
    kept = [channel for channel in range(slide.image.shape[0]) if channel not in gone]
    if not kept:
        msg = f"all {len(gone)} markers of slide {slide.name!r} are to be dropped."
        raise InputError(msg, "Keep at least one.")
    return select_channels(slide, kept) if gone else slide


def select_channels(slide: Slide, kept: Sequence[int]) -> Slide:
    """Return a slide with some of its channels, in this order; the others are not read."""
    return replace(
        slide,
        image=_Channels(slide.image, kept),
        pyramid=tuple(_Channels(level, kept) for level in slide.pyramid),
        markers=tuple(slide.markers[channel] for channel in kept),
        markers_in_file=tuple(slide.markers_in_file[channel] for channel in kept if slide.markers_in_file),
    )


class _Channels:
    """The image (C, Y, X) of a slide with some of its channels; the others are not read."""

    ndim = 3

    def __init__(self, image: LazyImage, channels: Sequence[int]) -> None:
        self._image, self._channels = image, np.array(channels)
        self.dtype, self.shape = image.dtype, (len(channels), *image.shape[1:])

    def __getitem__(self, key: Any) -> Any:
        channels, *window = complete_key(key, self.ndim)
        chosen = self._channels[channels]
        # Consecutive channels are read as a slice, which any image can read at once.
        if chosen.ndim and len(chosen) and (np.diff(chosen) == 1).all():
            return self._image[(slice(int(chosen[0]), int(chosen[-1]) + 1), *window)]
        return self._image[(int(chosen) if not chosen.ndim else chosen.tolist(), *window)]


def overview(slide: Slide, *, max_side_px: int = 1024, channels: Sequence[int] | None = None) -> tuple[np.ndarray, int]:
    """Return a small copy of the slide, and the number of its pixels per pixel of the copy.

    The coarsest level of the pyramid that is large enough is read; without one, every k-th pixel of the image.

    Returns
    -------
    The copy, (C, y, x) in the slide's dtype, and the factor between it and ``slide.image``.
    """
    chosen = list(range(slide.image.shape[0])) if channels is None else list(channels)
    levels = [slide.image, *slide.pyramid]
    wanted = min(max_side_px, max(slide.shape_px))
    level = min((one for one in levels if max(one.shape[1:]) >= wanted), key=lambda one: max(one.shape[1:]))
    factor_of_level = round(slide.shape_px[0] / level.shape[1])
    step = max(1, -(-max(level.shape[1:]) // max_side_px))
    height, width = level.shape[1:]
    # Read a strip of tiles at a time; its height is a multiple of step, so that every strip starts at a sampled row.
    rows = max(step, slide.tile_px[0] // step * step)
    out = np.empty((len(chosen), -(-height // step), -(-width // step)), dtype=level.dtype)
    for place, channel in enumerate(chosen):
        for top in range(0, height, rows):
            strip = level[channel, top : top + rows, :][::step, ::step]
            out[place, top // step : top // step + strip.shape[0]] = strip
    return out, factor_of_level * step


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:60]) + (", ..." if len(names) > 60 else "")
