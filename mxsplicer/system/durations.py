"""Durations as people write and read them."""

import re

from mxsplicer.errors import InputError


def parse_duration(text: str) -> float:
    """Parse a duration such as ``30m``, in seconds; s, m and h can be combined.

    Examples
    --------
    >>> parse_duration("90s"), parse_duration("30m"), parse_duration("2h"), parse_duration("1h30m")
    (90.0, 1800.0, 7200.0, 5400.0)
    """
    number = r"(\d+(?:\.\d+)?)"
    found = re.fullmatch(rf"\s*(?:{number}h)?\s*(?:{number}m)?\s*(?:{number}s)?\s*", text.lower())
    seconds = (
        0.0
        if found is None
        else sum(float(n or 0) * unit for n, unit in zip(found.groups(), (3600, 60, 1), strict=True))
    )
    if not seconds:
        msg = f"{text!r} is not a duration."
        raise InputError(msg, "Write it as 90s, 30m or 2h.")
    return seconds


def format_duration(seconds: float) -> str:
    """Return a duration as text.

    Examples
    --------
    >>> format_duration(7.25), format_duration(75), format_duration(600), format_duration(7500)
    ('7.2 s', '1 min 15 s', '10 min', '2 h 5 min')
    """
    if seconds < 60:
        return f"{seconds:.2g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
