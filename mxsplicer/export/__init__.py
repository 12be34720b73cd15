"""Cells for other programs: tables in mcmicro's columns, outlines for QuPath, labels as OME-Zarr, a SpatialData.

A name is loaded when it is first used, so that SpatialData and pyarrow are needed only by what writes them.
"""

from typing import TYPE_CHECKING

from mxsplicer.system.imports import lazily

if TYPE_CHECKING:
    from mxsplicer.export.labels import write_labels
    from mxsplicer.export.outlines import write_outlines
    from mxsplicer.export.spatial import write_spatialdata
    from mxsplicer.export.tables import write_table

__all__ = ["write_labels", "write_outlines", "write_spatialdata", "write_table"]

__getattr__ = lazily(
    __name__,
    {
        "write_labels": "labels",
        "write_outlines": "outlines",
        "write_spatialdata": "spatial",
        "write_table": "tables",
    },
)
