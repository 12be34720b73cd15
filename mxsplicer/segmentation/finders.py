"""Choose what finds the cells of a tile: the built-in method, a named segmenter or a function of the user."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from skimage.segmentation import expand_labels

from mxsplicer.errors import InputError
from mxsplicer.images.markers import nuclear_candidates
from mxsplicer.images.slide import Slide
from mxsplicer.segmentation.nuclei import bright_windows, find_and_grow, measure_levels
from mxsplicer.segmentation.segmenters import SEGMENTERS, Segmenter, Setting, import_segmenter

logger = logging.getLogger(__name__)

FindCells = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # (C, Y, X) -> cells, nuclei, with the same labels

_BYTES_PER_PX = {"built-in": 88, "named": 600, "own": 100}  # memory of a tile with its halo, in addition to the image
_PERCENTILES = (1.0, 99.8)  # become 0 and 1 for a named segmenter, over the tissue of the whole slide


@dataclass(frozen=True)
class CellFinder:
    """What finds the cells of a tile, and what it needs."""

    find: FindCells
    channels: list[int]  # that it needs
    settings: dict[str, str | float]  # that decide its result
    bytes_per_px: int
    kind: str  # "built-in", "named" or "own"


def choose_finder(
    slide: Slide,
    segmenter: str | Segmenter | None,
    *,
    nuclear_marker: str | None,
    membrane_marker: str | None,
    nucleus_diameter_um: float,
    min_nucleus_area_um2: float,
    expansion_um: float,
) -> CellFinder:
    """Return what finds the cells; the arguments are those of :func:`~mxsplicer.segmentation.segment.segment`."""
    named = isinstance(segmenter, str) and ":" not in segmenter
    if membrane_marker is not None and not named:
        msg = "`membrane_marker` is used only by a named segmenter."
        raise InputError(msg, f"Give `segmenter`, {' or '.join(SEGMENTERS)}.")
    if segmenter is not None and not named:
        name = segmenter if isinstance(segmenter, str) else _name_of(segmenter)
        own = import_segmenter(segmenter) if isinstance(segmenter, str) else segmenter
        channels = list(range(len(slide.markers)))
        return CellFinder(partial(_find_by, own), channels, {"segmenter": name}, _BYTES_PER_PX["own"], "own")
    nuclear_marker = nuclear_marker or _nuclear_marker_of(slide)
    settings: dict[str, str | float] = {
        "nuclear_marker": nuclear_marker,
        "expansion_um": expansion_um,
        "nucleus_diameter_um": nucleus_diameter_um,
    }
    if segmenter is None:
        settings["min_nucleus_area_um2"] = min_nucleus_area_um2
        channels = slide.channels_of([nuclear_marker])
        find = _built_in(slide, channels[0], nucleus_diameter_um, min_nucleus_area_um2, expansion_um)
        return CellFinder(find, channels, settings, _BYTES_PER_PX["built-in"], "built-in")
    assert isinstance(segmenter, str)
    settings["segmenter"] = segmenter
    markers = [nuclear_marker]
    if membrane_marker is not None:
        settings["membrane_marker"] = membrane_marker
        markers.append(membrane_marker)
    channels = slide.channels_of(markers)
    find = _by_name(segmenter, slide, channels, nucleus_diameter_um, expansion_um)
    return CellFinder(find, channels, settings, _BYTES_PER_PX["named"], "named")


def _built_in(slide: Slide, channel: int, diameter_um: float, min_area_um2: float, expansion_um: float) -> FindCells:
    diameter_px = diameter_um / slide.pixel_size_um
    min_area_px = max(1, round(min_area_um2 / slide.pixel_size_um**2))
    levels = measure_levels(slide, channel, diameter_px)
    return partial(find_and_grow, levels, diameter_px, min_area_px, expansion_um / slide.pixel_size_um)


def _by_name(name: str, slide: Slide, channels: list[int], diameter_um: float, expansion_um: float) -> FindCells:
    if name not in SEGMENTERS:
        import_segmenter(name)  # raises, and names the segmenters
    has_membrane = len(channels) > 1
    diameter_um += 2 * expansion_um if has_membrane else 0
    find = partial(_find_by, SEGMENTERS[name](Setting(slide.pixel_size_um, diameter_um, has_membrane)))
    levels = _percentiles(slide, channels)

    def find_cells(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        low, high = levels[:, :, None, None]
        numbers = np.nan_to_num(image.astype(np.float32), nan=0, posinf=0, neginf=0)
        cells, nuclei = find((numbers - low) / np.maximum(high - low, 1e-6))
        return (cells if has_membrane else expand_labels(nuclei, expansion_um / slide.pixel_size_um)), nuclei

    return find_cells


def _percentiles(slide: Slide, channels: list[int]) -> np.ndarray:
    """Return the low and the high percentile of each channel over the tissue, (2, C)."""
    windows = bright_windows(slide, channels[0])
    values = [np.concatenate([np.asarray(slide.image[one, *at]).ravel() for at in windows]) for one in channels]
    return np.stack([np.nanpercentile(one.astype(np.float32), _PERCENTILES) for one in values], axis=1).astype(
        np.float32
    )


def _name_of(segmenter: Segmenter) -> str:
    return str(getattr(segmenter, "__qualname__", type(segmenter).__qualname__))


def _find_by(segmenter: Segmenter, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels of a segmenter, renumbered from 1, as cells and as nuclei."""
    labels = np.asarray(segmenter(image))
    if labels.shape != image.shape[1:] or labels.dtype.kind not in "iu" or labels.min() < 0:
        msg = (
            f"the segmenter returned {labels.dtype} {labels.shape} for an image of {image.shape} (C, Y, X); it must "
            f"return labels {image.shape[1:]}: whole numbers, 0 for background."
        )
        raise InputError(msg)
    values, labels = np.unique(labels, return_inverse=True)
    labels = labels.reshape(image.shape[1:]) + int(values[0] != 0)
    return labels, labels


def _nuclear_marker_of(slide: Slide) -> str:
    candidates = nuclear_candidates(slide.markers)
    if not candidates:
        msg = f"none of the markers of slide {slide.name!r} is known to stain nuclei: {', '.join(slide.markers)}."
        raise InputError(msg, "Name one by `nuclear_marker`, or give a `mask`.")
    others = f"; other candidates: {', '.join(candidates[1:6])}" if candidates[1:] else ""
    logger.info("%s: nuclei are found in the marker %s%s", slide.name, candidates[0], others)
    return candidates[0]
