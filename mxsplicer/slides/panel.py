"""Marker names: from a table beside the slide, made distinct, and the nuclear one among them."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from mxsplicer.errors import InputError

# What the column of marker names is called by mcmicro, steinbock, MAUI, SpatialTIS, ImageJ and people.
_NAME_COLUMNS = ("marker_name", "marker", "markers", "name", "target", "biomarker", "channel_name", "label", "antibody")

# Best first. A channel per staining cycle (DNA1, DNA2, ...) is normal: the first is taken.
_NUCLEAR = (
    "hoechst",
    "dapi",
    "dsdna",
    "^hh?3$",
    "histone",
    "^dna",
    r"^hh?3k\d",
    "draq5|sytox",
    "^ir19[13]|19[13]ir",
    "nucle",
)


def read_markers(path: str | Path) -> tuple[str, ...]:
    """Return the marker names of a table, one row per channel, in the order of the channels.

    Understood are mcmicro's ``markers.csv``, steinbock's ``panel.csv``, and a table without a header, with commas,
    semicolons or tabs between its columns.

    Parameters
    ----------
    path
        The table. Its names stand in a column called ``marker_name``, ``name``, ``target`` or alike; without such a
        header, in the first column that does not hold numbers. Rows with 0 in a column called ``keep`` are left out.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"there is no marker table {path}."
        raise InputError(msg)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        msg = f"marker table {path.name} is not text in UTF-8 ({error.reason}). Save it as CSV in UTF-8."
        raise InputError(msg) from error
    first_line = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first_line.count)
    rows = [[field.strip() for field in row] for row in csv.reader(text.splitlines(), delimiter=delimiter) if any(row)]
    if not rows:
        msg = f"marker table {path.name} is empty. Give one row per channel."
        raise InputError(msg)
    header = [field.lower() for field in rows[0]]
    known = [name for name in _NAME_COLUMNS if name in header]
    if known:
        column, rows = header.index(known[0]), rows[1:]
    else:
        column = next((i for i, field in enumerate(rows[0]) if not _is_number(field)), 0)
    if known and "keep" in header:  # steinbock writes the other channels of its panel into no image
        keep = header.index("keep")
        rows = [row for row in rows if row[keep : keep + 1] not in (["0"], ["0.0"])]
    names = [row[column] if column < len(row) else "" for row in rows]
    if "" in names:
        msg = f"marker table {path.name} has no name in row {names.index('') + 1 + bool(known)}. Name every channel."
        raise InputError(msg)
    return tuple(names)


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Keep repeated names apart: the second ``DNA`` becomes ``DNA_2``.

    Examples
    --------
    >>> distinct(["DNA", "CD3e", "DNA"])
    ('DNA', 'CD3e', 'DNA_2')
    """
    taken: set[str] = set(names)
    seen: set[str] = set()
    out = []
    for name in names:
        new, k = name, 1
        while new in seen or (k > 1 and new in taken):
            k += 1
            new = f"{name}_{k}"
        seen.add(new)
        out.append(new)
    return tuple(out)


def find_nuclear_marker(markers: Sequence[str]) -> str | None:
    """Return the marker that stains nuclei, judged by its name, or None.

    Examples
    --------
    >>> find_nuclear_marker(["CD3e", "Hoechst", "DNA2"])
    'Hoechst'
    """
    for pattern in _NUCLEAR:
        for marker in markers:
            if re.search(pattern, marker.lower()):
                return marker
    return None


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
