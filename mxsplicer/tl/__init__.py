"""Analyses of embedded cells: each takes an AnnData and writes its result into it.

A name is loaded when it is first used: scanpy and scikit-learn take seconds.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
