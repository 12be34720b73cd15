"""Numbers and names as the page formats them."""

import re
from collections.abc import Sequence

_MOST_LISTED = 8
_FOLDERS = re.compile(r"(?<![\w.:/\\])(?:[A-Za-z]:)?[/\\](?:[^/\\\s'\"]+[/\\])+")


def format_number(value: float) -> str:
    """Return a number with thousands separators, or with three digits if it is small.

    Examples
    --------
    >>> format_number(8478.2), format_number(0.12345)
    ('8,478', '0.123')
    """
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def format_ratio(ratio: float) -> str:
    """Return a formatted ratio, such as 6×."""
    return f"{ratio:.0f}×" if ratio >= 1 else f"{ratio:.1g}×"


def shorten(name: str) -> str:
    """Return a name formatted for a title or an axis of the page, at most 24 characters."""
    return name if len(name) <= 24 else f"{name[:21]}…"


def without_folders(text: str) -> str:
    """Return a text with the files of the page's settings and errors, without the absolute folders they are in.

    Examples
    --------
    >>> without_folders("'/data/S01/mask.tif' of https://example.org/a/b.tif"), without_folders("masks/S01.tif")
    ("'mask.tif' of https://example.org/a/b.tif", 'masks/S01.tif')
    """
    return _FOLDERS.sub("", text)


def list_names(names: Sequence[str]) -> str:
    """Return names formatted for a sentence of the page: the first eight, and how many more there are."""
    more = len(names) - _MOST_LISTED
    return ", ".join(names[:_MOST_LISTED]) + (f" and {more} more" if more > 0 else "")
