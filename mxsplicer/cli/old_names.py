"""Old names of options and arguments, which work for one release and log a warning; and options that were removed."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from mxsplicer.errors import InputError
from mxsplicer.splicer.recipe import REMOVED

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Renamed:
    """An option that has an old name.

    Attributes
    ----------
    old, new
        The names.
    commands
        Commands in which it was renamed; all where empty.
    values
        Old values that have another name too.
    """

    old: str
    new: str
    commands: tuple[str, ...] = ()
    values: dict[str, str] = field(default_factory=dict)


RENAMED = (
    Renamed("--samples", "--cohort"),
    Renamed("--label", "--score"),
    Renamed("--groups", "--fold-by"),
    Renamed("--dask", "--executor"),
    Renamed("--omit", "--no-component"),
    Renamed("--surroundings", "--encoder-area", values={"hide": "cell", "keep": "patch"}),
    Renamed("--weight", "--component-weight"),
    Renamed("--given", "--covariate"),
    Renamed("--encoder", "--encoder-class", ("evaluate", "verify", "push", "pull")),
    Renamed("--labels", "--mask", ("view",)),
    Renamed("--nuclei", "--nuclei-out", ("segment",)),
    Renamed("--reliance-cells", "--importance-cells", ("evaluate",)),
)
# Commands whose output was the last positional argument.
POSITIONAL_OUT = ("segment", "extract", "simulate", "pull")


def find_renamed(command: str, old: str) -> Renamed | None:
    """Return what became of the old name of an option of a command, or None where it keeps its name."""
    return next((one for one in RENAMED if one.old == old and (not one.commands or command in one.commands)), None)


def with_current_names(command: str, arguments: Sequence[str], known: set[str]) -> list[str]:
    """Return the arguments of a command with options under their current names; log each that had an old one.

    Raises
    ------
    InputError
        If one of them was removed.

    Examples
    --------
    >>> with_current_names("embed", ["a.tif", "--surroundings=keep", "--mask", "m.tif"], {"--mask", "--encoder-area"})
    ['a.tif', '--encoder-area=patch', '--mask', 'm.tif']
    """
    current: list[str] = []
    renamed: Renamed | None = None
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if renamed is not None:  # this is its value
            current.append(renamed.values.get(argument, argument))
            renamed = None
            continue
        if name.startswith("--") and name not in known and name[2:].replace("-", "_") in REMOVED:
            raise error_of_removed(name)
        found = None if name in known else find_renamed(command, name)
        if found is None or found.new not in known:
            current.append(argument)
            continue
        warn_of_old_name(found.old, found.new)
        current.append(found.new + equals + found.values.get(value, value))
        renamed = None if equals else found
    return current


def error_of_removed(option: str, file: object = "") -> InputError:
    """Return the error for an option that was removed, on the command line or in a file of options."""
    return InputError(f"{option}{f' in {file}' if file else ''} was removed: it gained nothing.", "Leave it out.")


def warn_of_old_name(old: str, new: str) -> None:
    """Log that an old name was used."""
    logger.warning("DeprecationWarning: %s is now %s", old, new)
