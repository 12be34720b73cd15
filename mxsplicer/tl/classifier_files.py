"""Files of classifiers: one JSON document with numbers and names, without code."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from mxsplicer.errors import InputError
from mxsplicer.system.files import check_free, write_json
from mxsplicer.tl.cell_classifier import CellClassifier

_FORMAT, _VERSION = "mxsplicer classifier", 1
_ARRAYS = ("weights", "bias", "class_weights", "center", "projection")
_MAPPINGS = ("counts", "left_out", "about")
_TEXTS = ("use_rep", "model")
_LISTS = ("classes", "feature_names")


def save_classifier(classifier: CellClassifier, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write a classifier as JSON: names, numbers, and where they are from; the file appears when it is complete.

    Raises
    ------
    InputError
        If the file exists and ``overwrite`` is False.
    """
    path = Path(path)
    check_free(path, overwrite=overwrite)
    content: dict[str, Any] = {"format": _FORMAT, "version": _VERSION}
    content |= {name: getattr(classifier, name) for name in _TEXTS}
    content |= {name: list(getattr(classifier, name)) for name in _LISTS}
    content |= {name: dict(getattr(classifier, name)) for name in _MAPPINGS}
    content["reach"] = classifier.reach
    content |= {name: _numbers(getattr(classifier, name)) for name in _ARRAYS}
    write_json(path, content)
    return path


def load_classifier(path: str | Path) -> CellClassifier:
    """Read a classifier that :func:`save_classifier` wrote.

    Raises
    ------
    InputError
        If the file is not one, was written by a newer version, or its parts do not fit together.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"classifier {path} was not found."
        raise InputError(msg)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, ValueError) as error:
        msg = f"{path} is not a classifier: it is not JSON ({error})."
        raise InputError(msg, _REMEDY) from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        msg = f"{path} is not a classifier of mxsplicer."
        raise InputError(msg, _REMEDY)
    if content.get("version") != _VERSION:
        msg = f"{path} was written by another version of mxsplicer (format {content.get('version')}, not {_VERSION})."
        raise InputError(msg, "Update mxsplicer.")
    try:
        return _made_of(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        msg = f"classifier {path} is damaged ({error})."
        raise InputError(msg, _REMEDY) from error


_REMEDY = "Save it again with `mxsplicer annotate RESULT --names NAMES --save FILE`, or from the panel."


def _made_of(content: dict[str, Any]) -> CellClassifier:
    arrays = {name: np.array(content[name], dtype=np.float32) for name in _ARRAYS}
    classes, features = (tuple(map(str, content[name])) for name in _LISTS)
    d, k = len(features), len(classes)
    shapes = {"weights": (d, k + 1), "bias": (k + 1,), "class_weights": (k,), "center": (d,)}
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            msg = f"{name} has the shape {arrays[name].shape} instead of {shape}"
            raise ValueError(msg)
    if arrays["projection"].ndim != 2 or len(arrays["projection"]) != d:
        msg = f"projection has the shape {arrays['projection'].shape} instead of ({d}, ...)"
        raise ValueError(msg)
    arrays_are_finite = all(np.isfinite(one).all() for one in [*arrays.values(), np.array(float(content["reach"]))])
    if not arrays_are_finite or k == 0 or len(set(classes)) < k:
        msg = "it has numbers that are not finite" if k and len(set(classes)) == k else "its classes are not distinct"
        raise ValueError(msg)
    given: dict[str, Any] = {**arrays, "classes": classes, "feature_names": features, "reach": float(content["reach"])}
    given |= {name: dict(content[name]) for name in _MAPPINGS} | {name: str(content[name]) for name in _TEXTS}
    return CellClassifier(**given)


def _numbers(values: np.ndarray) -> Any:
    """Return an array as lists of numbers with six digits, which is what its float32 were rounded to."""
    if values.ndim > 1:
        return [_numbers(row) for row in values]
    return [float(f"{value:.6g}") for value in values]
