"""A cohort: the slides of a study, as a table names them.

One row per slide, in a table as :mod:`mxsplicer.system.tables` reads it::

    slide,path,mask,markers,patient,batch,labels
    S01,slides/S01.ome.tiff,masks/S01.tiff,markers.csv,P1,A,types/S01.csv
    S02,slides/S02.ome.tiff,masks/S02.tiff,markers.csv,P2,A,

``slide`` and ``path`` are needed. Paths are relative to the table. Columns that are not listed here (patient, batch,
age, ...) describe the slides and are copied to ``obs``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from mxsplicer.errors import InputError
from mxsplicer.images.opening import slide_name
from mxsplicer.masks.folders import Kind, find_masks
from mxsplicer.result.options import Options, check_slides_given
from mxsplicer.result.slides import FILE_COLUMNS, SlideRecord, image_files
from mxsplicer.system.files import check_folder_names
from mxsplicer.system.location import Location, locate
from mxsplicer.system.tables import find_columns, read_table
from mxsplicer.tl.labels import join_labels

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
    check_folder_names(list(table["slide"]), f"slides of table {name}")


def training_cells_of_slides(total: int, cells: Mapping[str, int]) -> dict[str, int]:
    """Return how many cells of each slide of a cohort are trained on: equally many, or all of a small slide.

    Examples
    --------
    >>> training_cells_of_slides(100, {"a": 10, "b": 500, "c": 90})
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
    """Join labels of cells from one table for each slide of a cohort; cells of other slides get none.

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


def find_slides(slides: str | Path | Sequence[str | Path | SlideRecord], options: Options) -> list[SlideRecord]:
    """Return the slides that a cohort's table names or those that were given, with the options on how to read them."""
    given = [slides] if isinstance(slides, str | Path) else list(slides)
    if options.cohort is not None:
        if given:
            msg = f"{len(given)} slides were named in addition to the table of the cohort, {options.cohort}."
            raise InputError(msg, "Give either slides or `cohort`.")
        records = read_cohort(options.cohort)
    else:
        check_slides_given(given, options)
        records = _records_of_images(given, options)
    return [
        replace(
            record,
            markers_table=record.markers_table or options.markers,
            rename=record.rename or options.rename,
            drop=record.drop or options.drop,
            pixel_size_um=record.pixel_size_um or options.pixel_size_um,
            image_in_file=record.image_in_file or options.image,
            mask_page=options.mask_page if record.mask is not None else None,
            nuclei_page=options.nuclei_page if record.nuclei is not None else None,
        )
        for record in records
    ]


def _records_of_images(given: Sequence[str | Path | SlideRecord], options: Options) -> list[SlideRecord]:
    if any(isinstance(one, SlideRecord) for one in given):
        return [one if isinstance(one, SlideRecord) else SlideRecord.of_image(one) for one in given]
    images = [locate(one) for one in given if not isinstance(one, SlideRecord)]
    names = [slide_name(image) for image in images]
    if len(names) > 1:
        check_folder_names(names, "slides")
    masks, nuclei = _masks_of_slides(options.masks, names), _masks_of_slides(options.nuclei, names, "nuclei")
    return [
        SlideRecord.of_image(image, mask=mask, nuclei=own)
        for image, mask, own in zip(images, masks, nuclei, strict=True)
    ]


def _masks_of_slides(given: Sequence[Location], names: Sequence[str], kind: Kind = "cells") -> list[Location | None]:
    """Return the mask of each slide of a cohort: in their order, or found in a folder by the slide's name."""
    if not given:
        return [None] * len(names)
    given = [locate(path) for path in given]
    folder = given[0]
    if len(given) == 1 and isinstance(folder, Path) and folder.is_dir() and not _is_zarr(folder):
        return list(find_masks(folder, names, kind))
    if len(given) != len(names):
        msg = f"{len(names)} slides and {len(given)} masks were given."
        raise InputError(msg, "Give a mask for each slide, or the folder of the masks.")
    return list(given)


def _is_zarr(folder: Path) -> bool:
    return any((folder / file).is_file() for file in ("zarr.json", ".zarray", ".zgroup"))
