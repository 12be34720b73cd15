"""Write cells for other programs: tables as mcmicro's, outlines for QuPath, labels as OME-Zarr, and SpatialData.

A name is loaded when it is first used, so that SpatialData and pyarrow are needed only where they are used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
