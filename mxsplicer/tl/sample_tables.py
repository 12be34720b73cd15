"""Tables of slides (samples): patient, batch and more, joined to the cells of an AnnData."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import anndata
import numpy as np
import pandas as pd

from mxsplicer.errors import InputError
from mxsplicer.system.tables import as_values, find_columns, read_table
from mxsplicer.tl.labels import find_label_column, join_label_column
from mxsplicer.tl.matching import SLIDE_COLUMNS, Slides, slides_of

_KNOWN = ("patient", "batch")  # columns about slides that have a meaning here, so their capitals do not matter


def check_samples(
    path: str | Path, slides: Sequence[str], groups: str | None, images: Mapping[str, str | Path] | None = None
) -> None:
    """Raise InputError if a sample table does not describe the slides, or has no column ``groups``.

    The table names each slide, or its image file in ``images``.
    """
    table, name = read_table(path), Path(path).name
    _rows_of_slides(table, name, slides, images)
    if groups is not None:
        find_label_column(list(table.columns), name, groups)


def join_samples(
    adata: anndata.AnnData,
    path: str | Path,
    *,
    leave: Sequence[str] = (),
    images: Mapping[str, str | Path] | None = None,
) -> list[str]:
    """Join the columns of a sample table (patient, batch, ...) to ``adata.obs``, and return their names there.

    The table has one row per slide, and names it or its image file in ``images``. Columns named in ``leave`` are not
    joined.
    """
    table, name = read_table(path), Path(path).name
    slides = pd.Index(pd.unique(slides_of(adata.obs)))
    slide, row_of_slide = _rows_of_slides(table, name, list(map(str, slides)), images)
    rows = row_of_slide[slides.get_indexer(pd.Index(slides_of(adata.obs)))]
    columns = list(table.columns)
    known = {column: name for name in _KNOWN for column in find_columns(columns, [name])}
    left = {slide, "", *find_columns(columns, leave)}
    return [
        join_label_column(adata, known.get(column, column), as_values(table[column].to_numpy()), rows)
        for column in columns
        if column not in left
    ]


def _rows_of_slides(
    table: pd.DataFrame, name: str, slides: Sequence[str], images: Mapping[str, str | Path] | None
) -> tuple[str, np.ndarray]:
    """Return the column of a sample table with the names of slides, and the row of every slide."""
    wanted = Slides(tuple(slides), images or {})
    found = {
        column: wanted.find(table[column].to_numpy()) for column in find_columns(list(table.columns), SLIDE_COLUMNS)
    }
    column = next((column for column, codes in found.items() if (codes >= 0).any()), next(iter(found), None))
    problem = "has no such column"
    if column is not None:
        n_rows = np.bincount(found[column][found[column] >= 0], minlength=len(slides))
        if (n_rows == 1).all():
            return column, np.argsort(np.where(found[column] < 0, len(slides), found[column]))[: len(slides)]
        missing = [slide for slide, n in zip(slides, n_rows, strict=True) if not n]
        problem = f"lacks {', '.join(missing[:3])}" if missing else f"has {slides[int(n_rows.argmax())]} twice"
    msg = f"table {name} needs one row per slide with its name in a column ({', '.join(SLIDE_COLUMNS)}); it {problem}."
    raise InputError(msg)
