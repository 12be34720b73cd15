"""Segmenters: the built-in method, cellpose, StarDist and InstanSeg by name, and a user's own function.

Each takes a normalised image, (1, Y, X) of the nuclei or (2, Y, X) of nuclei and membranes, and returns labels (Y, X).
Their packages are extras, imported when they are used; they download their weights at first use. A new segmenter is a
function here and a line in :data:`SEGMENTERS`.
"""

import contextlib
import importlib
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from skimage.segmentation import expand_labels

from mxsplicer.errors import InputError
from mxsplicer.images.markers import nuclear_candidates
from mxsplicer.images.slide import Slide
from mxsplicer.segmentation.nuclei import bright_windows, find_and_grow, measure_levels
from mxsplicer.system.imports import import_by_name, is_importable

logger = logging.getLogger(__name__)

Segmenter = Callable[[np.ndarray], np.ndarray]  # (C, Y, X) -> labels (Y, X), 0 background

FindCells = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # (C, Y, X) -> cells, nuclei, with the same labels
_BYTES_PER_PX = {"built-in": 88, "named": 600, "own": 100}  # memory of a tile with its halo, in addition to the image
_PERCENTILES = (1.0, 99.8)  # become 0 and 1 for a named segmenter, over the tissue of the whole slide


@dataclass(frozen=True)
class Setting:
    """What a segmenter needs to know about the slide."""

    pixel_size_um: float
    diameter_um: float  # typical, of a nucleus; of a cell if there is a membrane marker
    has_membrane: bool  # whole cells are wanted, and the image has two channels


def cellpose(setting: Setting) -> Segmenter:
    """Cellpose-SAM (Pachitariu, Rariden, Stringer 2025): nuclei, or whole cells with a membrane marker."""
    package = _import("cellpose", "cellpose.models")
    with _fetching_weights("cellpose"):
        model = package.CellposeModel(gpu=True)  # the CPU, if there is no GPU

    def find(image: np.ndarray) -> np.ndarray:
        three = np.zeros((3, *image.shape[1:]), dtype=np.float32)  # it takes three channels in any order
        three[: len(image)] = image
        labels, *_ = model.eval(
            three, channel_axis=0, diameter=setting.diameter_um / setting.pixel_size_um, normalize=False
        )
        return np.asarray(labels)

    return find


def stardist(setting: Setting) -> Segmenter:
    """StarDist (Schmidt et al. 2018), model 2D_versatile_fluo: nuclei."""
    if setting.has_membrane:
        msg = "stardist finds nuclei only."
        raise InputError(msg, "Leave `membrane_marker` out, or choose cellpose or instanseg.")
    package = _import("stardist", "stardist.models")
    with _fetching_weights("stardist"):
        model = package.StarDist2D.from_pretrained("2D_versatile_fluo")
        assert model is not None, "stardist does not know its model 2D_versatile_fluo"
    scale = setting.pixel_size_um / 0.5  # the model was trained at 0.5 µm

    def find(image: np.ndarray) -> np.ndarray:
        labels, _ = model.predict_instances(image[0], axes="YX", scale=scale, show_tile_progress=False)
        return np.asarray(labels)

    return find


def instanseg(setting: Setting) -> Segmenter:
    """InstanSeg (Goldsborough et al. 2024), model fluorescence_nuclei_and_cells: nuclei, or cells with a membrane."""
    package = _import("instanseg", "instanseg")
    with _fetching_weights("instanseg"):
        model = package.InstanSeg("fluorescence_nuclei_and_cells", verbosity=0)

    def find(image: np.ndarray) -> np.ndarray:
        found = model.eval_small_image(
            image,
            pixel_size=setting.pixel_size_um,
            normalise=False,
            return_image_tensor=False,
            target="cells" if setting.has_membrane else "nuclei",
        )
        labels = np.asarray(found.cpu()).reshape(image.shape[1:])  # (1, 1, Y, X), of floats
        return labels.astype(np.int64)

    return find


SEGMENTERS: dict[str, Callable[[Setting], Segmenter]] = {
    "cellpose": cellpose,
    "stardist": stardist,
    "instanseg": instanseg,
}


def import_segmenter(name: str) -> Segmenter:
    """Import the user's own function, named ``module:function``; the module may lie in the current folder.

    Examples
    --------
    >>> import_segmenter("numpy:squeeze")(np.ones((1, 2, 2), int)).shape
    (2, 2)
    """
    if not is_importable(name):
        msg = f"segmenter {name!r} not found."
        raise InputError(msg, f"Give {', '.join(sorted(SEGMENTERS))}, or module:function.")
    return import_by_name(name, "a segmenter", "an image (C, Y, X) and return labels (Y, X)")


def _import(extra: str, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        msg = f"the segmenter {extra} is not installed ({error.name} not found)."
        raise InputError(msg, f'Run pip install "mxsplicer[{extra}]".') from error
    except (ImportError, RuntimeError) as error:
        msg = f"the segmenter {extra} is installed but cannot be loaded: {type(error).__name__}: {error}."
        raise InputError(msg) from error


@contextlib.contextmanager
def _fetching_weights(name: str) -> Iterator[None]:
    # Redirected, so that these packages do not print into the output of our commands.
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except Exception as error:  # a missing network raises almost any exception
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        msg = f"{name} could not load its weights, which it downloads at first use ({why})."
        remedy = "Run it once with a network connection, or put the weights where its documentation says."
        raise InputError(msg, remedy) from error


@dataclass(frozen=True)
class CellFinder:
    """The segmenter of the cells of a tile, and what it needs."""

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
    """Return the segmenter of a tile; the arguments are those of :func:`~mxsplicer.segmentation.segment.segment`."""
    named = isinstance(segmenter, str) and ":" not in segmenter
    if membrane_marker is not None and not named:
        msg = "`membrane_marker` is used only by a named segmenter."
        raise InputError(msg, f"Give `segmenter`, {' or '.join(SEGMENTERS)}.")
    if segmenter is not None and not named:
        name = segmenter if isinstance(segmenter, str) else _finder_name(segmenter)
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
        find = _grow_nuclei(slide, channels[0], nucleus_diameter_um, min_nucleus_area_um2, expansion_um)
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


def _grow_nuclei(slide: Slide, channel: int, diameter_um: float, min_area_um2: float, expansion_um: float) -> FindCells:
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
    levels = _segmenter_percentiles(slide, channels)

    def find_cells(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        low, high = levels[:, :, None, None]
        numbers = np.nan_to_num(image.astype(np.float32), nan=0, posinf=0, neginf=0)
        cells, nuclei = find((numbers - low) / np.maximum(high - low, 1e-6))
        return (cells if has_membrane else expand_labels(nuclei, expansion_um / slide.pixel_size_um)), nuclei

    return find_cells


def _segmenter_percentiles(slide: Slide, channels: list[int]) -> np.ndarray:
    """Return what a segmenter gets of a slide: the low and high percentile of each channel over the tissue, (2, C)."""
    windows = bright_windows(slide, channels[0])
    values = [np.concatenate([np.asarray(slide.image[one, *at]).ravel() for at in windows]) for one in channels]
    return np.stack([np.nanpercentile(one.astype(np.float32), _PERCENTILES) for one in values], axis=1).astype(
        np.float32
    )


def _finder_name(segmenter: Segmenter) -> str:
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


def knows_nuclei(segmenter: str | Segmenter | None = None, membrane_marker: str | None = None) -> bool:
    """Return whether a segmenter finds nuclei and grows them, rather than whole cells."""
    return segmenter is None or (isinstance(segmenter, str) and ":" not in segmenter and membrane_marker is None)
