"""Labels of cells and slides, joined to an AnnData from tables and from outlines with classes."""

import re
from collections.abc import Sequence
from gzip import BadGzipFile
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd

from mxsplicer.errors import InputError
from mxsplicer.masks.geojson import is_geojson, outlines_at, read_classes

# Names of the columns of cell ids and slides in mcmicro, steinbock, SpatialData, scimap, QuPath and tables by hand.
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

_MAX_CLASSES = 60  # a text column with more values is a name or a comment, not a label
_RESERVED = ("dtype", "_index")  # anndata cannot write columns of obs with these names, and SpatialData rejects them


def read_table(path: str | Path) -> pd.DataFrame:
    """Return a CSV or TSV table, gzipped or not."""
    path = Path(path)
    if not path.is_file():
        msg = f"table {path} was not found."
        raise InputError(msg)
    try:
        return pd.read_csv(path, sep="\t" if ".tsv" in path.name or ".txt" in path.name else ",", low_memory=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, BadGzipFile, EOFError) as error:
        msg = f"table {path.name} cannot be read ({error})."
        raise InputError(msg, "Use a CSV file with a header.") from error


def check_labels(path: str | Path, wanted: Sequence[str], cells: pd.DataFrame) -> None:
    """Raise InputError if a table has no labels for cells, which are given by their ``slide`` and ``cell_id``."""
    table, name = read_table(path), Path(path).name
    _label_columns(table, name, wanted)
    _rows_of_cells(table, name, cells)


def check_samples(path: str | Path, slides: Sequence[str], groups: str | None) -> None:
    """Raise InputError if a table does not describe the slides, or has no column ``groups``."""
    table, name = read_table(path), Path(path).name
    _rows_of_slides(table, name, slides)
    if groups is not None:
        _check_column(table, name, groups)


def obs_name(column: str) -> str:
    """Return the name of a table column in ``obs``: SpatialData allows letters, digits, ``_``, ``-`` and ``.``.

    Examples
    --------
    >>> obs_name("Cell type (manual)")
    'Cell_type__manual_'
    """
    return re.sub(r"[^A-Za-z0-9_.-]", "_", column)


def join_labels(adata: anndata.AnnData, path: str | Path, wanted: Sequence[str]) -> list[str]:
    """Join labels from a table to ``adata.obs``, by the id of the cell and, for several slides, the slide.

    Parameters
    ----------
    path
        Table with one row per cell: its id in the mask (``cell_id``, ``CellID``, ``label``, ...), the name of the slide
        (``slide``, ``fov``, ``image``, ...) for several slides, and the labels.
    wanted
        Columns to join; by default every text column with few values.

    Returns
    -------
    The names of the columns in ``obs``.
    """
    table, name = read_table(path), Path(path).name
    rows = _rows_of_cells(table, name, adata.obs)
    return [_join_column(adata, column, table[column], rows) for column in _label_columns(table, name, wanted)]


def join_outlines(adata: anndata.AnnData, path: str | Path, name: str) -> str:
    """Label cells with the class of the outline (GeoJSON, as QuPath exports annotations) that contains their centroid.

    Where outlines overlap, the smallest counts. Cells outside all outlines have no label.

    Parameters
    ----------
    path
        The file of the slide; for several slides, a folder in which the name of each file begins with the name of its
        slide. Coordinates are pixels of the finest level.
    name
        Name of the label in ``obs``.

    Returns
    -------
    The name of the column in ``obs``.

    Raises
    ------
    InputError
        If no slide has a file, a file is not GeoJSON, or no cell lies in an outline with a class.
    """
    x, y = pixels_of(adata).T
    found = np.full(adata.n_obs, "", dtype=object)
    for here, file in outline_files_by_rows(adata, Path(path)):
        shape_px = (int(y[here].max()) + 2, int(x[here].max()) + 2)
        polygons, classes = read_classes(file, shape_px)
        found[here] = np.array(["", *classes], dtype=object)[outlines_at(polygons, x[here], y[here])]
    if not (found != "").any():
        msg = (
            f"no cell lies in an outline with a class of {Path(path).name}. The cells lie between ({x.min():.0f}, "
            f"{y.min():.0f}) and ({x.max():.0f}, {y.max():.0f}) (x, y)."
        )
        raise InputError(msg, "Export the outlines in pixels of the finest level.")
    column = _free_name(adata, name)
    adata.obs[column] = pd.Categorical([one or None for one in found])
    return column


