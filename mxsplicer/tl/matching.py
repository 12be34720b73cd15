"""Match rows of a table with cells: by slide, by the id in the mask or the name of the cell; places are compared.

A table that says of which slide a cell is never labels a cell of another slide.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import numpy as np
import numpy.typing as npt
import pandas as pd

from mxsplicer.errors import InputError
from mxsplicer.images.opening import slide_name
from mxsplicer.system.tables import MISSING, find_columns

logger = logging.getLogger(__name__)

# Names of columns in mcmicro, steinbock, SpatialData, scimap, QuPath and tables by hand.
CELL_COLUMNS = (
    "cell_id",
    "cellid",
    "instance_id",
    "label",
    "object",
    "object_id",
    "objectnumber",
    "cellnumber",
    "cell_number",
)
SLIDE_COLUMNS = (
    "slide",
    "fov",
    "image",
    "image_name",
    "imagename",
    "imageid",
    "sample",
    "sample_id",
    "library_id",
    "slide_id",
    "slide_name",
    "image_id",
    "image_file",
    "filename",
    "file_name",
    "sample_name",
    "region",
    "roi",
    "core",
    "core_id",
    "tma_core",
)
NAME_COLUMNS = ("obs_names", "name", "cell", "index", "")  # where the program's own names, such as S1_48, may stand
_PLACE_COLUMNS = (  # x, y
    ("x_centroid", "y_centroid"),
    ("x_px", "y_px"),
    ("x_um", "y_um"),
    ("centroid_x_µm", "centroid_y_µm"),
    ("centroid_x_px", "centroid_y_px"),
    ("centroid_1", "centroid_0"),  # of scikit-image, in steinbock and Mesmer: y first
    ("centroid_x", "centroid_y"),
    ("center_x", "center_y"),
    ("x", "y"),
)
KEY_COLUMNS = (*CELL_COLUMNS, *SLIDE_COLUMNS, *NAME_COLUMNS, *(name for pair in _PLACE_COLUMNS for name in pair))

_MAYBE_TISSUE = ("region", "roi", "core", "core_id", "tma_core")  # also a part of one slide
_NAMED = re.compile(r"(.+)_(\d+)")  # <slide>_<cell id>
_WHOLE = r"\d+(\.0+)?"
_MIN_PLACES, _MIN_CORRELATION = 10, 0.9
_MAX_LISTED, _LONG = 5, 80


def match_cells(
    table: pd.DataFrame, name: str, cells: pd.DataFrame, images: Mapping[str, str | Path] | None = None
) -> np.ndarray:
    """Return the row of a table that matches every cell, -1 if the table lacks the cell.

    Parameters
    ----------
    table
        As :func:`~mxsplicer.system.tables.read_table` returns it.
    name
        Name of its file, for messages.
    cells
        ``cell_id``; ``slide`` if there are several; ``object_id`` if the cells have ids of another program, too; and
        ``x_px`` and ``y_px``, which are compared with the places in the table. The index may have the cells' names.
    images
        Image file of each slide, by which the table may name the slide.

    Raises
    ------
    InputError
        If the table has no ids, is about other slides, has a cell twice, none of the cells, or other places for them.
    """
    slide_of_cell = slides_of(cells)
    slides = Slides(tuple(map(str, pd.unique(slide_of_cell))), images or {})
    slide_column, slide_of_row = _slides_of_rows(table, name, slides)
    codes = pd.Index(slides.names).get_indexer(pd.Index(slide_of_cell))
    found = next(
        (
            found
            for match in (_by_object_id, _by_id, _by_name, _by_index)
            if (found := match(table, cells, codes, slides, slide_of_row)) is not None
        ),
        None,
    )
    if found is None:
        raise _unmatched(table, name, cells, slides, slide_column)
    column, keys_of_rows, keys_of_cells = found
    is_here = np.flatnonzero(keys_of_rows >= 0)
    keys = pd.Index(keys_of_rows[is_here])
    if keys.has_duplicates:
        twice = table.iloc[is_here[keys.duplicated()][0]]
        of_slide = f" of {twice[slide_column]}" if slide_column else ""
        msg = f"table {name} has cell {twice[column]}{of_slide} twice."
        raise InputError(msg, "Keep one row per cell" + ("." if slide_column else ", or add a column of slides."))
    places = keys.get_indexer(pd.Index(keys_of_cells))
    if (places < 0).all():
        msg = f"none of the {len(cells)} cells was found in table {name}: its ids ({column}) are not those of the mask."
        raise InputError(msg)
    rows = np.where(places < 0, -1, is_here[places])
    _check_places(table, name, cells, rows, slide_of_cell)
    _log(name, rows, len(is_here), slide_of_cell)
    return rows


def slides_of(cells: pd.DataFrame) -> np.ndarray:
    """Return the slide of each cell to match; "" if the cells are of one slide without a name."""
    return np.asarray(cells["slide"].astype(str) if "slide" in cells else [""] * len(cells), dtype=object)


@dataclass(frozen=True, eq=False)
class Slides:
    """Slides that rows of a table match: by their names, and by the names of their image files if these are known."""

    names: tuple[str, ...]
    images: Mapping[str, str | Path]

    def find(self, texts: np.ndarray) -> np.ndarray:
        """Return the number of the slide that each text names, -1 for another slide.

        A slide is also known by its image file, with or without folder, endings and QuPath's name of the series.
        """
        of_images = [_spellings(str(self.images[name])) if name in self.images else [] for name in self.names]
        levels = [[[name] for name in self.names], of_images]
        code_of = {text: self._find_one(text, levels) for text in pd.unique(texts)}
        return np.array([code_of[text] for text in texts], dtype=np.int64)

    def _find_one(self, text: str, levels: Sequence[Sequence[Sequence[str]]]) -> int:
        for fold in (str, str.casefold):
            for spelling in _spellings(fold(text)):
                for level in levels:
                    found = [code for code, names in enumerate(level) if spelling in map(fold, names)]
                    if len(found) > 1:
                        both = " or ".join(repr(self.names[code]) for code in found[:2])
                        msg = f"{text!r} in the table may be slide {both}."
                        raise InputError(msg, "Write the names of the slides into the table.")
                    if found:
                        return found[0]
        return -1


def _spellings(text: str) -> list[str]:
    """Return what a slide may be called in a row that matches: itself, a file, without endings, QuPath's names."""
    file = PureWindowsPath(text).name  # whose separators are / and \\
    before_series = file.split(" - ")[0]
    series = [slide_name(before_series)] if slide_name(before_series) != before_series else []
    return list(dict.fromkeys([text, file, slide_name(file), *series]))


