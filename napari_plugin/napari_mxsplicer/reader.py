"""The reader that napari calls when a file is opened or dropped."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mxsplicer import find_result
from napari_mxsplicer.layers import LayerData, result_layers


def get_reader(path: str | Sequence[str]) -> Callable[[Any], list[LayerData]] | None:
    """Return the reader of ``path``, or None if it is not a result, judged by the first bytes of its index."""
    if not isinstance(path, str | Path):
        return None
    return None if find_result(path) is None else read_result


def read_result(path: str) -> list[LayerData]:
    """Return the layers of the first slide of a result, given by its folder or its ``mxsplicer.json``."""
    return result_layers(path)