def outline_files_by_rows(adata: anndata.AnnData, path: Path) -> list[tuple[np.ndarray, Path]]:
    """Return, for each slide that has outlines, its rows and the file that :func:`outline_files` finds."""
    slides = _slide_of(adata.obs)
    files = outline_files(path, _slides(adata.obs))
    return [(np.flatnonzero(slides == slide), file) for slide, file in files.items()]


def outline_files(path: Path, slides: Sequence[str]) -> dict[str, Path]:
    """Return the file of outlines of each slide: ``path`` itself, or the files of a folder, matched by name."""
    if path.is_file() and len(slides) == 1:
        return {slides[0]: path}
    if not path.is_dir():
        if path.is_file():
            msg = f"{path.name} has the outlines of one slide, but there are {len(slides)} slides."
            raise InputError(msg, "Use a folder with a file for each slide.")
        msg = f"file {path} was not found."
        raise InputError(msg)
    files = sorted(file for file in path.iterdir() if is_geojson(file))
    found = {
        slide: [file for file in files if re.match(rf"{re.escape(slide)}(?![A-Za-z0-9])", file.name)]
        for slide in slides
    }
    ambiguous = next((slide for slide, of_slide in found.items() if len(of_slide) > 1), None)
    if ambiguous is not None or not any(found.values()):
        what = f"{len(found[ambiguous])} GeoJSON files" if ambiguous else "no GeoJSON file"
        msg = f"folder {path} has {what} whose name begins with {ambiguous or slides[0]!r}; one per slide is needed."
        raise InputError(msg)
    return {slide: of_slide[0] for slide, of_slide in found.items() if of_slide}


def pixels_of(adata: anndata.AnnData) -> np.ndarray:
    """Return the centroids (N, 2) in pixels, x then y."""
    if {"x_px", "y_px"} <= set(adata.obs.columns):
        return np.asarray(adata.obs[["x_px", "y_px"]], dtype=np.float64)
    pixel_size_um = adata.uns.get("mxsplicer", {}).get("pixel_size_um")
    if pixel_size_um is None or "spatial" not in adata.obsm:
        msg = "the cells have no centroids in pixels (obs x_px and y_px), so they cannot be compared with outlines."
        raise InputError(msg)
    return np.asarray(adata.obsm["spatial"], dtype=np.float64)[:, :2] / float(pixel_size_um)


def join_samples(adata: anndata.AnnData, path: str | Path, *, leave: Sequence[str] = ()) -> list[str]:
    """Join the columns of a table of slides (patient, batch, ...) to ``adata.obs``, and return their names there.

    The table has one row per slide. Columns named in ``leave`` are not joined.
    """
    table, name = read_table(path), Path(path).name
    slides = _slides(adata.obs)
    slide, row_of_slide = _rows_of_slides(table, name, slides)
    rows = row_of_slide[pd.Index(slides).get_indexer(pd.Index(_slide_of(adata.obs)))]
    wanted = [column for column in table.columns if column not in (slide, *leave)]
    return [_join_column(adata, column, table[column], rows) for column in wanted]


def _label_columns(table: pd.DataFrame, name: str, wanted: Sequence[str]) -> list[str]:
    """Return the columns with labels: those wanted, or every text column with few values."""
    for column in wanted:
        _check_column(table, name, column)
    if wanted:
        return list(wanted)
    keys = {_key(table, _CELL), _key(table, _SLIDE)}
    texts = [column for column in table.select_dtypes(exclude="number") if column not in keys]
    found = [str(column) for column in texts if 2 <= table[column].nunique() <= _MAX_CLASSES]
    if not found:
        msg = (
            f"table {name} has no text column with 2 to {_MAX_CLASSES} different values. "
            f"Its columns: {', '.join(table.columns)}."
        )
        raise InputError(msg, "Name the columns of labels with `label`.")
    return found


def _check_column(table: pd.DataFrame, name: str, column: str) -> None:
    if column not in table:
        msg = f"table {name} has no column {column!r}. Its columns: {', '.join(table.columns)}."
        raise InputError(msg)


