"""Whether this process runs one command of mxsplicer and nothing else, so that its global state is ours to change."""

_owned = [False]


def own_process() -> None:
    """Note that this process is ours: the command line calls it as it starts."""
    _owned[0] = True


def is_own_process() -> bool:
    """Return whether this process runs one command, and not a notebook or a test that calls the library."""
    return _owned[0]
