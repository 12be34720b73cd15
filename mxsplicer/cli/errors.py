"""Error messages of the library in the words of the command line: Python arguments become options."""

import re
from collections.abc import Collection

# Arguments whose option has another name.
_RENAMED: dict[str, str] = {
    "deconstruction": "--deconstruct",
    "losses": "--loss",
    "max_bytes": "--max-memory",
    "page": "--mask-page",
    "weights": "--weight",
    "width_rule": "--chunk-width",
    "widths": "--chunk-width",
}

_ARGUMENT = re.compile(r"`(\w+)(?:=([^`]*))?`")


def as_options(message: str, known: Collection[str]) -> str:
    """Return a message in which every `argument` in backticks that is an option of the command line is named as one.

    Parameters
    ----------
    message
        As :class:`~mxsplicer.errors.InputError` has it.
    known
        The options of the command line, ``--overwrite`` and so on.

    Examples
    --------
    >>> as_options("Pass `overwrite=True`, or another `out`.", ["--overwrite", "--out"])
    'Pass --overwrite, or another --out.'
    >>> as_options("Read it with `surroundings='keep'`; see `adata`.", ["--surroundings"])
    'Read it with --surroundings keep; see `adata`.'
    """

    def option(match: re.Match[str]) -> str:
        argument, value = match[1], match[2]
        name = _RENAMED.get(argument, "--" + argument.replace("_", "-"))
        if name not in known:
            return match[0]
        if value == "False":
            return f"--no-{name.removeprefix('--')}"
        return name if value in (None, "True", "...") else f"{name} {value.strip(chr(34) + chr(39))}"

    return _ARGUMENT.sub(option, message)
