"""Cells for other programs: tables in mcmicro's columns, outlines for QuPath, labels as OME-Zarr, a SpatialData.

A name is loaded when it is first used, so that SpatialData and pyarrow are needed only by what writes them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
