"""Marker names: from a table beside the slide, agreed with the file's own, made distinct, and the nuclear one."""

import csv
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import pairwise
from pathlib import Path

from mxsplicer.errors import InputError

logger = logging.getLogger(__name__)

# What the column of marker names is called by mcmicro, steinbock, MAUI, SpatialTIS, ImageJ and people.
_NAME_COLUMNS = ("marker_name", "marker", "markers", "name", "target", "biomarker", "channel_name", "label", "antibody")
_NUMBER_COLUMNS = ("channel_number", "channel")  # the latter is steinbock's for metals, others' for numbers
_TRUE, _FALSE = ("1", "1.0", "true", "t", "yes", "y"), ("0", "0.0", "false", "f", "no", "n")

# Names that a writer makes up where nobody gave one: "Channel 3", "Channel:0:2", "c07", "12".
_MADE_UP = re.compile(r"(channel|ch|c|image|page|plane|slice|name|marker|unnamed|unknown)?[\s_:#.-]*\d+([:_.-]\d+)*")

_CONTROL = (
    r"^af[\s_-]?\d*$|auto[\s_-]?fluo|^argo[\s_-]?\d|blank|^background|^bg[\s_-]?\d*$|^empty|no[\s_-]?antibody|^negative"
    r"|^unstained|isotype|^igg\d?([\s_-]?\d+)?$"
)
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
    "nucle|^nuc$",
)


@dataclass(frozen=True)
class Panel:
    """Names of channels as somebody gives them, in the order of the channels."""

    names: tuple[str, ...]
    source: str = "given"  # for people: the table's file name
    unwanted: tuple[bool, ...] = ()  # rows with 0 in steinbock's `keep`, or true in mcmicro's `remove`
    cycles: tuple[str, ...] = ()  # of staining, where the table tells

    def only(self, rows: Sequence[int]) -> "Panel":
        """Return some of the rows."""
        return Panel(
            tuple(self.names[row] for row in rows),
            self.source,
            tuple(self.unwanted[row] for row in rows if self.unwanted),
            tuple(self.cycles[row] for row in rows if self.cycles),
        )


