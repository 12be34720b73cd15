"""Labels from tables: what is known of cells and of slides, brought to the rows of an AnnData."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd

from mxsplicer.errors import InputError

# What the columns of cell ids and slides are called by mcmicro, steinbock, SpatialData, scimap, QuPath and people.
_CELL = (
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
_SLIDE = ("slide", "fov", "image", "image_name", "imagename", "imageid", "sample", "sample_id", "library_id", "region")


def read_table(path: str | Path) -> pd.DataFrame:
    """Return a CSV or TSV table, gzipped or not."""
    path = Path(path)
    if not path.is_file():
        msg = f"there is no table {path}."
        raise InputError(msg)
    try:
        return pd.read_csv(path, sep="\t" if ".tsv" in path.name or ".txt" in path.name else ",", low_memory=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        msg = f"table {path.name} cannot be read ({error}). Give a CSV file with a header."
        raise InputError(msg) from error


def label_columns(path: str | Path, wanted: Sequence[str]) -> list[str]:
    """Return the columns of a table that hold labels: those wanted, or every column of words with few values."""
    table = read_table(path)
    for column in wanted:
        if column not in table:
            msg = f"table {Path(path).name} has no column {column!r}. Its columns: {', '.join(table.columns)}."
            raise InputError(msg)
    if wanted:
        return list(wanted)
    keys = {_key(table, _CELL), _key(table, _SLIDE)}
    words = [column for column in table.select_dtypes(exclude="number") if column not in keys]
    return [str(column) for column in words if 2 <= table[column].nunique() <= 60]


def join_labels(adata: anndata.AnnData, path: str | Path, wanted: Sequence[str]) -> list[str]:
    """Bring labels of cells into ``adata.obs``, matched by the id of the cell and, where there are several, its slide.

    Parameters
    ----------
    path
        Table with one row per cell: its id in the mask (``cell_id``, ``CellID``, ``label``, ...), the slide's name
        (``slide``, ``fov``, ``image``, ...) where there are several slides, and the labels.
    wanted
        Columns to take; every column of words where empty.

    Returns
    -------
    The names of the columns in ``obs``.
    """
    table, name = read_table(path), Path(path).name
    columns = label_columns(path, wanted)
    cell, slide = _key(table, _CELL), _key(table, _SLIDE)
    if cell is None:
        msg = f"table {name} has no column of cell ids ({', '.join(_CELL)}). Its columns: {', '.join(table.columns)}."
        raise InputError(msg)
    slides = list(adata.obs["slide"].cat.categories)
    if len(slides) > 1:
        if slide is None:
            msg = f"table {name} has no column that tells the slide ({', '.join(_SLIDE)}), and there are {len(slides)}."
            raise InputError(msg)
        keys = pd.MultiIndex.from_arrays([table[slide].astype(str), table[cell]])
        rows = pd.MultiIndex.from_arrays([adata.obs["slide"].astype(str), adata.obs["cell_id"]])
    else:
        if slide is not None and table[slide].astype(str).isin(slides).any():
            table = table[table[slide].astype(str).isin(slides)]
        keys, rows = pd.Index(table[cell]), pd.Index(adata.obs["cell_id"])
    if keys.has_duplicates:
        msg = f"table {name} tells of cell {keys[keys.duplicated()][0]} twice. Give one row per cell."
        raise InputError(msg)
    places = keys.get_indexer(rows)
    if (places < 0).all():
        msg = (
            f"none of the {adata.n_obs} cells is in table {name}: its ids ({cell}) are not those of the mask"
            f"{f', or its slides ({slide}) are not called {slides[0]}' if len(slides) > 1 else ''}."
        )
        raise InputError(msg)
    return [_bring(adata, column, table[column], places) for column in columns]


def join_samples(adata: anndata.AnnData, path: str | Path) -> list[str]:
    """Bring what is known of slides (patient, batch, ...) into ``adata.obs``; one row of the table per slide."""
    table, name = read_table(path), Path(path).name
    slide = _key(table, _SLIDE)
    slides = list(adata.obs["slide"].cat.categories)
    if slide is None or table[slide].duplicated().any() or not set(slides) <= set(table[slide].astype(str)):
        missing = [] if slide is None else [one for one in slides if one not in set(table[slide].astype(str))]
        found = f"lacks {', '.join(missing[:3])}" if missing else "has no such column, or names a slide twice"
        msg = f"table {name} needs one row per slide with its name in a column ({', '.join(_SLIDE)}); it {found}."
        raise InputError(msg)
    places = pd.Index(table[slide].astype(str)).get_indexer(pd.Index(adata.obs["slide"].astype(str)))
    return [_bring(adata, column, table[column], places) for column in table.columns if column != slide]


def _bring(adata: anndata.AnnData, column: str, values: "pd.Series[Any]", places: np.ndarray) -> str:
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", column)  # SpatialData's rule for names in obs
    taken = values.reset_index(drop=True).reindex(places).to_numpy()
    adata.obs[name] = taken if pd.api.types.is_numeric_dtype(values) else pd.Categorical(taken)
    return name


def _key(table: pd.DataFrame, names: Sequence[str]) -> str | None:
    columns = {str(column).lower(): str(column) for column in table.columns}
    return next((columns[name] for name in names if name in columns), None)
