"""Objectives: SpliCER and the methods it is compared with, one module each.

The method of the paper (Farndale, Henderson, Roberts, Yuan, arXiv 2503.07444) is in ``splicer.py``, the form that is
trained in ``extended.py``, and each of our extensions in ``extensions/``.
"""

from mxsplicer.splicer.objectives.extended import ExtendedSplicer
from mxsplicer.splicer.objectives.objective import Objective, Parts
from mxsplicer.splicer.objectives.splicer import Splicer
from mxsplicer.splicer.objectives.table import OBJECTIVES, find_objective

__all__ = ["OBJECTIVES", "ExtendedSplicer", "Objective", "Parts", "Splicer", "find_objective"]