def _slides_of_rows(table: pd.DataFrame, name: str, slides: Slides) -> tuple[str | None, np.ndarray | None]:
    """Return the column that names slides and each row's slide, to match; None if the table has no such column."""
    columns = [one for one in find_columns(list(table.columns), SLIDE_COLUMNS) if (table[one] != "").any()]
    if slides.names == ("",):
        return None, None
    for column in columns:
        codes = slides.find(table[column].to_numpy())
        if (codes >= 0).any():
            return column, codes
    if len(slides.names) == 1:
        columns = [column for column in columns if column not in find_columns(columns, _MAYBE_TISSUE)]
    if not columns:
        return None, None
    others = [repr(one) for one in pd.unique(table[columns[0]]) if one]
    msg = (
        f"table {name} has cells of {_listed(others)} (column {columns[0]}), and none of "
        f"{_listed([repr(one) for one in slides.names])}."
    )
    raise InputError(msg, "Give the table of this slide, or name slides in the table as they are named here.")


_Found = tuple[str, np.ndarray, np.ndarray]  # column of the table; a key per row, -1 for none; a key per cell


def _by_object_id(
    table: pd.DataFrame, cells: pd.DataFrame, _codes: np.ndarray, _slides: Slides, slide_of_row: np.ndarray | None
) -> _Found | None:
    columns = find_columns(list(table.columns), ["object_id"])
    if not columns or "object_id" not in cells:
        return None
    ids = pd.Index(cells["object_id"].astype(str))
    keys = pd.Index(ids.unique()).get_indexer(pd.Index(table[columns[0]]))
    if not (keys >= 0).any():
        return None
    return columns[0], _of_these(keys, slide_of_row), pd.Index(ids.unique()).get_indexer(ids)


def _by_id(
    table: pd.DataFrame, cells: pd.DataFrame, codes: np.ndarray, slides: Slides, slide_of_row: np.ndarray | None
) -> _Found | None:
    if "cell_id" not in cells or (slide_of_row is None and len(slides.names) > 1):
        return None
    of_row = np.zeros(len(table), dtype=np.int64) if slide_of_row is None else slide_of_row
    for column in find_columns(list(table.columns), CELL_COLUMNS):
        texts = table[column].where(~table[column].isin(MISSING), "")
        given = (texts != "").to_numpy()
        if given.any() and texts[given].str.fullmatch(_WHOLE).all():
            ids = texts.where(given, "0").str.split(".").str[0].astype("int64").to_numpy()
            return column, np.where(given, _key(of_row, ids), -1), _key(codes, cells["cell_id"])
    return None


def _by_name(
    table: pd.DataFrame, cells: pd.DataFrame, codes: np.ndarray, slides: Slides, slide_of_row: np.ndarray | None
) -> _Found | None:
    """Match names that the program gave to cells: ``<slide>_<cell id>``."""
    if "cell_id" not in cells:
        return None
    for column in find_columns(list(table.columns), (*NAME_COLUMNS, *CELL_COLUMNS)):
        parts = table[column].str.extract(_NAMED)
        of_row = slides.find(parts[0].fillna("").to_numpy(dtype=object))
        if slide_of_row is not None:
            of_row = np.where(of_row == slide_of_row, of_row, -1)
        if (of_row >= 0).any():
            ids = parts[1].where(of_row >= 0, "0").astype("int64").to_numpy()
            return column, _key(of_row, ids), _key(codes, cells["cell_id"])
    return None


