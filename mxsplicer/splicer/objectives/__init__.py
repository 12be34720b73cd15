"""What is held to what: one module per objective, on the same parts.

SpliCER (Farndale, Henderson, Roberts, Yuan, arXiv 2503.07444) and the objectives that it is compared with. The method
itself is in ``splicer.py``.
"""

from collections.abc import Callable

from mxsplicer.errors import InputError
from mxsplicer.splicer.objectives.joint import Joint
from mxsplicer.splicer.objectives.objective import Objective, Parts
from mxsplicer.splicer.objectives.sigma import Sigma
from mxsplicer.splicer.objectives.splicer import Splicer
from mxsplicer.splicer.objectives.trident import Trident
from mxsplicer.system.imports import import_by_name

__all__ = ["OBJECTIVES", "Objective", "Parts", "find_objective"]

OBJECTIVES: dict[str, Callable[[Parts], Objective]] = {
    "splicer": Splicer,
    "joint": Joint,
    "sigma": Sigma,
    "trident": Trident,
}


def find_objective(name: str) -> Callable[[Parts], Objective]:
    """Return what makes an objective of its parts: by a name of the table, or the user's own class, ``module:Class``.

    Raises
    ------
    InputError
        If it cannot be imported or is no :class:`Objective` that has all its methods.
    """
    if name in OBJECTIVES:
        return OBJECTIVES[name]
    made = import_by_name(name, "an objective", "Parts, as mxsplicer.splicer.objectives.Objective does, its base class")
    if not (isinstance(made, type) and issubclass(made, Objective)):
        msg = f"{name!r}, named as an objective, is no subclass of mxsplicer.splicer.objectives.Objective. Make it one."
        raise InputError(msg)
    if missing := sorted(getattr(made, "__abstractmethods__", ())):
        msg = f"objective {name!r} has no {' and no '.join(missing)}. Give it what Objective leaves open."
        raise InputError(msg)
    return made