def read_panel(path: str | Path) -> Panel:
    """Return the marker names of a table, one row per channel, in the order of the channels.

    Understood are mcmicro's ``markers.csv``, steinbock's ``panel.csv``, and a table without a header, with commas,
    semicolons or tabs between its columns, in UTF-8 or UTF-16.

    Parameters
    ----------
    path
        The table. Its names stand in a column called ``marker_name``, ``name``, ``target`` or alike; without such a
        header, in the first column that does not hold numbers. Rows are sorted by a column ``channel_number``, and
        marked as unwanted where a column ``remove`` says true or a column ``keep`` says false.

    Raises
    ------
    InputError
        If there is no such table, it is not text, a channel has no name, or the channel numbers have holes.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"there is no marker table {path}."
        raise InputError(msg)
    rows = _rows(path)
    header = [field.lower() for field in rows[0]]
    known = [name for name in _NAME_COLUMNS if name in header]
    if not known:
        column = next((i for i, field in enumerate(rows[0]) if not _is_number(field)), 0)
        return Panel(tuple(_names(path, rows, column, first_row=1)), path.name)
    names = _names(path, rows[1:], header.index(known[0]), first_row=2)
    columns = {name: [row[i] if i < len(row) else "" for row in rows[1:]] for i, name in enumerate(header)}
    unwanted = [
        _said(path, "keep", keep, default=True) is False or _said(path, "remove", remove, default=False) is True
        for keep, remove in zip(*(columns.get(one, [""] * len(names)) for one in ("keep", "remove")), strict=True)
    ]
    cycles = columns.get("cycle_number", columns.get("cycle", []))
    panel = Panel(tuple(names), path.name, tuple(unwanted), tuple(cycles))
    return panel.only(_order(path, columns))


def agree(panel: Panel, n_channels: int, in_file: Sequence[str] | None, *, name: str) -> Panel:
    """Return the rows of a panel that are the channels of a file, or raise where the two contradict each other.

    The panel wins over the file's names, which is logged. It is refused where its number of rows is not that of the
    channels, and where it has a name of the file at another place: then one of the two is mislabelled.

    Parameters
    ----------
    panel
        What the user gave. Where the image lacks its unwanted rows, they are left out; else they stay, marked.
    in_file
        Names in the file, one per channel; None where it has none.
    name
        The file, for people.
    """
    columns = ("in the file", f"in {panel.source}" if panel.source != "given" else "given")
    everything = range(len(panel.names))
    wanted = [row for row in everything if not (panel.unwanted and panel.unwanted[row])]
    rows = next((rows for rows in (everything, wanted) if len(rows) == n_channels), None)
    if rows is None:
        msg = (
            f"{name} has {n_channels} channels but {len(panel.names)} marker names ({panel.source}); one row per "
            "channel is needed."
        )
        if in_file is None:
            msg += f" The names: {', '.join(panel.names)}."
        else:
            msg += f" Rows that differ are marked:\n{side_by_side(_aligned(in_file, panel.names), columns)}"
        raise InputError(msg)
    panel = panel.only(rows)
    if in_file is None or len(in_file) != n_channels:
        return panel
    pairs = list(zip(in_file, panel.names, strict=True))
    theirs = [_bare(one) for one in in_file]
    ours = [_bare(one) for one in panel.names]
    moved = [
        one for place, one in enumerate(ours) if theirs.count(one) == ours.count(one) == 1 and theirs[place] != one
    ]
    if any(not _MADE_UP.fullmatch(one) for one in moved):
        msg = (
            f"the names in {name} stand at other channels than those {columns[1]}, so one of the two is mislabelled. "
            "Mend the table; or leave it out, and where the file is wrong mend it by --rename OLD=NEW. Rows that "
            f"differ are marked:\n{side_by_side([(str(i), *pair) for i, pair in enumerate(pairs, 1)], columns)}"
        )
        raise InputError(msg)
    replaced = [
        f"{old} → {new}"
        for old, new in pairs
        if old and _bare(old) != _bare(new) and not _MADE_UP.fullmatch(old.casefold())
    ]
    if replaced:
        logger.info("%s replaces names of %s: %s", panel.source, name, ", ".join(replaced))
    return panel


def side_by_side(rows: Sequence[Sequence[str]], headings: Sequence[str]) -> str:
    """Return names as lines of a table, those rows marked in which they differ.

    Parameters
    ----------
    rows
        Number of the channel, then its name by each source; an empty text where a source has none.
    headings
        The sources.

    Examples
    --------
    >>> print(side_by_side([("1", "DAPI", "DAPI"), ("2", "CD3e", "CD8")], ("in the file", "in markers.csv")))
        channel  in the file  in markers.csv
        1        DAPI         DAPI
      > 2        CD3e         CD8
    """
    lines = [("channel", *headings), *([field or "-" for field in row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headings) + 1)]
    differ = [False, *(len({_bare(field) for field in row[1:]}) > 1 for row in rows)]
    return "\n".join(
        f"  {'>' if mark else ' '} {'  '.join(f.ljust(w) for f, w in zip(line, widths, strict=True))}".rstrip()
        for mark, line in zip(differ, lines, strict=True)
    )


def distinct(names: Sequence[str], cycles: Sequence[str] = ()) -> tuple[str, ...]:
    """Keep repeated names apart: the second ``DNA`` becomes ``DNA_2``, or takes the number of its staining cycle.

    Examples
    --------
    >>> distinct(["DNA", "CD3e", "DNA"])
    ('DNA', 'CD3e', 'DNA_2')
    >>> distinct(["DNA", "CD3e", "DNA"], cycles=["1", "1", "4"])
    ('DNA', 'CD3e', 'DNA_4')
    """
    taken: set[str] = set(names)
    seen: set[str] = set()
    out = []
    for place, name in enumerate(names):
        new, k = name, 1
        if name in seen and cycles and f"{name}_{cycles[place]}" not in taken | seen:
            new = f"{name}_{cycles[place]}"
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


def is_nuclear(marker: str) -> bool:
    """Return whether a marker stains nuclei, judged by its name."""
    return find_nuclear_marker([marker]) is not None


def is_control(marker: str) -> bool:
    """Return whether a channel stains nothing, judged by its name: autofluorescence, a blank, a background.

    Examples
    --------
    >>> [is_control(name) for name in ("AF1", "Argo550", "blank_2", "Autofluorescence", "AFP", "CD3e")]
    [True, True, True, True, False, False]
    """
    return re.search(_CONTROL, marker.lower()) is not None


def parse_renames(pairs: Sequence[str]) -> dict[str, str]:
    """Return what ``OLD=NEW`` texts say.

    Examples
    --------
    >>> parse_renames(["CD3=CD3e", "HLA=DR=HLA-DR"])
    {'CD3': 'CD3e', 'HLA=DR': 'HLA-DR'}
    """
    renames: dict[str, str] = {}
    for pair in pairs:
        old, equals, new = (part.strip() for part in pair.rpartition("="))
        if not (old and equals and new):
            msg = f"--rename {pair!r} is not OLD=NEW: give the name in the slide, an equals sign, and the new name."
            raise InputError(msg)
        if renames.setdefault(old, new) != new:
            msg = f"--rename gives {old!r} two names, {renames[old]!r} and {new!r}. Give one."
            raise InputError(msg)
    return renames


def _rows(path: Path) -> list[list[str]]:
    content = path.read_bytes()
    wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))  # "Unicode text" of a spreadsheet
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        msg = f"marker table {path.name} is not text in UTF-8 ({error.reason}). Save it as CSV in UTF-8."
        raise InputError(msg) from error
    if "\0" in text:
        msg = f"marker table {path.name} is not text: it holds zero bytes. Save it as CSV in UTF-8."
        raise InputError(msg)
    lines = text.splitlines()
    delimiter = max(",;\t", key=next((line for line in lines if line.strip()), "").count)
    try:
        rows = [[field.strip() for field in row] for row in csv.reader(lines, delimiter=delimiter)]
    except csv.Error as error:
        msg = f"marker table {path.name} is not a table ({error}). Save it as CSV in UTF-8."
        raise InputError(msg) from error
    rows = [row for row in rows if any(row)]
    if not rows:
        msg = f"marker table {path.name} is empty. Give one row per channel."
        raise InputError(msg)
    return rows


def _names(path: Path, rows: Sequence[Sequence[str]], column: int, *, first_row: int) -> list[str]:
    names = [row[column] if column < len(row) else "" for row in rows]
    if "" in names:
        msg = f"marker table {path.name} has no name in row {names.index('') + first_row}. Name every channel."
        raise InputError(msg)
    if not names:
        msg = f"marker table {path.name} has a header and no rows. Give one row per channel."
        raise InputError(msg)
    return names


def _said(path: Path, column: str, field: str, *, default: bool) -> bool:
    word = field.lower()
    if word and word not in _TRUE + _FALSE:
        msg = f"marker table {path.name} says {field!r} in its column {column!r}; write TRUE or FALSE."
        raise InputError(msg)
    return word in _TRUE if word else default


def _order(path: Path, columns: Mapping[str, Sequence[str]]) -> list[int]:
    """Return the rows in the order of their channel numbers, or as they stand where there are none."""
    n = len(next(iter(columns.values())))
    name = next((one for one in _NUMBER_COLUMNS if one in columns and all(map(_is_number, columns[one]))), None)
    if name is None:
        return list(range(n))
    numbers = [float(field) for field in columns[name]]
    cycles = columns.get("cycle_number", [])
    if len(set(numbers)) < n and cycles and all(map(_is_number, cycles)):
        # Counted anew in each cycle.
        keys = [(float(cycle), number) for cycle, number in zip(cycles, numbers, strict=True)]
    else:
        keys = [(0.0, number) for number in numbers]
    order = sorted(range(n), key=keys.__getitem__)
    for before, after in pairwise(order):
        if keys[before] == keys[after]:
            msg = f"marker table {path.name} gives the {name} {numbers[after]:g} twice. Number every channel once."
            raise InputError(msg)
        if keys[before][0] == keys[after][0] and numbers[after] - numbers[before] != 1:
            msg = (
                f"marker table {path.name} has no {name} between {numbers[before]:g} and {numbers[after]:g}. Give one "
                "row per channel of the image, and say TRUE in a column 'remove' where a channel is not wanted."
            )
            raise InputError(msg)
    return order


def _aligned(in_file: Sequence[str], names: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return rows for :func:`side_by_side` in which a name that one source lacks stands beside nothing."""
    rows = []
    matcher = SequenceMatcher(None, [_bare(one) for one in in_file], [_bare(one) for one in names], autojunk=False)
    for _, a0, a1, b0, b1 in matcher.get_opcodes():
        for step in range(max(a1 - a0, b1 - b0)):
            a, b = a0 + step, b0 + step
            rows.append((str(a + 1) if a < a1 else "", in_file[a] if a < a1 else "", names[b] if b < b1 else ""))
    return rows


def _bare(name: str) -> str:
    # How one person's spelling differs from another's: "PD-L1" and "PDL1", "CD3E" and "CD3e".
    return "".join(character for character in name.casefold() if character.isalnum()) or name


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
