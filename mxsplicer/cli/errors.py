"""Error messages of the library in the words of the command line: Python arguments become options."""

import ast
import re
import shlex
from collections.abc import Collection
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mxsplicer.result.options import NAMES

# Arguments whose option has another name. Of several options a command has the first that it knows.
_RENAMED: dict[str, tuple[str, ...]] = {
    **{argument: (option,) for argument, option in NAMES.items()},
    "samples": ("cohort",),
    "groups": ("fold_by",),
    "losses": ("loss",),
    "widths": ("chunk_width",),
    "encoder": ("encoder", "encoder_class"),
    "given": ("covariate",),
    "path": ("out",),
    "nuclei_path": ("nuclei_out",),
    "executor": ("executor",),
    "page": ("mask_page", "nuclei_page"),
    "n_cells": ("cells",),
    "max_megapixels": ("web_megapixels",),
}
_VALUES = {("surroundings", "hide"): "cell", ("surroundings", "keep"): "patch"}

_ARGUMENT = re.compile(r"`(\w+)(?:=([^`]*))?`")


def as_options(message: str, known: Collection[str]) -> str:
    """Return an error message in which every `argument` in backticks that is an option of the command is named as one.

    Parameters
    ----------
    message
        As :class:`~mxsplicer.errors.InputError` has it.
    known
        The options of the command, ``--overwrite`` and so on.

    Examples
    --------
    >>> as_options("Pass `overwrite=True`, or another `out`.", ["--overwrite", "--out"])
    'Pass --overwrite, or another --out.'
    >>> as_options("Pass `surroundings='keep'`; see `adata`.", ["--encoder-area"])
    'Pass --encoder-area patch; see `adata`.'
    >>> as_options("Pass `weights={'CD8a': 2}`.", ["--component-weight"])
    'Pass --component-weight CD8a=2.'
    """

    def option(match: re.Match[str]) -> str:
        argument, value = match[1], match[2]
        names = ["--" + name.replace("_", "-") for name in _RENAMED.get(argument, (argument,))]
        name = next((one for one in names if one in known), None)
        if name is None:
            return match[0]
        if value in (None, "True", "..."):
            return name
        if value == "False":
            return f"--no-{name.removeprefix('--')}"
        return " ".join(f"{name} {shlex.quote(_VALUES.get((argument, one), one))}" for one in _written(value))

    return _ARGUMENT.sub(option, message)


def _written(value: str) -> list[str]:
    """Return a Python literal in an error message as the values of an option that may be repeated."""
    try:
        literal: Any = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return [value.strip("\"'")]
    if isinstance(literal, dict):
        return [shlex.quote(f"{name}={one}") for name, one in literal.items()]
    return [str(one) for one in literal] if isinstance(literal, tuple | list) else [str(literal)]


def similar_file(path: Path) -> str:
    """Return what the error for a missing input file suggests: a similar name in its folder."""
    names = [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
    near = get_close_matches(path.name, names, 1)
    if near:
        return f"Did you mean {path.with_name(near[0])}?"
    return "Check the path." if path.parent.is_dir() else f"The folder {path.parent} does not exist either."
