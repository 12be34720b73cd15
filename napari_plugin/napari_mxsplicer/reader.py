"""The reader that napari calls when a file is opened or dropped."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mxsplicer import Result
from napari_mxsplicer.layers import LayerData
from napari_mxsplicer.opening import result_layers

_HEAD = 4096  # bytes of the index that contain its format


def get_reader(path: str | Sequence[str]) -> Callable[[Any], list[LayerData]] | None:
    """Return the reader of ``path``, or None if it is not a result, judged by the first bytes of its index."""
    if not isinstance(path, str | Path):
        return None
    index = Path(path)
    index = Result(index, ()).index if index.is_dir() else index
    if index != Result(index.parent, ()).index or not index.is_file():
        return None
    with index.open("rb") as file:
        return read_result if b'"mxsplicer result"' in file.read(_HEAD) else None


def read_result(path: str) -> list[LayerData]:
    """Return the layers of the first slide of a result, given by its folder or its ``mxsplicer.json``."""
    return result_layers(path)
