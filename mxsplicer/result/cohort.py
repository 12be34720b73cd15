"""A cohort: the slides of a study, as a table names them.

One row per slide, in a table as :mod:`mxsplicer.system.tables` reads it::

    slide,path,mask,markers,patient,batch,labels
    S01,slides/S01.ome.tiff,masks/S01.tiff,markers.csv,P1,A,types/S01.csv
    S02,slides/S02.ome.tiff,masks/S02.tiff,markers.csv,P2,A,

``slide`` and ``path`` are needed. Paths are relative to the table. Columns that are not listed here (patient, batch,
age, ...) describe the slides and are copied to ``obs``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from mxsplicer.errors import InputError
from mxsplicer.result.slides import FILE_COLUMNS, SlideRecord, image_files
from mxsplicer.system.tables import find_columns, read_table
from mxsplicer.tl.labels import join_labels, outline_files

_KNOWN = ("slide", *FILE_COLUMNS)  # columns that have a meaning here


def read_cohort(path: str | Path) -> list[SlideRecord]:
    """Return the slides that a table names, in its order.

    Raises
    ------
    InputError
        If the table does not exist, a column is missing, a slide has no file, or two have the same name.
    """
    path = Path(path)
    table = read_table(path, what="table of the cohort")
    known = {name: column for name in _KNOWN for column in find_columns(list(table.columns), [name])}
    table = table.rename(columns={column: name for name, column in known.items()})
    missing = [column for column in ("slide", "path") if column not in table]
    if missing or table.empty:
        found = f"no column {missing[0]!r}" if missing else "no row"
        msg = f"table {path.name} of the cohort has {found}; it needs one row per slide with its name (slide) and path."
        raise InputError(msg)
    _check_rows(table, path.name)
    rows = [dict(zip(map(str, table.columns), row, strict=True)) for row in table.to_numpy()]
    return [SlideRecord.from_row(row, path.parent) for row in rows]


def _check_rows(table: pd.DataFrame, name: str) -> None:
    for column in ("slide", "path"):
        if (empty := table[column] == "").any():
            msg = f"table {name} of the cohort has no {column} in line {table.index[empty][0]}."
            raise InputError(msg)
    if (twice := table["slide"].duplicated()).any():
        msg = f"table {name} names slide {table['slide'][twice].iloc[0]!r} twice."
        raise InputError(msg, "Give one row per slide.")
    unfit = [slide for slide in table["slide"] if Path(slide).name != slide or slide.startswith(".")]
    if unfit:
        msg = f"slide {unfit[0]!r} of table {name} cannot name a folder."
        raise InputError(msg, "Leave out slashes and a leading dot.")


def shared_markers(panels: Sequence[Sequence[str]]) -> list[str]:
    """Return the markers that all panels have, in the order of the first.

    Examples
    --------
    >>> shared_markers([["DAPI", "CD3e", "CD8a"], ["CD8a", "DAPI", "CD20"]])
    ['DAPI', 'CD8a']
    """
    return [marker for marker in panels[0] if all(marker in panel for panel in panels)]


def every_marker(panels: Sequence[Sequence[str]]) -> list[str]:
    """Return the markers of all panels, in order of first appearance.

    Examples
    --------
    >>> every_marker([["DAPI", "CD3e", "CD8a"], ["CD8a", "DAPI", "CD20"]])
    ['DAPI', 'CD3e', 'CD8a', 'CD20']
    """
    return list(dict.fromkeys(marker for panel in panels for marker in panel))


def describe_panels(panels: Sequence[Sequence[str]]) -> str:
    """Return a sentence on which markers all slides share, and which markers only some slides have."""
    shared = shared_markers(panels)
    partly = [
        f"{marker} ({sum(marker in panel for panel in panels)} of {len(panels)} slides)"
        for marker in every_marker(panels)
        if marker not in shared
    ]
    return f"{len(shared)} markers are on all slides ({', '.join(shared)}); only on some are {', '.join(partly)}"


def allocate_cells(total: int, cells: Mapping[str, int]) -> dict[str, int]:
    """Return how many cells to sample from each slide, ``total`` in all: equally many, or all of a small slide.

    Examples
    --------
    >>> allocate_cells(100, {"a": 10, "b": 500, "c": 90})
    {'a': 10, 'b': 45, 'c': 45}
    """
    shares: dict[str, int] = {}
    left = total
    fewest_first = sorted(cells, key=lambda name: cells[name])
    for place, name in enumerate(fewest_first):
        shares[name] = max(1, min(cells[name], left // (len(cells) - place)))
        left -= shares[name]
    return {name: shares[name] for name in cells}


def join_labels_of_slides(adata: AnnData, records: Sequence[SlideRecord], wanted: Sequence[str]) -> list[str]:
    """Join labels of cells to ``adata.obs`` from the table of each slide; cells of slides without one get none.

    Returns
    -------
    The names of the columns in ``obs``.
    """
    slides = adata.obs["slide"].astype(str).to_numpy()
    found: dict[str, np.ndarray] = {}
    for record in records:
        if record.labels is None:
            continue
        here = np.flatnonzero(slides == record.name)
        part = AnnData(obs=adata.obs.iloc[here].copy())
        for name in join_labels(part, record.labels, wanted, images=image_files([record])):
            column = found.setdefault(name, np.full(adata.n_obs, None, dtype=object))
            column[here] = part.obs[name].astype(object).where(part.obs[name].notna(), None)
    for name, column in found.items():
        adata.obs[name] = pd.Categorical(column)
    return list(found)


def find_roi_files(roi: Path, slides: Sequence[str]) -> dict[str, Path]:
    """Return the file of outlines of each slide; raise if a slide lacks one."""
    files = outline_files(roi, list(slides))
    missing = [slide for slide in slides if slide not in files]
    if missing:
        msg = f"folder {roi} has no GeoJSON file for slide {missing[0]!r}; each slide needs one."
        raise InputError(msg, "Name the file after the slide, or leave out `roi`.")
    return files
