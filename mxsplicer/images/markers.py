"""Marker names: read them from a table, compare them with those of the file, make them unique, find the nuclear one."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from functools import cache
from itertools import pairwise
from pathlib import Path

from mxsplicer.errors import InputError
from mxsplicer.images.slide import Slide
from mxsplicer.system.tables import read_rows

logger = logging.getLogger(__name__)

# Headers of the column of marker names in tables of mcmicro, steinbock, MAUI, SpatialTIS, ImageJ and others.
_NAME_COLUMNS = ("marker_name", "marker", "markers", "name", "target", "biomarker", "channel_name", "label", "antibody")
_NUMBER_COLUMNS = ("channel_number", "channel")  # `channel` holds metals in steinbock, numbers elsewhere
_TRUE, _FALSE = ("1", "1.0", "true", "t", "yes", "y"), ("0", "0.0", "false", "f", "no", "n")

# Names that programs generate if the user gave none: "Channel 3", "Channel:0:2", "c07", "12".
_MADE_UP = re.compile(r"(channel|ch|c|image|page|plane|slice|name|marker|unnamed|unknown)?[\s_:#.-]*\d+([:_.-]\d+)*")

_CONTROL = (
    r"^af[\s_-]?\d*$|auto[\s_-]?fluo|^argo[\s_-]?\d|blank|^background|^bg[\s_-]?\d*$|^empty|no[\s_-]?antibody|^negative"
    r"|^unstained|isotype|^igg\d?([\s_-]?\d+)?$"
    r"|(?<![a-z])(af|bg|bkgd?|background|empty|auto|bleach\w*|quench\w*|secondary)(?![a-z0-9])"
)
# Names of nuclear stains, best first: of DNA, then of proteins of most nuclei. Of several channels of one kind, one per
# staining cycle (DNA1, DNA2, ...), the first is used. Letters before or after a name make another: DNAM1, nucleolin.
_NUCLEAR = (
    r"hoechst|(?<![a-z])h[\s_-]?33(342|258)",
    r"dapi",
    r"(?<![a-z])(ds|ss)?dna(?![a-z])",
    r"iridium|19[13][\s_-]?ir(?![a-z])|(?<![a-z])ir[\s_(-]*19[13]",
    r"draq[\s_-]?[57]|sytox|(?<![a-z])syto(?![a-z])|(?<![a-z])to[\s_-]?pro(?![a-z])|(?<![a-z])(toto|yoyo)[\s_-]?[13]"
    r"|7[\s_-]?aad|reddot|nuc(blue|red|spot|green)|spy[\s_-]?\d*[\s_-]?dna|sir[\s_-]?dna",
    r"propidium|^pi$|^pi[\s_-](stain|nuc)",
    r"(?<![a-z])nuc(leus|lei|lear)?([\s_-]?(stain|dye|marker|channel))?(?![a-z])",
    r"ha?ematoxylin",
    r"(?<![a-z0-9])hh?3(?![a-z0-9])|histone",
    r"(?<![a-z0-9])hh?3[\s_-]?k\d+|(?<![a-z0-9])h2b(?![a-z])",
)
# Not in every nucleus (phosphorylated, mutated), or not of nuclei: DNA-PK is a protein, B7-H3 one of the membrane.
_NOT_NUCLEAR = (
    r"phos|(?<![a-z])p[\s_-]*(hh?3|hist)|h3[\s_(-]*(ph?)?[\s_-]*(s|ser|t|thr)[\s_-]?\d|hh?3[\s_-]?p(?![a-z])|h2a"
    r"|h3[\s_.-]?\d?[\s_-]*k27m(?!e)|histone[\s_-]*(de)?(acetyl|methyl)|b7[\s_-]*h3"
    r"|dna[\s_:-]*(pk|pol|lig|dam|meth|rep|gyr|bind|rna)|nuclear[\s_-]*(factor|pore|receptor|antigen|envelop|lamin|membr)"
)
# Proteins of the cell cycle: those of dividing cells of any lineage, and analogues of thymidine.
_CELL_CYCLE = (
    r"(?<![a-z])m?ki[\s_-]?67(?!\d)|(?<![a-z])pcna|(?<![a-z])mcm[\s_-]?[2-7](?!\d)|cyclin[\s_-]?[abde]\d?(?![a-z])"
    r"|(?<![a-z])ccn[abde]\d|(?<![a-z])(top2a|topo2a|gmnn|geminin|cdt1|aurk[ab]|brdu|edu|idu)(?![a-z])"
    r"|(?<![a-z])(p|phos\w*)[\s_-]*(hh?3|hist)|h3[\s_(-]*(ph?)?[\s_-]*(s|ser)[\s_-]?10(?!\d)"
)


@dataclass(frozen=True)
class MarkerPanel:
    """The panel of markers that a user gives: names of channels, in the order of the channels."""

    names: tuple[str, ...]
    source: str = "given"  # name of the table's file, for messages
    unwanted: tuple[bool, ...] = ()  # rows with 0 in steinbock's `keep`, or true in mcmicro's `remove`
    cycles: tuple[str, ...] = ()  # staining cycle of each row, if the table has that column

    def only(self, rows: Sequence[int]) -> "MarkerPanel":
        """Return a panel of some of the rows."""
        return MarkerPanel(
            tuple(self.names[row] for row in rows),
            self.source,
            tuple(self.unwanted[row] for row in rows if self.unwanted),
            tuple(self.cycles[row] for row in rows if self.cycles),
        )


def read_panel(path: str | Path) -> MarkerPanel:
    """Read the marker names of a panel's table, one row per channel, in the order of the channels.

    Supported are mcmicro's ``markers.csv``, steinbock's ``panel.csv``, and a table without a header, written as
    :mod:`mxsplicer.system.tables` reads tables.

    Parameters
    ----------
    path
        The table. Names are read from a column called ``marker_name``, ``name``, ``target`` or similar; without such a
        header, from the first column that does not hold numbers. Rows are sorted by a column ``channel_number``, and
        marked as unwanted if a column ``remove`` is true or a column ``keep`` is false.

    Raises
    ------
    InputError
        If the table is missing or not text, a channel has no name, or channel numbers are missing.
    """
    path = Path(path)
    rows = [row for _, row in read_rows(path, what="marker table")]
    if not rows:
        msg = f"marker table {path.name} is empty."
        raise InputError(msg, "Give one row per channel.")
    header = [field.lower() for field in rows[0]]
    known = [name for name in _NAME_COLUMNS if name in header]
    if not known:
        column = next((i for i, field in enumerate(rows[0]) if not _is_number(field)), 0)
        return MarkerPanel(tuple(_names(path, rows, column, first_row=1)), path.name)
    names = _names(path, rows[1:], header.index(known[0]), first_row=2)
    columns = {name: [row[i] if i < len(row) else "" for row in rows[1:]] for i, name in enumerate(header)}
    unwanted = [
        _is_true(path, "keep", keep, default=True) is False or _is_true(path, "remove", remove, default=False) is True
        for keep, remove in zip(*(columns.get(one, [""] * len(names)) for one in ("keep", "remove")), strict=True)
    ]
    cycles = columns.get("cycle_number", columns.get("cycle", []))
    panel = MarkerPanel(tuple(names), path.name, tuple(unwanted), tuple(cycles))
    return panel.only(_order(path, columns))


def agree(panel: MarkerPanel, n_channels: int, in_file: Sequence[str] | None, *, name: str) -> MarkerPanel:
    """Return the rows of a panel of markers that are the channels of a file, or raise if the two contradict.

    The panel overrides the names in the file, which is logged. It is refused if it has another number of rows than the
    file has channels, or if it has a name of the file at another channel: then one of the two is mislabelled.

    Parameters
    ----------
    panel
        Names given by the user. Unwanted rows are left out if the image lacks them; otherwise they stay, marked.
    in_file
        Names in the file, one per channel; None if it has none.
    name
        Name of the file, for messages.
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
            f"the names in {name} belong to other channels than those {columns[1]}, so one of the two is mislabelled. "
            "Correct the table; or leave it out and, if the file is wrong, rename its markers by `rename`. Rows that "
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


