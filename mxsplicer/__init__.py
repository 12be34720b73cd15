"""Single-cell representations for multiplex tissue imaging, without training or with SpliCER.

The stages, each of which is also a command::

    slide = mxsplicer.open_slide("slide.ome.tiff")
    mask = mxsplicer.segment(slide, "mask.zarr")
    store = mxsplicer.extract_patches(slide, mask, "patches.zarr")
    run = mxsplicer.train(store, "run")
    adata = mxsplicer.embed(run, store)

Names are loaded when they are first used, so that importing the package is fast. ``__init__.pyi`` lists them.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
