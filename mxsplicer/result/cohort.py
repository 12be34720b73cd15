"""A cohort: the slides of a study, as a table names them, and what becomes of each.

One row per slide, in a CSV or TSV file::

    slide,path,mask,markers,patient,batch,labels
    S01,slides/S01.ome.tiff,masks/S01.tiff,markers.csv,P1,A,types/S01.csv
    S02,slides/S02.ome.tiff,masks/S02.tiff,markers.csv,P2,A,

``slide`` and ``path`` are needed. Paths are relative to the table. Columns that are not listed here (patient, batch,
age, ...) tell of the slides and go to ``obs`` as they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from mxsplicer.errors import InputError
from mxsplicer.system.location import Location, locate
from mxsplicer.tl.labels import join_labels

FILES = ("path", "mask", "nuclei", "markers", "labels")  # columns that name files


@dataclass(frozen=True)
class Sample:
    """One slide as it was handed in, not opened yet.

    Attributes
    ----------
    name
        What it is called; None for the name of its file.
    path, mask, nuclei
        The image, its mask and that of its nuclei.
    markers, labels
        Its table of marker names, and its table of labels of cells.
    """

    name: str | None
    path: Location
    mask: Location | None = None
    nuclei: Location | None = None
    markers: Path | None = None
    labels: Path | None = None


def read_cohort(path: str | Path) -> list[Sample]:
    """Return the slides that a table names, in its order.

    Raises
    ------
    InputError
        If there is no such table, a column is missing, a slide has no file, or two have one name.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"there is no table {path} of a cohort."
        raise InputError(msg)
    try:
        table = pd.read_csv(path, sep="\t" if ".tsv" in path.name else ",", dtype=str, comment="#")
    except (ValueError, pd.errors.ParserError) as error:
        msg = f"table {path.name} cannot be read ({error}). Give a CSV file with a header."
        raise InputError(msg) from error
    table.columns = [str(column).strip() for column in table.columns]
    missing = [column for column in ("slide", "path") if column not in table]
    if missing or table.empty:
        found = f"no column {missing[0]!r}" if missing else "no row"
        msg = f"table {path.name} of the cohort has {found}; it needs one row per slide with its name (slide) and path."
        raise InputError(msg)
    table = table.apply(lambda column: column.str.strip())
    for column in ("slide", "path"):
        if (empty := table[column].isna()).any():
            msg = f"table {path.name} of the cohort has no {column} in row {int(empty.argmax()) + 2}."
            raise InputError(msg)
    if (twice := table["slide"].duplicated()).any():
        msg = f"table {path.name} names slide {table['slide'][twice].iloc[0]!r} twice. Give one row per slide."
        raise InputError(msg)
    unfit = [name for name in table["slide"] if Path(name).name != name or name.startswith(".")]
    if unfit:
        msg = f"slide {unfit[0]!r} of table {path.name} cannot name a folder: leave out slashes and a dot at its front."
        raise InputError(msg)
    return [_sample(path.parent, row) for row in table.to_dict("records")]


def _sample(folder: Path, row: dict[str, object]) -> Sample:
    def place(column: str) -> Location | None:
        value = row.get(column)
        if not isinstance(value, str) or not value:
            return None
        found = locate(value)
        return folder / found if isinstance(found, Path) else found  # an absolute path stays as it is

    def table(column: str) -> Path | None:
        found = place(column)
        return None if found is None else Path(found)

    image = place("path")
    assert image is not None, "checked above"
    return Sample(
        str(row["slide"]), image, place("mask"), place("nuclei"), markers=table("markers"), labels=table("labels")
    )


def shared_markers(panels: Sequence[Sequence[str]]) -> list[str]:
    """Return the markers that all panels have, in the order of the first.

    Examples
    --------
    >>> shared_markers([["DAPI", "CD3e", "CD8a"], ["CD8a", "DAPI", "CD20"]])
    ['DAPI', 'CD8a']
    """
    return [marker for marker in panels[0] if all(marker in panel for panel in panels)]


def every_marker(panels: Sequence[Sequence[str]]) -> list[str]:
    """Return the markers that any panel has, in the order in which they come.

    Examples
    --------
    >>> every_marker([["DAPI", "CD3e", "CD8a"], ["CD8a", "DAPI", "CD20"]])
    ['DAPI', 'CD3e', 'CD8a', 'CD20']
    """
    return list(dict.fromkeys(marker for panel in panels for marker in panel))


def said_panels(panels: Sequence[Sequence[str]]) -> str:
    """Return in words which markers slides share, and which of them only some have."""
    shared = shared_markers(panels)
    partly = [
        f"{marker} ({sum(marker in panel for panel in panels)} of {len(panels)} slides)"
        for marker in every_marker(panels)
        if marker not in shared
    ]
    return f"{len(shared)} markers are on all slides ({', '.join(shared)}); only on some are {', '.join(partly)}"


def share_out(total: int, cells: Mapping[str, int]) -> dict[str, int]:
    """Return how many cells of each slide are taken, ``total`` in all: as many of each, as far as it has them.

    Examples
    --------
    >>> share_out(100, {"a": 10, "b": 500, "c": 90})
    {'a': 10, 'b': 45, 'c': 45}
    """
    shares: dict[str, int] = {}
    left = total
    fewest_first = sorted(cells, key=lambda name: cells[name])
    for place, name in enumerate(fewest_first):
        shares[name] = max(1, min(cells[name], left // (len(cells) - place)))
        left -= shares[name]
    return {name: shares[name] for name in cells}


def join_labels_of_slides(adata: AnnData, tables: Mapping[str, Path], wanted: Sequence[str]) -> list[str]:
    """Bring labels of cells into ``adata.obs`` from one table for each slide; cells of other slides have none.

    Returns
    -------
    The names of the columns in ``obs``.
    """
    slides = adata.obs["slide"].astype(str).to_numpy()
    found: dict[str, np.ndarray] = {}
    for slide, table in tables.items():
        here = np.flatnonzero(slides == slide)
        part = AnnData(obs=adata.obs.iloc[here].copy())
        for name in join_labels(part, table, wanted):
            column = found.setdefault(name, np.full(adata.n_obs, None, dtype=object))
            column[here] = part.obs[name].astype(object).where(part.obs[name].notna(), None)
    for name, column in found.items():
        adata.obs[name] = pd.Categorical(column)
    return list(found)
