"""Join the cells of a table with a label image by id, and check that they belong together.

Ids are read from a column of ``obs``, or from the names of the cells, as squidpy writes them.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from mxsplicer import InputError, LazyImage
from napari_mxsplicer.painting import RowNumbers

if TYPE_CHECKING:
    from napari_mxsplicer.study import Study

ID_COLUMNS = ("cell_id", "CellID", "label", "cell", "instance_id", "object_id", "ObjectNumber")
_PATTERNS = (r"^(\d{1,10})$", r"^.*\D(\d{1,10})$", r"^(\d{1,10})\D.*$")  # "12", "slide_12", "12-0"
_STRIP_PX = 1024  # rows of a label image that are read at once
_TESTED = 64  # cells whose positions are compared with a label image
_FEW, _MOST = 0.2, 0.5  # share of these that lie inside their own cell


class CellIds(NamedTuple):
    """The ids to join cells by, and where they are."""

    ids: np.ndarray  # (N,) int64
    column: str  # of obs; "" for the names of the cells
    pattern: str  # the regular expression that extracts the number from a text; "" if the column has numbers


def find_ids(study: "Study", first: str | None = None) -> CellIds:
    """Find the ids of cells to join them by: in the column ``first``, another known column, or the names of the cells.

    Raises
    ------
    InputError
        If none of these has a number for each cell that is unique on its slide.
    """
    slides = study.slides.codes
    columns = [str(name) for name in (first, *ID_COLUMNS) if name in study.obs_names]
    for column in dict.fromkeys(columns):
        found = _as_ids(study.column(column), slides)
        if found is not None:
            return CellIds(found[0], column, found[1])
    names = study.cell_names
    found = _as_ids(names, slides)
    if found is None or (found[0] == 0).any():
        of_names = "are row numbers from 0" if found else f"have no number that is unique, such as {names[0]!r}"
        of_obs = f"its columns {', '.join(columns)} have no numbers" if columns else "obs has no column of them"
        msg = (
            f"{study.cells.name} has no cell ids to join its cells with a label image: {of_obs}, and the names of its "
            f"cells {of_names}."
        )
        raise InputError(msg, f"Add the labels of its cells as obs[{ID_COLUMNS[0]!r}].")
    return CellIds(found[0], "", found[1])


def _as_ids(values: Any, slides: np.ndarray) -> tuple[np.ndarray, str] | None:
    """Return ids to join by (N,) and the pattern that extracts them from text; None if they are not unique numbers."""
    values = np.asarray(values)
    if values.dtype.kind in "iu":
        return values.astype(np.int64), ""
    if values.dtype.kind == "f":
        whole = np.isfinite(values).all() and (values == np.round(values)).all()
        return (values.astype(np.int64), "") if whole else None
    texts = pd.Series(values).astype(str)
    for pattern in _PATTERNS:
        numbers = texts.str.extract(pattern, expand=False)
        if numbers.notna().all():
            ids = numbers.to_numpy().astype(np.int64)
            if not pd.DataFrame({"slide": slides, "id": ids}).duplicated().any():
                return ids, pattern
    return None


def check_ids(
    study: "Study", rows: np.ndarray, labels: Sequence[LazyImage], numbers: Sequence[RowNumbers], image: str
) -> None:
    """Raise if no id of the cells to join occurs in a label image, given as levels, the finest first.

    ``image`` is what the error calls the label image.
    """
    coarsest = np.asarray(numbers[-1][:, :])
    if coarsest.any():
        return
    if len(numbers) > 1:  # a coarse level may miss all cells
        height = numbers[0].shape[0]
        strips = (numbers[0].read((slice(top, top + _STRIP_PX), slice(None))) for top in range(0, height, _STRIP_PX))
        if any(strip.any() for strip in strips):
            return
    ids, found = study.cell_ids[rows], np.asarray(labels[-1][:, :])
    has = f"labels {found[found > 0].min()} to {found.max()}" if found.any() else "no labels"
    msg = (
        f"none of the {len(rows):,} cell ids of {study.name} ({ids.min()} to {ids.max()}) occurs in {image}, which has "
        f"{has}."
        if len(rows)
        else f"{study.name} has no cells of this slide."
    )
    raise InputError(msg, "Choose the label image of these cells.")


def check_positions(study: "Study", rows: np.ndarray, numbers: RowNumbers, image: str) -> str:
    """Compare the positions of joined cells with the label image, and return a note for the user if they differ.

    Without positions in pixels, ``obsm["spatial"]`` is taken if it lies inside the cells.

    Raises
    ------
    InputError
        If they differ and the ids were read from names of cells, which may be numbers of something else.
    """
    some = np.random.default_rng(0).permutation(len(rows))[:_TESTED]
    if study.xy_px is None:
        if study.spatial_um is not None and _share_inside(study.spatial_um[rows[some]], some, numbers) > _MOST:
            study.xy_px = study.spatial_um
        return ""
    if not len(some) or _share_inside(study.xy_px[rows[some]], some, numbers) > _FEW:
        return ""
    msg = f"the cells of {study.name} do not lie where {image} has their ids"
    if not study.id_column:
        msg += ", so the numbers in the names of its cells are not their labels."
        raise InputError(msg, f"Add the labels of its cells as obs[{ID_COLUMNS[0]!r}].")
    study.xy_px = None  # rings and outlines would be around other cells
    return f"{msg[:1].upper()}{msg[1:]}: check that both belong together. No cell is outlined or cut out."


def _share_inside(xy: np.ndarray, expected: np.ndarray, numbers: RowNumbers) -> float:
    """Return the share of joined cells whose position (n, 2), in pixels, lies inside their own cell."""
    if not np.isfinite(xy).all():
        return 0.0
    return float(np.mean([numbers.row_at(y, x) == row for (x, y), row in zip(xy, expected.tolist(), strict=True)]))
