"""Imports at run time: optional libraries, and the user's own code by ``module:name``.

A name that the user types may be imported. A name that a file holds never is: opening a file must not run code.
"""

import importlib
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mxsplicer.errors import InputError, describe_error


def import_extra(name: str, missing: str) -> Any:
    """Import an optional library, without the warnings that its import emits.

    Parameters
    ----------
    missing
        Error message if it is not installed: what needs it, and how to install it.

    Raises
    ------
    InputError
        If it cannot be imported.

    Examples
    --------
    >>> import_extra("math", "roots need math").sqrt(9)
    3.0
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except ImportError as error:
            raise InputError(missing) from error


def is_importable(name: str) -> bool:
    """Return whether a name has the form ``module:name``.

    Examples
    --------
    >>> is_importable("models:Mine"), is_importable("resnet18")
    (True, False)
    """
    return all(name.partition(":")[::2])


def import_by_name(name: str, what: str, must: str) -> Callable[..., Any]:
    """Import a function or class by its ``module:name``; the module may be a file in the current folder.

    Parameters
    ----------
    what, must
        What it is used as and what it must take and return, for error messages.

    Raises
    ------
    InputError
        If the module cannot be imported, or has no callable of that name.

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
    except Exception as error:  # any mistake in the user's file
        msg = f"module {module_name!r}, named as {what}, cannot be imported: {describe_error(error)}."
        raise InputError(msg) from error
    finally:
        sys.path.remove(here)
    found = getattr(module, wanted, None)
    if not callable(found):
        msg = f"module {module_name!r} has no {wanted!r} to call as {what}; it must take {must}."
        raise InputError(msg)
    made: Callable[..., Any] = found
    return made