def _rows_of_cells(table: pd.DataFrame, name: str, cells: pd.DataFrame) -> np.ndarray:
    """Return the row of the table for every cell, -1 if the table lacks the cell."""
    cell, slide = _key(table, _CELL), _key(table, _SLIDE)
    if cell is None:
        msg = f"table {name} has no column of cell ids ({', '.join(_CELL)}). Its columns: {', '.join(table.columns)}."
        raise InputError(msg)
    if "cell_id" not in cells:
        msg = f"the cells have no ids (obs cell_id) to match with table {name}."
        raise InputError(msg, "Add the labels as a column of obs.")
    slides, kept = _slides(cells), np.arange(len(table))
    if len(slides) > 1:
        if slide is None:
            msg = f"table {name} has no column of slides ({', '.join(_SLIDE)}), but there are {len(slides)} slides."
            raise InputError(msg)
        keys = pd.MultiIndex.from_arrays([table[slide].astype(str), table[cell]])
        rows = pd.MultiIndex.from_arrays([_slide_of(cells), cells["cell_id"]])
    else:
        if slide is not None and table[slide].astype(str).isin(slides).any():
            kept = np.flatnonzero(table[slide].astype(str).isin(slides))
        keys, rows = pd.Index(table[cell].iloc[kept]), pd.Index(cells["cell_id"])
    if keys.has_duplicates:
        msg = f"table {name} has cell {keys[keys.duplicated()][0]} twice."
        raise InputError(msg, "Keep one row per cell.")
    places = keys.get_indexer(rows)
    if (places < 0).all():
        msg = (
            f"none of the {len(cells)} cells was found in table {name}: its ids ({cell}) are not those of the mask"
            f"{f', or its slides ({slide}) have other names than {slides[0]}' if len(slides) > 1 else ''}."
        )
        raise InputError(msg)
    return np.where(places < 0, -1, kept[places])


def _rows_of_slides(table: pd.DataFrame, name: str, slides: Sequence[str]) -> tuple[str, np.ndarray]:
    """Return the column with the names of slides, and the row of every slide."""
    slide = _key(table, _SLIDE)
    names = pd.Index([] if slide is None else table[slide].astype(str))
    missing = [one for one in slides if one not in names]
    if slide is None or names.has_duplicates or missing:
        found = "has no such column"
        if slide is not None:
            found = f"lacks {', '.join(missing[:3])}" if missing else f"has {names[names.duplicated()][0]} twice"
        msg = f"table {name} needs one row per slide with its name in a column ({', '.join(_SLIDE)}); it {found}."
        raise InputError(msg)
    return slide, names.get_indexer(pd.Index(slides))


def _slide_of(cells: pd.DataFrame) -> np.ndarray:
    """Return the slide by which labels of each cell are found; "" if the cells are of one slide without a name."""
    return np.asarray(cells["slide"].astype(str) if "slide" in cells else [""] * len(cells), dtype=object)


def _slides(cells: pd.DataFrame) -> list[str]:
    return [str(slide) for slide in pd.unique(_slide_of(cells))]


def _free_name(adata: anndata.AnnData, column: str) -> str:
    name = obs_name(column)
    return f"{name}_given" if name in adata.obs or name in _RESERVED else name  # do not overwrite measurements


def _join_column(adata: anndata.AnnData, column: str, values: "pd.Series[Any]", rows: np.ndarray) -> str:
    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    if not numeric:
        values = values.astype(str).where(values.notna())
    of_cells = values.reset_index(drop=True).reindex(rows).to_numpy()
    joined = pd.Series(of_cells if numeric else pd.Categorical(of_cells), index=adata.obs_names)
    name = obs_name(column)
    if name in adata.obs and _is_same(adata.obs[name], joined):  # joined before, for example by embed
        return name
    name = _free_name(adata, column)
    adata.obs[name] = joined
    return name


def _is_same(a: "pd.Series[Any]", b: "pd.Series[Any]") -> bool:
    return a.astype(object).where(a.notna(), None).equals(b.astype(object).where(b.notna(), None))


def _key(table: pd.DataFrame, names: Sequence[str]) -> str | None:
    columns = {str(column).lower(): str(column) for column in table.columns}
    return next((columns[name] for name in names if name in columns), None)
