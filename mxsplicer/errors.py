"""The error that a user can correct."""


class InputError(ValueError):
    """An argument, file or option of the user cannot be used.

    Parameters
    ----------
    problem
        One sentence that names the object, what was found and what was needed.
    remedy
        A sentence that says what to do. Arguments of Python functions stand in backticks: ``Pass `overwrite=True`.``
        The command line prints the option instead (see :mod:`mxsplicer.cli.errors`), and exits with code 2.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(f"{problem} {remedy}".rstrip())
        self.problem, self.remedy = problem, remedy

    def __reduce__(self) -> tuple[type["InputError"], tuple[str, str]]:
        """Pickle both sentences, since errors come from worker processes."""
        return type(self), (self.problem, self.remedy)


def describe_error(error: Exception) -> str:
    """Return type and message of an error in the user's own code, as part of a sentence.

    Examples
    --------
    >>> describe_error(ValueError("no such thing."))
    'ValueError: no such thing'
    """
    return f"{type(error).__name__}: {error}".rstrip(".")
