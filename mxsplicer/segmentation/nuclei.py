"""The built-in method: nuclei are blobs in the nuclear marker, and cells are nuclei grown by a distance.

Intensities of nuclei and background are measured once over the slide, so that the result does not depend on tiles.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.segmentation import expand_labels, watershed

from mxsplicer.images.slide import Slide, overview
from mxsplicer.images.tiles import TileGrid, Window

_WINDOWS, _WINDOW_PX = 16, 512  # where intensities are measured on a large slide


def find_and_grow(
    levels: "Levels", diameter_px: float, min_area_px: int, expansion_px: float, image: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return labels of cells and of nuclei, (Y, X) each, in an image (1, Y, X) of the nuclear marker."""
    nuclei = find_nuclei(image[0], levels, diameter_px, min_area_px)
    return expand_labels(nuclei, expansion_px), nuclei


@dataclass(frozen=True)
class Levels:
    """Intensities of the smoothed nuclear marker: of the background, and the threshold of nuclei."""

    background: float
    nucleus: float


def measure_levels(slide: Slide, channel: int, diameter_px: float) -> Levels:
    """Measure the intensities of background and nuclei in windows spread over the tissue."""
    smooth = [_smooth(np.asarray(slide.image[channel, *one]), diameter_px) for one in bright_windows(slide, channel)]
    brightest_near = [ndimage.maximum_filter(one, round(2 * diameter_px)) for one in smooth]
    values = np.concatenate([one.ravel() for one in smooth])
    threshold = float(threshold_otsu(values))
    # Glass is darker than the tissue between nuclei, and there may be much of it: threshold again without it.
    nearby = np.concatenate([one.ravel() for one in brightest_near]) > threshold
    if nearby.any():
        values = values[nearby]
        threshold = float(threshold_otsu(values))
    return Levels(background=float(np.median(values[values <= threshold])), nucleus=threshold)


def bright_windows(slide: Slide, channel: int) -> list[Window]:
    """Return windows to measure intensities of nuclei in: all of a small slide, of a large one some in the tissue.

    Those of a large slide are spread evenly over its total intensity.
    """
    windows = list(TileGrid(slide.shape_px, (_WINDOW_PX, _WINDOW_PX)))
    if len(windows) <= _WINDOWS:
        return windows
    copy, factor = overview(slide, channels=[channel])
    small = np.nan_to_num(copy[0].astype(np.float64), nan=0, posinf=0, neginf=0)
    centres = [((y.start + y.stop) // 2 // factor, (x.start + x.stop) // 2 // factor) for y, x in windows]
    reach = max(1, _WINDOW_PX // factor)
    brightness = ndimage.uniform_filter(small, reach)[
        tuple(np.minimum(np.transpose(centres), np.array([small.shape]).T - 1))
    ]
    order = np.argsort(brightness, kind="stable")
    total = np.cumsum(brightness[order] - brightness.min())
    chosen = np.searchsorted(total, (np.arange(_WINDOWS) + 0.5) / _WINDOWS * total[-1])
    return [windows[order[place]] for place in np.unique(chosen)]


def _smooth(nuclear: np.ndarray, diameter_px: float) -> np.ndarray:
    # The square root equalises bright and dim nuclei, and stabilises the variance of photon noise.
    numbers = np.nan_to_num(nuclear.astype(np.float32), nan=0, posinf=0, neginf=0)
    smooth: np.ndarray = np.sqrt(np.maximum(ndimage.gaussian_filter(numbers, 0.12 * diameter_px), 0))
    return smooth


def find_nuclei(nuclear: np.ndarray, levels: Levels, diameter_px: float, min_area_px: int) -> np.ndarray:
    """Return labels of the nuclei, (Y, X): peaks of the Laplacian of Gaussian, grown by a watershed."""
    smooth = _smooth(nuclear, diameter_px)
    # A nucleus has one peak of the Laplacian of Gaussian of nearly its size (it is greatest at 0.35 of the diameter;
    # a little less keeps small neighbours apart).
    blobs = -ndimage.gaussian_laplace(smooth, 0.29 * diameter_px)
    # The threshold is the mean of a global and a local one: higher between crowded nuclei, lower for dim ones.
    surroundings = ndimage.gaussian_filter(smooth, 1.5 * diameter_px, truncate=3)
    lowest = (levels.background + levels.nucleus) / 2
    inside = smooth > np.maximum(lowest, (levels.nucleus + surroundings) / 2)
    # A dim nucleus among bright ones is still a blob.
    inside |= (smooth > lowest) & (blobs > 0)
    inside = _without_small_holes(ndimage.binary_opening(inside), 0.2 * diameter_px**2)  # a quarter of a nucleus

    apart_px = max(1, round(0.3 * diameter_px))
    peaks = peak_local_max(np.where(inside, blobs, 0), min_distance=apart_px, threshold_abs=0, exclude_border=False)
    seeds = np.zeros(smooth.shape, dtype=np.int32)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    nuclei = watershed(-blobs, seeds, mask=inside)
    large = np.bincount(nuclei.ravel()) >= min_area_px
    large[0] = False
    return np.where(large[nuclei], nuclei, 0)


def _without_small_holes(inside: np.ndarray, smaller_than_px: float) -> np.ndarray:
    # Large holes are gaps in the tissue surrounded by nuclei.
    holes, _ = ndimage.label(~inside)
    filled: np.ndarray = inside | (np.bincount(holes.ravel()) < smaller_than_px)[holes]
    return filled