def rows_of_channels(panel: MarkerPanel, in_file: Sequence[str]) -> list[int]:
    """Return the row of a panel of markers that names each channel of a file whose order of channels means nothing.

    Nothing is returned unless both have the same names, each once.
    """
    ours, theirs = [_bare(one) for one in panel.names], [_bare(one) for one in in_file]
    return [ours.index(one) for one in theirs] if len(set(ours)) == len(ours) and set(ours) == set(theirs) else []


def side_by_side(rows: Sequence[Sequence[str]], headings: Sequence[str]) -> str:
    """Return two lists of marker names as lines of a table, with rows that differ marked.

    Parameters
    ----------
    rows
        Number of the channel, then its name in each source, empty if a source has none.
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
    """Make repeated marker names unique: the second ``DNA`` becomes ``DNA_2``, or has the number of its staining cycle.

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
    """Return the marker that stains nuclei best, recognised by its name, or None.

    Examples
    --------
    >>> find_nuclear_marker(["CD3e", "phospho Histone", "DNA1", "DNA2"])
    'DNA1'
    """
    return next(iter(nuclear_candidates(markers)), None)


def nuclear_candidates(markers: Sequence[str]) -> list[str]:
    """Return the markers that stain nuclei, recognised by their names, best first.

    Stains of DNA come before histones. Phosphorylated histones, which only dividing cells have, and channels of the
    background are never among them.

    Examples
    --------
    >>> nuclear_candidates(["CD3e", "Histone H3", "AF_DAPI", "191Ir", "DNA2"])
    ['DNA2', '191Ir', 'Histone H3']
    """
    ranks = {marker: _nuclear_rank(marker.lower()) for marker in markers}
    return sorted((marker for marker in ranks if ranks[marker] is not None), key=lambda marker: ranks[marker] or 0)


