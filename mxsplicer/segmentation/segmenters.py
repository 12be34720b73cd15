"""Segmenters by name: adapters for cellpose, StarDist and InstanSeg, and the import of a user's own function.

Each takes a normalised image, (1, Y, X) of the nuclei or (2, Y, X) of nuclei and membranes, and returns labels (Y, X).
Their packages are extras, imported when they are used; they download their weights at first use. A new segmenter is a
function here and a line in :data:`SEGMENTERS`.
"""

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mxsplicer.errors import InputError
from mxsplicer.system.imports import import_by_name, is_importable

Segmenter = Callable[[np.ndarray], np.ndarray]  # (C, Y, X) -> labels (Y, X), 0 background


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
