"""Where the tissue of a slide is: from a coarse level, or from windows spread over the slide, in about a second."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from mxsplicer.images.lazy_images import LazyImage
from mxsplicer.images.slide import Slide
from mxsplicer.images.tiles import Window

READ_PX = 8 << 20  # pixels of one channel that are decoded at most
_LOWEST_PX = 512  # longest side of the coarsest level that is used
_WINDOW_PX, _MOST_WINDOWS, _FEWEST_WINDOWS = 256, 64, 6
_STEP_UM = 4.0  # separates tissue from glass
_NOTHING = 0.02  # mean logarithm where the background was subtracted


@dataclass(frozen=True, eq=False)
class Tissue:
    """Tissue in windows of a slide: in one that is the whole slide, or in a sample of windows."""

    windows: tuple[Window, ...]
    inside: tuple[np.ndarray, ...]  # of each window, bool (y, x), one for `scale` x `scale` pixels of the slide
    scale: float
    area_mm2: float  # of the whole slide

    @property
    def is_sample(self) -> bool:
        """Whether windows were sampled."""
        return len(self.windows) > 1


def find_tissue(slide: Slide, channels: Sequence[int], *, only_dense: bool = False) -> Tissue | None:
    """Return where the tissue is, by the mean of the logarithm of some channels; None if it takes too long to read.

    Parameters
    ----------
    only_dense
        Leave out what is dim compared with the rest, even if it may be loose tissue.
    """
    level = _coarse_level(slide, len(channels))
    height, width = slide.shape_px
    if level is not None:
        windows = [(slice(0, height), slice(0, width))]
        scale = height / level.shape[1]
    else:
        windows, scale = _spread_windows(slide, READ_PX // len(channels)), 1.0
    if not windows:
        return None
    step = max(1, int(_STEP_UM / (slide.pixel_size_um * scale)))
    image = slide.image if level is None else level
    coarse = [
        _mean_log(image, channels, window if level is None else (slice(None), slice(None)), step) for window in windows
    ]
    scale *= step
    inside = _separate(coarse, slide.pixel_size_um * scale, only_dense=only_dense)
    share = sum(int(one.sum()) for one in inside) / sum(one.size for one in inside)
    area_mm2 = height * width * (slide.pixel_size_um / 1000) ** 2
    return Tissue(tuple(windows), tuple(inside), scale, area_mm2 * share)


def _coarse_level(slide: Slide, n_channels: int) -> LazyImage | None:
    """Return the coarsest level that shows the tissue, if it is quickly read; of a small slide the image itself."""
    levels = [one for one in (slide.image, *slide.pyramid) if n_channels * one.shape[1] * one.shape[2] <= READ_PX]
    level = next((one for one in reversed(levels) if max(one.shape[1:]) >= _LOWEST_PX), levels[0] if levels else None)
    # If the finest level is one strip, or one tile holds all channels, one window decodes all of it.
    if level is slide.image and math.prod(level.shape) > 16 * READ_PX:
        return None
    return level


def _spread_windows(slide: Slide, budget_px: int) -> list[Window]:
    """Return windows on a regular grid to find tissue in, as many as can be decoded within the budget."""
    sides = [-(-_WINDOW_PX // tile) * tile for tile in slide.tile_px]
    n = min(_MOST_WINDOWS, budget_px // math.prod(sides))
    if n < _FEWEST_WINDOWS:
        return []
    height, width = slide.shape_px
    down = max(1, round(math.sqrt(n * height / width)))
    across = max(1, n // down)
    return [
        (_aligned(row / down, height, sides[0]), _aligned(column / across, width, sides[1]))
        for row in np.arange(down) + 0.5
        for column in np.arange(across) + 0.5
    ]


def _aligned(place: float, length: int, side: int) -> slice:
    start = min(int(place * length) // side * side, max(0, length - 1) // side * side)
    return slice(start, min(start + side, length))


def _mean_log(image: LazyImage, channels: Sequence[int], window: Window, step: int) -> np.ndarray:
    """Return what shows tissue: the mean over channels of log(1 + intensity), (y, x), of every ``step``-th pixel."""
    total: np.ndarray | None = None
    for channel in channels:
        pixels = np.nan_to_num(np.asarray(image[channel, *window])[::step, ::step].astype(np.float32))
        logged = np.log1p(np.maximum(pixels, 0))
        total = logged if total is None else total + logged
    assert total is not None, "at least one channel"
    mean: np.ndarray = total / len(channels)
    return mean


def _separate(coarse: Sequence[np.ndarray], um: float, *, only_dense: bool) -> list[np.ndarray]:
    """Return where tissue is in each window, (y, x): brighter than glass after blurring over several nuclei."""
    blurred = [ndimage.gaussian_filter(one, max(1.0, 15 / um)) for one in coarse]
    values = np.concatenate([one.ravel() for one in blurred])
    low, high = np.percentile(values, [1, 99])
    if not values.any():
        return [np.zeros(one.shape, dtype=bool) for one in coarse]
    threshold = threshold_otsu(values)
    if high - low < np.log(6) and not only_dense:  # the contrast of dense and loose tissue; glass is darker or empty
        threshold = max(low - 1, _NOTHING)
    return [one > threshold for one in blurred]
