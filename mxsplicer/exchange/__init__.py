"""Cells for other programs: tables in mcmicro's columns, outlines for QuPath, labels as OME-Zarr, a SpatialData.

A name is loaded when it is first used, so that SpatialData and pyarrow are needed only by what writes them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mxsplicer.exchange.labels import write_labels
    from mxsplicer.exchange.outlines import write_outlines
    from mxsplicer.exchange.spatial import write_spatialdata
    from mxsplicer.exchange.tables import write_table

__all__ = ["write_labels", "write_outlines", "write_spatialdata", "write_table"]

_MODULES = {
    "write_labels": "labels",
    "write_outlines": "outlines",
    "write_spatialdata": "spatial",
    "write_table": "tables",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
