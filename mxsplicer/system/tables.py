"""Tables that people write, read by one set of rules whatever they are about.

A table is text: with commas, semicolons or tabs between its fields; in UTF-8, UTF-16 or Latin-1, as spreadsheets write
it; gzipped or not. Fields stay text, without the blanks around them, so a slide ``001`` or a patient ``1E2`` keeps its
name. Lines that begin with ``#`` are comments; a ``#`` elsewhere is part of a name. Names of columns are found whatever
their capitals. :func:`as_values` makes numbers of texts, where nothing is lost by it.
"""

import codecs
import csv
import gzip
import logging
import math
import re
import zlib
from collections.abc import Collection, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from mxsplicer.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

MISSING = ("", "#N/A", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null")  # as in pandas

_REMEDY = "Save it as CSV in UTF-8."
_BLOCK = 1 << 20
_NOT_TEXT = re.compile(r"[\x00-\x08\x0e-\x1a]")
_SPREADSHEETS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # xlsx and ods; xls


def read_table(path: str | Path, *, columns: Collection[str] | None = None, what: str = "table") -> "pd.DataFrame":
    """Return a table with a header as text; the index of a row is its line in the file.

    A field that is empty or absent is "". A column without a name is called "" if it is the first, as the index that
    pandas and R write; any other is left out. The second column of a name is called ``name.1``.

    Parameters
    ----------
    path
        The table.
    columns
        Names of the columns to keep; all by default.
    what
        What the table is, for messages.

    Raises
    ------
    InputError
        If the file does not exist, is not text, is empty, or a row has more fields than the header.
    """
    import pandas as pd

    path = Path(path)
    header, has_row_names, rows = _begin(path, what)
    kept = [i for i, name in enumerate(header) if (name or not i) and (columns is None or name in columns)]
    lines: list[int] = []
    fields: list[list[str]] = [[] for _ in kept]
    for line, row in rows:
        if any(row[len(header) :]) or (has_row_names and len(row) < len(header)):
            raise _unreadable(path, what, f"line {line} has {len(row)} fields, and the header {len(header)}")
        lines.append(line)
        for column, i in zip(fields, kept, strict=True):
            column.append(row[i] if i < len(row) else "")
    content = {header[i]: np.array(column, dtype=object) for i, column in zip(kept, fields, strict=True)}
    return pd.DataFrame(content, index=lines, columns=[header[i] for i in kept], dtype=object)


def read_rows(path: str | Path, *, what: str = "table") -> Iterator[tuple[int, list[str]]]:
    """Yield the line in a table and the trimmed fields of each row, the header too, without comments and empty rows.

    Raises
    ------
    InputError
        If the file does not exist or is not text.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"{what} {path} was not found."
        raise InputError(msg)
    try:
        with _open(path, what) as file:
            lines = _Lines(file)
            for row in csv.reader(lines, delimiter=lines.delimiter, skipinitialspace=True):
                fields = [field.strip() for field in row]
                if any(fields):
                    yield lines.number, fields
    except (csv.Error, UnicodeError, EOFError, OSError, zlib.error) as error:
        raise _unreadable(path, what, str(error)) from error


def read_header(path: str | Path) -> list[str]:
    """Return the names of the columns as :func:`read_table` gives them, without those that have none."""
    header, _, _ = _begin(Path(path), "table")
    return [name for i, name in enumerate(header) if name or not i]


def count_values(path: str | Path, most: int) -> dict[str, int]:
    """Return how many different values each column of a table has, for columns that are not all numbers.

    Parameters
    ----------
    most
        Columns with more values than this are left out.
    """
    header, _, rows = _begin(Path(path), "table")
    values: dict[int, set[str]] = {i: set() for i, name in enumerate(header) if name}
    for _, row in rows:
        for i in [*values]:
            if i < len(row) and row[i] not in MISSING:
                values[i].add(row[i])
                if len(values[i]) > most:
                    del values[i]
    return {header[i]: len(found) for i, found in values.items() if not all(_is_number(one) for one in found)}


def find_columns(columns: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the columns of a table that have one of the names, in the order of the names.

    Capitals are ignored, and ``_`` stands for any character but letters and digits.

    Examples
    --------
    >>> find_columns(["CellID", "Object ID", "type"], ["object_id", "cellid", "label"])
    ['Object ID', 'CellID']

    Raises
    ------
    InputError
        If two columns differ in nothing else, such as ``Slide`` and ``slide``, and neither is written like the name.
    """
    found = []
    for name in names:
        same = [column for column in columns if _plain(column) == _plain(name)]
        if len(same) > 1 and name not in same:
            msg = f"columns {same[0]!r} and {same[1]!r} are one name."
            raise InputError(msg, "Rename one of them.")
        found += [name] if name in same else same
    return list(dict.fromkeys(found))


def as_values(texts: Sequence[str] | np.ndarray) -> np.ndarray:
    """Return texts of a table as numbers if they can be written back from these, else as text; missing: NaN or None.

    So ``61`` and ``2.5`` become numbers, and a column with ``001``, ``1E2`` or ``1.10`` remains text.

    Examples
    --------
    >>> as_values(["61", "48"]).tolist(), as_values(["2.5", "NA"]).tolist(), as_values(["001", "2"]).tolist()
    ([61, 48], [2.5, nan], ['001', '2'])
    """
    numbers = {text: _lossless(text) for text in texts if text not in MISSING}
    has_missing = any(text in MISSING for text in texts)
    are_whole = all(isinstance(number, int) for number in numbers.values())
    is_int = are_whole and not has_missing
    most = 2**63 - 1 if is_int else 2**53  # below which whole numbers are exact as int64, and as float64
    if (
        not numbers
        or None in numbers.values()
        or len(set(numbers.values())) < len(numbers)
        or any(isinstance(number, int) and abs(number) > most for number in numbers.values())
    ):
        return np.array([None if text in MISSING else text for text in texts], dtype=object)
    values = [numbers.get(text, np.nan) for text in texts]
    return np.array(values, dtype=np.int64 if is_int else np.float64)


class _Lines:
    """The lines of a table without comments; ``delimiter`` and the ``number`` of the last line that was read."""

    def __init__(self, file: IO[str]) -> None:
        self.number = 0
        self._file = file
        self._waiting = next(self._read(), "")
        stated = re.fullmatch(r"sep=(.)\s*", self._waiting)  # the first line of a spreadsheet's CSV
        if stated:
            self._waiting = next(self._read(), "")
        unquoted = re.sub(r'"[^"]*"', "", self._waiting)
        self.delimiter = stated[1] if stated else max(",;\t", key=unquoted.count)

    def __iter__(self) -> Iterator[str]:
        yield self._waiting
        yield from self._read()

    def _read(self) -> Iterator[str]:
        for line in self._file:
            self.number += 1
            if _NOT_TEXT.search(line):
                msg = "it is not text: it holds bytes such as zero"
                raise csv.Error(msg)
            if line.strip() and not line.lstrip(" ").startswith("#"):
                yield line


def _open(path: Path, what: str) -> IO[str]:
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    if not zipped and path.suffix == ".gz":
        raise _unreadable(path, what, "it is not gzipped, as its name says")
    with gzip.open(path) if zipped else path.open("rb") as file:
        head = file.read(4096)
        if head.startswith(_SPREADSHEETS):
            raise _unreadable(path, what, "it is a spreadsheet")
        encoding = _encoding(head, file)
    if encoding == "cp1252":
        logger.warning("%s %s is not in UTF-8, and read as Latin-1", what, path.name)
    opened: Any = gzip.open if zipped else open
    text: IO[str] = opened(path, "rt", encoding=encoding, newline="", errors="strict")
    return text


def _encoding(head: bytes, rest: Any) -> str:
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if len(head) > 3 and (head[1::2].count(0) > len(head) // 4 or head[0::2].count(0) > len(head) // 4):
        return "utf-16-le" if head[1::2].count(0) > len(head) // 4 else "utf-16-be"  # without a byte-order mark
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    try:
        block = head
        while block:
            decoder.decode(block)
            block = rest.read(_BLOCK)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return "cp1252"  # Latin-1, with the quotation marks of Windows
    return "utf-8-sig"


def _begin(path: Path, what: str) -> tuple[list[str], bool, Iterator[tuple[int, list[str]]]]:
    """Begin a table: return its distinct names of columns, whether rows begin with an unnamed one, and the rows."""
    rows = read_rows(path, what=what)
    _, header = next(rows, (0, []))
    if not header:
        raise _unreadable(path, what, "it is empty")
    first = list(islice(rows, 1))
    has_row_names = bool(first) and len(first[0][1]) == len(header) + 1 and first[0][1][-1] != ""  # as R writes
    seen: dict[str, int] = {}
    names = []
    for name in ["", *header] if has_row_names else header:
        seen[name] = seen.get(name, -1) + 1
        names.append(f"{name}.{seen[name]}" if name and seen[name] else name)
    return names, has_row_names, chain(first, rows)


def _unreadable(path: Path, what: str, reason: str) -> InputError:
    msg = f"{what} {path.name} cannot be read ({reason})."
    return InputError(msg, _REMEDY)


def _plain(name: str) -> str:
    return re.sub(r"[^0-9a-z]", "_", name.casefold())


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _lossless(text: str) -> int | float | None:
    """Return the number that is written like this text of a table, None if there is none."""
    try:
        number: int | float = int(text) if text.lstrip("-").isdigit() else float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and str(number) == text else None
