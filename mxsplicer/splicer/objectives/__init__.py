"""What is held to what: one module per objective, on the same parts.

SpliCER (Farndale, Henderson, Roberts, Yuan, arXiv 2503.07444) and the objectives that it is compared with. The method
itself is in ``splicer.py``.
"""

from collections.abc import Callable

from mxsplicer.splicer.objectives.joint import Joint
from mxsplicer.splicer.objectives.objective import Objective, Parts
from mxsplicer.splicer.objectives.sigma import Sigma
from mxsplicer.splicer.objectives.splicer import Splicer
from mxsplicer.splicer.objectives.trident import Trident

__all__ = ["OBJECTIVES", "Objective", "Parts"]

OBJECTIVES: dict[str, Callable[[Parts], Objective]] = {
    "splicer": Splicer,
    "joint": Joint,
    "sigma": Sigma,
    "trident": Trident,
}
