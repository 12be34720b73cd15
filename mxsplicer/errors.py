"""The one kind of error that is the caller's to mend."""


class InputError(ValueError):
    """Something that was handed in cannot be used.

    The message is one sentence: which object, what was found, what was needed, what to do. The command line prints it
    as it stands and ends with exit code 2.
    """
