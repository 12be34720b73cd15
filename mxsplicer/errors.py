"""The one kind of error that a user can correct."""


class InputError(ValueError):
    """Something that was passed in cannot be used.

    Parameters
    ----------
    problem
        One sentence: which object, what was found, what was needed.
    remedy
        What to do, as a sentence. Arguments are named as Python has them, in backticks: ``pass `overwrite=True` ``.
        The command line prints its own options in their place (see :mod:`mxsplicer.cli.errors`), and ends with exit
        code 2.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(f"{problem} {remedy}".rstrip())
        self.problem, self.remedy = problem, remedy

    def __reduce__(self) -> tuple[type["InputError"], tuple[str, str]]:
        """Pickle both sentences: errors cross from worker processes."""
        return type(self), (self.problem, self.remedy)
