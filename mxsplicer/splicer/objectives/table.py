"""The table of objectives: their names, and a user's own class by ``module:Class``."""

from collections.abc import Callable

from mxsplicer.errors import InputError
from mxsplicer.splicer.objectives.extended import ExtendedSplicer
from mxsplicer.splicer.objectives.joint import Joint
from mxsplicer.splicer.objectives.objective import Objective, Parts
from mxsplicer.splicer.objectives.sigma import Sigma
from mxsplicer.splicer.objectives.trident import Trident
from mxsplicer.system.imports import import_by_name

OBJECTIVES: dict[str, Callable[[Parts], Objective]] = {
    "splicer": ExtendedSplicer,
    "joint": Joint,
    "sigma": Sigma,
    "trident": Trident,
}
_RENAMED = {"pictures": "view_inputs", "at_step": "step_arguments", "at_cells": "step_arguments"}  # methods


def find_objective(name: str) -> Callable[[Parts], Objective]:
    """Return the class of an objective by its name in the table, or a user's class by ``module:Class``.

    Raises
    ------
    InputError
        If it cannot be imported or is not a subclass of :class:`Objective` with all its methods.
    """
    if name in OBJECTIVES:
        return OBJECTIVES[name]
    made = import_by_name(name, "an objective", "Parts, as mxsplicer.splicer.objectives.Objective does, its base class")
    if not (isinstance(made, type) and issubclass(made, Objective)):
        msg = f"{name!r}, named as an objective, is not a subclass of mxsplicer.splicer.objectives.Objective."
        raise InputError(msg, "Make it one.")
    if missing := sorted(getattr(made, "__abstractmethods__", ())):
        msg = f"objective {name!r} lacks {' and '.join(missing)}."
        raise InputError(msg, "Define every abstract method of Objective.")
    if renamed := [method for method in _RENAMED if hasattr(made, method)]:
        msg = f"objective {name!r} defines {renamed[0]}, which is now {_RENAMED[renamed[0]]}."
        raise InputError(msg, "Rename it; its arguments are described in mxsplicer.splicer.objectives.Objective.")
    return made
