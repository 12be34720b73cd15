"""Analyses of embedded cells: each takes an AnnData and writes its result into it.

A name is loaded when it is first used: scanpy and scikit-learn take seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mxsplicer.tl.clustering import cluster
    from mxsplicer.tl.correlation import correlate
    from mxsplicer.tl.probing import probe, verdict
    from mxsplicer.tl.similarity import index_cells, similar

__all__ = ["cluster", "correlate", "index_cells", "probe", "similar", "verdict"]

_MODULES = {
    "cluster": "clustering",
    "correlate": "correlation",
    "index_cells": "similarity",
    "probe": "probing",
    "similar": "similarity",
    "verdict": "probing",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