def _by_index(
    table: pd.DataFrame, cells: pd.DataFrame, _codes: np.ndarray, _slides: Slides, slide_of_row: np.ndarray | None
) -> _Found | None:
    """Match the names of cells of another program, as they are."""
    if pd.api.types.is_numeric_dtype(cells.index) or not cells.index.is_unique:
        return None
    names = pd.Index(cells.index.astype(str))
    for column in find_columns(list(table.columns), (*NAME_COLUMNS, *CELL_COLUMNS)):
        keys = _of_these(names.get_indexer(pd.Index(table[column])), slide_of_row)
        if (keys >= 0).any():
            if "cell_id" not in cells:
                logger.info("obs has no cell_id, so cells are matched by their names in the index, %r", names[0])
            return column, keys, np.arange(len(names))
    return None


def _of_these(keys: np.ndarray, slide_of_row: np.ndarray | None) -> np.ndarray:
    return keys if slide_of_row is None else np.where(slide_of_row >= 0, keys, -1)


def _key(codes: np.ndarray, ids: npt.ArrayLike) -> np.ndarray:
    """Return one number per slide and id to match cells by, negative without a slide."""
    return (np.asarray(codes, dtype=np.int64) << 40) + np.asarray(ids, dtype=np.int64)


def _unmatched(
    table: pd.DataFrame, name: str, cells: pd.DataFrame, slides: Slides, slide_column: str | None
) -> InputError:
    header = list(table.columns)
    columns = find_columns(header, (*CELL_COLUMNS, *NAME_COLUMNS))
    if not find_columns(header, CELL_COLUMNS) and not any(table[one].str.fullmatch(_NAMED).any() for one in columns):
        msg = f"table {name} has no column of cell ids ({', '.join(CELL_COLUMNS)}). Its columns: {', '.join(header)}."
        return InputError(msg)
    if "cell_id" not in cells:
        msg = f"the cells have no ids (obs cell_id) to match with table {name}, and other names than its {columns[0]}."
        return InputError(msg, "Add the labels as a column of obs.")
    if slide_column is None and len(slides.names) > 1:
        n_slides = len(slides.names)
        msg = f"table {name} has no column of slides ({', '.join(SLIDE_COLUMNS)}), but there are {n_slides} slides."
        return InputError(msg)
    first = next((one for one in table[columns[0]] if one), "")
    msg = (
        f"none of the {len(cells)} cells was found in table {name}: its ids ({columns[0]}, for example {first!r}) are "
        f"neither whole numbers, as in the mask, nor names such as {slides.names[0]}_1."
    )
    return InputError(msg)


def _check_places(
    table: pd.DataFrame, name: str, cells: pd.DataFrame, rows: np.ndarray, slide_of_cell: np.ndarray
) -> None:
    """Raise if cells lie elsewhere than the rows that match them; shift, scale and the order of axes may differ."""
    header = list(table.columns)
    pairs = [found for pair in _PLACE_COLUMNS if len(found := find_columns(header, pair)) == 2]
    if not pairs or not {"x_px", "y_px"} <= set(cells.columns):
        return
    given = np.column_stack(
        [pd.to_numeric(table[one].str.replace(",", "."), errors="coerce").to_numpy(np.float64) for one in pairs[0]]
    )
    measured = cells[["x_px", "y_px"]].to_numpy(np.float64)
    for slide in pd.unique(slide_of_cell):
        here = np.flatnonzero((slide_of_cell == slide) & (rows >= 0))
        here = here[np.isfinite(given[rows[here]]).all(axis=1)]
        theirs, ours = given[rows[here]], measured[here]
        if len(here) < _MIN_PLACES or not (np.ptp(theirs, axis=0).all() and np.ptp(ours, axis=0).all()):
            continue
        correlation = np.abs(np.corrcoef(theirs.T, ours.T)[:2, 2:])  # (theirs, ours)
        agreement = max(np.diagonal(correlation).min(), np.diagonal(correlation[::-1]).min())
        if agreement < _MIN_CORRELATION:
            msg = (
                f"table {name} has cells with the ids of slide {slide!r} at other places ({', '.join(pairs[0])}; "
                f"correlation {agreement:.2f}), so it is about another slide or another mask."
            )
            raise InputError(msg, "Give the table of this mask, or leave out these columns if they are not places.")


def _log(name: str, rows: np.ndarray, n_rows: int, slide_of_cell: np.ndarray) -> None:
    n_found = int((rows >= 0).sum())
    log = logger.warning if n_found < min(len(rows), n_rows) / 2 else logger.info
    log("table %s: %d of %d cells have a row, of %d rows about their slides", name, n_found, len(rows), n_rows)
    lacking = [slide for slide in pd.unique(slide_of_cell) if (rows[slide_of_cell == slide] < 0).all()]
    if lacking:
        logger.warning("table %s has no cell of slide %s", name, _listed(list(map(str, lacking))))


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(name if len(name) <= _LONG else f"{name[:_LONG]}..." for name in names[:_MAX_LISTED]) + more
