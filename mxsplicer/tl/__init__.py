"""Analyses of embedded cells: each function takes an AnnData and writes its result into it.

A name is loaded when it is first used, because importing scanpy and scikit-learn takes seconds.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