@cache
def _nuclear_rank(name: str) -> int | None:
    if is_control(name) or re.search(_NOT_NUCLEAR, name):
        return None
    return next((rank for rank, pattern in enumerate(_NUCLEAR) if re.search(pattern, name)), None)


def is_nuclear(marker: str) -> bool:
    """Return whether the name of a marker is that of a nuclear stain."""
    return find_nuclear_marker([marker]) is not None


def is_control(marker: str) -> bool:
    """Return whether the name of a marker is that of a control: autofluorescence, a blank, a background.

    Examples
    --------
    >>> [is_control(name) for name in ("AF1", "Argo550", "blank_2", "Autofluorescence", "bg_DAPI", "AFP", "CD3e")]
    [True, True, True, True, True, False, False]
    """
    return re.search(_CONTROL, marker.lower()) is not None


def is_of_cell_cycle(marker: str) -> bool:
    """Return whether the name of a marker is that of a protein of the cell cycle, which shows a state, not a type.

    Examples
    --------
    >>> [is_of_cell_cycle(name) for name in ("Ki-67", "PCNA", "pHH3", "H3S10ph", "Cyclin D1", "CD67", "HH3", "DNA")]
    [True, True, True, True, True, False, False, False]
    """
    return re.search(_CELL_CYCLE, marker.lower()) is not None


def parse_renames(pairs: Sequence[str]) -> dict[str, str]:
    """Parse texts ``OLD=NEW`` into new marker names by old ones.

    Examples
    --------
    >>> parse_renames(["CD3=CD3e", "HLA=DR=HLA-DR"])
    {'CD3': 'CD3e', 'HLA=DR': 'HLA-DR'}
    """
    renames: dict[str, str] = {}
    for pair in pairs:
        old, equals, new = (part.strip() for part in pair.rpartition("="))
        if not (old and equals and new):
            msg = f"`rename` {pair!r} is not OLD=NEW."
            raise InputError(msg, "Give the name in the slide, an equals sign, and the new name.")
        if renames.setdefault(old, new) != new:
            msg = f"`rename` gives {old!r} two names, {renames[old]!r} and {new!r}."
            raise InputError(msg, "Give one.")
    return renames


def _names(path: Path, rows: Sequence[Sequence[str]], column: int, *, first_row: int) -> list[str]:
    names = [row[column] if column < len(row) else "" for row in rows]
    if "" in names:
        msg = f"marker table {path.name} has no name in row {names.index('') + first_row}."
        raise InputError(msg, "Name every channel.")
    if not names:
        msg = f"marker table {path.name} has a header and no rows."
        raise InputError(msg, "Give one row per channel.")
    return names


def _is_true(path: Path, column: str, field: str, *, default: bool) -> bool:
    word = field.lower()
    if word and word not in _TRUE + _FALSE:
        msg = f"marker table {path.name} has {field!r} in its column {column!r}."
        raise InputError(msg, "Write TRUE or FALSE.")
    return word in _TRUE if word else default


def _order(path: Path, columns: Mapping[str, Sequence[str]]) -> list[int]:
    """Return the rows of a marker table by their channel numbers, or in their own order if they have none."""
    n = len(next(iter(columns.values())))
    name = next((one for one in _NUMBER_COLUMNS if one in columns and all(map(_is_number, columns[one]))), None)
    if name is None:
        return list(range(n))
    numbers = [float(field) for field in columns[name]]
    cycles = columns.get("cycle_number", [])
    if len(set(numbers)) < n and cycles and all(map(_is_number, cycles)):
        # Channels are counted from 1 in each cycle.
        keys = [(float(cycle), number) for cycle, number in zip(cycles, numbers, strict=True)]
    else:
        keys = [(0.0, number) for number in numbers]
    order = sorted(range(n), key=keys.__getitem__)
    for before, after in pairwise(order):
        if keys[before] == keys[after]:
            msg = f"marker table {path.name} gives the {name} {numbers[after]:g} twice."
            raise InputError(msg, "Number every channel once.")
        if keys[before][0] == keys[after][0] and numbers[after] - numbers[before] != 1:
            msg = f"marker table {path.name} has no {name} between {numbers[before]:g} and {numbers[after]:g}."
            remedy = "Give one row per channel, and write TRUE into a column 'remove' for channels that are not wanted."
            raise InputError(msg, remedy)
    return order


def _aligned(in_file: Sequence[str], names: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return the marker names of two sources aligned for :func:`side_by_side`, "" where a source lacks one."""
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


def rename_markers(slide: Slide, renames: Mapping[str, str]) -> Slide:
    """Return a slide with some markers renamed, all at once, so that two names can be swapped.

    Raises
    ------
    InputError
        If the slide lacks a marker to rename, or two markers would share a name.
    """
    slide.channels_of(list(renames))
    markers = tuple(renames.get(marker, marker) for marker in slide.markers)
    for new in renames.values():
        if markers.count(new) > 1:
            msg = f"slide {slide.name!r} has a marker {new!r} already."
            raise InputError(msg, "Rename that one too, or drop it.")
    return replace(slide, markers=markers)
