"""What napari asks when a file is opened or dropped: is it a result of mxsplicer, and which layers are in it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from napari_mxsplicer.layers import LayerData
from napari_mxsplicer.opening import result_layers

_HEAD = 4096  # bytes of mxsplicer.json in which it says what it is


def get_reader(path: str | Sequence[str]) -> Callable[[Any], list[LayerData]] | None:
    """Return what reads ``path``, or None where it is no result: told by the first bytes of a small file."""
    if not isinstance(path, str | Path):
        return None
    index = Path(path)
    index = index / "mxsplicer.json" if index.is_dir() else index
    if index.name != "mxsplicer.json" or not index.is_file():
        return None
    with index.open("rb") as file:
        return read_result if b'"mxsplicer result"' in file.read(_HEAD) else None


def read_result(path: str) -> list[LayerData]:
    """Return the layers of the first slide of a result, given by its folder or its ``mxsplicer.json``."""
    return result_layers(path)
