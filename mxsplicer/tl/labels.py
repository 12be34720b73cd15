"""Labels of cells, joined to an AnnData from tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd

from mxsplicer.errors import InputError
from mxsplicer.system.tables import as_values, count_values, find_columns, read_header, read_table
from mxsplicer.tl.matching import CELL_COLUMNS, KEY_COLUMNS, SLIDE_COLUMNS, match_cells

_MAX_CLASSES = 60  # a text column with more values is a name or a comment, not a label
_RESERVED = ("dtype", "_index")  # anndata cannot write columns of obs with these names, and SpatialData rejects them


def check_labels(
    path: str | Path,
    wanted: Sequence[str],
    cells: pd.DataFrame,
    images: Mapping[str, str | Path] | None = None,
) -> None:
    """Raise InputError if a table has no labels for cells; cells and images are as for :func:`match_cells`."""
    table, _ = _read_labels(path, wanted)
    match_cells(table, Path(path).name, cells, images)


def obs_name(column: str) -> str:
    """Return the name of a column of labels in ``obs``: SpatialData allows letters of any script, digits and ``_-.``.

    Examples
    --------
    >>> obs_name("Cell type (manual)")
    'Cell_type__manual_'
    """
    return "".join(one if one.isalnum() or one in "_-." else "_" for one in column)


def join_labels(
    adata: anndata.AnnData,
    path: str | Path,
    wanted: Sequence[str],
    *,
    images: Mapping[str, str | Path] | None = None,
) -> list[str]:
    """Join labels from a table to ``adata.obs``, by the id of the cell and the slide.

    Parameters
    ----------
    path
        Table with one row per cell: its id in the mask (``cell_id``, ``CellID``, ``label``, ...) or its name in
        ``obs_names``; for several slides the name of the slide or of its image file (``slide``, ``fov``, ``image``,
        ...); and the labels. Centroids, if the table has them, are compared with those of the cells.
    wanted
        Columns to join; by default every text column with few values.
    images
        Image file of each slide, if it has another name than the slide.

    Returns
    -------
    The names of the columns in ``obs``.
    """
    table, labels = _read_labels(path, wanted)
    rows = match_cells(table, Path(path).name, adata.obs, images)
    return [join_label_column(adata, column, as_values(table[column].to_numpy()), rows) for column in labels]


def _read_labels(path: str | Path, wanted: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """Return the columns of a table by which cells are matched and those with labels, and the names of the latter."""
    header, name = read_header(path), Path(path).name
    keys = find_columns(header, KEY_COLUMNS)
    labels = [find_label_column(header, name, column) for column in wanted]
    if not wanted:
        no_labels = {*find_columns(header, CELL_COLUMNS)[:1], *find_columns(header, SLIDE_COLUMNS)[:1]}
        few = count_values(path, _MAX_CLASSES)
        labels = [column for column, n_values in few.items() if n_values > 1 and column not in no_labels]
    if not labels:
        msg = (
            f"table {name} has no text column with 2 to {_MAX_CLASSES} different values. "
            f"Its columns: {', '.join(header)}."
        )
        raise InputError(msg, "Name the columns of labels with `label`.")
    return read_table(path, columns={*keys, *labels}), labels


def find_label_column(header: Sequence[str], name: str, column: str) -> str:
    """Return the column of a table of labels with this name, whatever its capitals, or raise InputError."""
    found = find_columns(header, [column])
    if not found:
        msg = f"table {name} has no column {column!r}. Its columns: {', '.join(header)}."
        raise InputError(msg)
    return found[0]


def free_name(adata: anndata.AnnData, column: str) -> str:
    """Return the name in ``obs`` for a column of labels; it does not overwrite measurements."""
    name = obs_name(column)
    return f"{name}_given" if name in adata.obs or name in _RESERVED else name  # do not overwrite measurements


def join_label_column(adata: anndata.AnnData, column: str, values: np.ndarray, rows: np.ndarray) -> str:
    """Join values of a label, text or numbers, to the cells that have a row."""
    of_cells = pd.Series(values).reindex(rows).to_numpy()
    joined = pd.Series(pd.Categorical(of_cells) if values.dtype == object else of_cells, index=adata.obs_names)
    name = obs_name(column)
    if name in adata.obs and _is_same(adata.obs[name], joined):  # joined before, for example by embed
        return name
    name = free_name(adata, column)
    adata.obs[name] = joined
    return name


def _is_same(a: "pd.Series[Any]", b: "pd.Series[Any]") -> bool:
    return a.astype(object).where(a.notna(), None).equals(b.astype(object).where(b.notna(), None))
