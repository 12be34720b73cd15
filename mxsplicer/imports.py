"""Code of the user's own, named ``module:name``: the one place where such a name is imported.

What a user types may be imported. What a file says never is: nobody should run code by opening what they were sent.
"""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mxsplicer.errors import InputError


def is_importable(name: str) -> bool:
    """Whether a name has the form ``module:name``.

    Examples
    --------
    >>> is_importable("models:Mine"), is_importable("resnet18")
    (True, False)
    """
    return all(name.partition(":")[::2])


def import_by_name(name: str, what: str, must: str) -> Callable[..., Any]:
    """Return a function or class by its ``module:name``; the module may lie in the current folder.

    Parameters
    ----------
    what, must
        What it is for and what it has to take and return, for the messages.

    Raises
    ------
    InputError
        If the module cannot be imported or has nothing of that name that can be called.

    Examples
    --------
    >>> import_by_name("math:sqrt", "a root", "a number and return its root")(9.0)
    3.0
    """
    module_name, _, wanted = name.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever is wrong in the user's file
        msg = f"module {module_name!r}, named as {what}, cannot be imported: {type(error).__name__}: {error}."
        raise InputError(msg) from error
    finally:
        sys.path.remove(here)
    found = getattr(module, wanted, None)
    if not callable(found):
        msg = f"module {module_name!r} has no {wanted!r} to call as {what}; it must take {must}."
        raise InputError(msg)
    made: Callable[..., Any] = found
    return made
