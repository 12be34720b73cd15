"""Labels of cells and slides, joined to an AnnData from tables and from outlines with classes."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd

from mxsplicer.errors import InputError
from mxsplicer.masks.geojson import is_geojson, outlines_at, read_classes
from mxsplicer.system.tables import as_values, count_values, find_columns, read_header, read_table
from mxsplicer.tl.matching import CELL_COLUMNS, KEY_COLUMNS, SLIDE_COLUMNS, Slides, match_cells, slides_of

_MAX_CLASSES = 60  # a text column with more values is a name or a comment, not a label
_RESERVED = ("dtype", "_index")  # anndata cannot write columns of obs with these names, and SpatialData rejects them
_KNOWN = ("patient", "batch")  # columns about slides that have a meaning here, so their capitals do not matter


def check_labels(
    path: str | Path,
    wanted: Sequence[str],
    cells: pd.DataFrame,
    images: Mapping[str, str | Path] | None = None,
) -> None:
    """Raise InputError if a table has no labels for cells; cells and images are as for :func:`match_cells`."""
    table, _ = _read_labels(path, wanted)
    match_cells(table, Path(path).name, cells, images)


def check_samples(path: str | Path, slides: Sequence[str], groups: str | None) -> None:
    """Raise InputError if a table does not describe the slides, or has no column ``groups``."""
    table, name = read_table(path), Path(path).name
    _rows_of_slides(table, name, slides)
    if groups is not None:
        _find_column(list(table.columns), name, groups)


def obs_name(column: str) -> str:
    """Return the name of a table column in ``obs``: SpatialData allows letters, digits, ``_``, ``-`` and ``.``.

    Examples
    --------
    >>> obs_name("Cell type (manual)")
    'Cell_type__manual_'
    """
    return re.sub(r"[^A-Za-z0-9_.-]", "_", column)


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
    return [_join_column(adata, column, as_values(table[column].to_numpy()), rows) for column in labels]


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
    slides = slides_of(adata.obs)
    files = outline_files(path, [str(slide) for slide in pd.unique(slides)])
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
    slides = pd.Index(pd.unique(slides_of(adata.obs)))
    slide, row_of_slide = _rows_of_slides(table, name, list(map(str, slides)))
    rows = row_of_slide[slides.get_indexer(pd.Index(slides_of(adata.obs)))]
    columns = list(table.columns)
    known = {column: name for name in _KNOWN for column in find_columns(columns, [name])}
    left = {slide, "", *find_columns(columns, leave)}
    return [
        _join_column(adata, known.get(column, column), as_values(table[column].to_numpy()), rows)
        for column in columns
        if column not in left
    ]


def _read_labels(path: str | Path, wanted: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """Return the columns of a table by which cells are matched and those with labels, and the names of the latter."""
    header, name = read_header(path), Path(path).name
    keys = find_columns(header, KEY_COLUMNS)
    labels = [_find_column(header, name, column) for column in wanted]
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


def _find_column(header: Sequence[str], name: str, column: str) -> str:
    found = find_columns(header, [column])
    if not found:
        msg = f"table {name} has no column {column!r}. Its columns: {', '.join(header)}."
        raise InputError(msg)
    return found[0]


def _rows_of_slides(table: pd.DataFrame, name: str, slides: Sequence[str]) -> tuple[str, np.ndarray]:
    """Return the column with the names of slides, and the row of every slide."""
    wanted = Slides(tuple(slides), {})
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


def _free_name(adata: anndata.AnnData, column: str) -> str:
    name = obs_name(column)
    return f"{name}_given" if name in adata.obs or name in _RESERVED else name  # do not overwrite measurements


def _join_column(adata: anndata.AnnData, column: str, values: np.ndarray, rows: np.ndarray) -> str:
    """Join values, text or numbers, to the cells that have a row."""
    of_cells = pd.Series(values).reindex(rows).to_numpy()
    joined = pd.Series(pd.Categorical(of_cells) if values.dtype == object else of_cells, index=adata.obs_names)
    name = obs_name(column)
    if name in adata.obs and _is_same(adata.obs[name], joined):  # joined before, for example by embed
        return name
    name = _free_name(adata, column)
    adata.obs[name] = joined
    return name


def _is_same(a: "pd.Series[Any]", b: "pd.Series[Any]") -> bool:
    return a.astype(object).where(a.notna(), None).equals(b.astype(object).where(b.notna(), None))
