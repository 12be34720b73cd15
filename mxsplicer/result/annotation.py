"""Names of cells in results: train a classifier on a table of names, and write predicted names into files."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from mxsplicer.embedding.h5ad import open_cells, write_obs
from mxsplicer.errors import InputError
from mxsplicer.result.folder import Result, find_cells, open_result
from mxsplicer.system.tables import MISSING, find_columns, read_header, read_table
from mxsplicer.tl.cell_classifier import (
    CellClassifier,
    Predictions,
    annotate,
    check_columns_free,
    check_same_model,
    predicted_columns,
    train_classifier,
)
from mxsplicer.tl.fingerprints import fingerprint_rows
from mxsplicer.tl.labels import find_label_column
from mxsplicer.tl.matching import CELL_COLUMNS, KEY_COLUMNS, match_cells

KEY = "predicted"  # column of obs
_MAYBE_NAMES = ("name", "label")  # which may also be the names or ids of cells
_ABOUT = "mxsplicer_annotation"  # key of uns


def train_on_result(
    result: str | Path,
    names: str | Path,
    *,
    column: str | None = None,
    use_rep: str | None = None,
    seed: int = 0,
) -> CellClassifier:
    """Train a classifier on the cells of a result that a table names.

    Parameters
    ----------
    result
        Result folder, or an ``.h5ad`` file.
    names
        Table with one row per named cell: its id in the mask or its name in ``obs_names``, its slide if there are
        several, and its name. The panel writes one, ``annotations.csv``. Or a column of ``obs``.
    column
        Column of the table; by default its only one besides ids, slides and places.
    use_rep
        Key of the representation; by default that of the run.
    seed
        Seed of the sample of cells without a name.
    """
    with open_cells(find_cells(result)) as adata:
        given = adata.obs[str(names)] if str(names) in adata.obs else _read_names(adata, Path(names), column, result)
        return train_classifier(adata, given, use_rep=use_rep, seed=seed)


def annotate_result(
    result: str | Path, classifier: CellClassifier, *, key_added: str = KEY, overwrite: bool = False
) -> Predictions:
    """Write predicted names and their confidence into ``obs`` of a result; nothing else in its file changes.

    The file is replaced when the new one is complete. ``uns["mxsplicer_annotation"]`` records the classifier.

    Parameters
    ----------
    result
        Result folder, or an ``.h5ad`` file.
    classifier, key_added, overwrite
        As for :func:`mxsplicer.tl.annotate`.
    """
    path = find_cells(result)
    with open_cells(path) as adata:
        predictions = annotate(adata, classifier, key_added=key_added, overwrite=overwrite)
        entry = {
            "classifier": classifier.fingerprint,
            "cells": fingerprint_rows(adata.obs_names),
            "trained_on": {str(name): int(n) for name, n in classifier.counts.items()},
            "share_unknown": predictions.share_unknown,
            "date": datetime.now(UTC).date().isoformat(),
        }
        known = dict(adata.uns.get(_ABOUT, {}))
    write_obs(path, predictions.columns(key_added), uns={_ABOUT: {**known, key_added: entry}})
    return predictions


def check_annotation(
    result: str | Path, classifier: CellClassifier, *, key_added: str = KEY, overwrite: bool = False
) -> Predictions | None:
    """Check, before anything is written, that a result can be annotated; return names that this classifier gave before.

    Raises
    ------
    InputError
        If another model embedded the cells, or ``obs`` has such columns that are not from this classifier.
    """
    path = find_cells(result)
    with open_cells(path) as adata:
        check_same_model(adata, classifier)
        if not overwrite and (known := _given_before(adata, classifier, key_added)) is not None:
            return known
        check_columns_free(adata, key_added, overwrite=overwrite, where=f"obs of {path}")
    return None


def _given_before(adata: AnnData, classifier: CellClassifier, key: str) -> Predictions | None:
    """Return the names that this classifier gave the same cells before, as ``obs`` has them; None if it did not."""
    entry: Mapping[str, Any] = adata.uns.get(_ABOUT, {}).get(key, {})
    columns = predicted_columns(key)
    if not set(columns) <= set(adata.obs) or entry.get("classifier") != classifier.fingerprint:
        return None
    if entry.get("cells") != fingerprint_rows(adata.obs_names):
        return None
    names, confidence = (adata.obs[column] for column in columns)
    codes = pd.Index(classifier.classes).get_indexer(pd.Index(names.astype(str))).astype(np.int16)
    return Predictions(classifier.classes, codes, confidence.to_numpy())


def _read_names(adata: AnnData, path: Path, column: str | None, result: str | Path) -> "pd.Series[Any]":
    """Return the name of each cell from a table, missing for cells that it does not name."""
    if not path.is_file():
        msg = f"names {str(path)!r} are neither a file nor a column of obs, which has {', '.join(adata.obs)}."
        raise InputError(msg)
    header = read_header(path)
    column = _only_column(header, path.name) if column is None else find_label_column(header, path.name, column)
    keys = [name for name in find_columns(header, KEY_COLUMNS) if name != column]
    table = read_table(path, columns={*keys, column})
    table = table[~table[column].isin(MISSING)]
    rows = match_cells(table.drop(columns=column), path.name, adata.obs, _images_of(result))
    values = table[column].to_numpy()
    names = np.where(rows < 0, None, values[rows]) if len(values) else np.full(len(rows), None)
    return pd.Series(names, index=adata.obs_names, dtype=object)


def _only_column(header: Sequence[str], table: str) -> str:
    """Return the column of names, which may be called "name" or "label" next to a column of ids."""
    columns = [name for name in header if name not in find_columns(header, KEY_COLUMNS)]
    if not columns and (ids := find_columns(header, CELL_COLUMNS)[:1]):
        columns = [name for name in find_columns(header, _MAYBE_NAMES) if name not in ids]
    if len(columns) != 1:
        found = ", ".join(columns) or "none"
        msg = f"table {table} needs one column of names besides ids, slides and places; found: {found}."
        raise InputError(msg, "Name the `column`.")
    return columns[0]


def _images_of(result: str | Path) -> dict[str, str]:
    """Return the image file of each slide, by which a table may name the slide."""
    if not Path(result).is_dir() or not Result(Path(result)).index.is_file():
        return {}
    return {str(one["name"]): str(one["image"]) for one in open_result(result)["slides"] if one.get("image")}
