"""Files of cells joined and taken apart by their rows; what is wide stays on the disk, some rows at a time."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd

from mxsplicer.errors import InputError
from mxsplicer.system.files import atomic_write

_AT_ONCE = 1 << 14  # rows of z that are held at a time
_ROWS, _FEATURES = 4096, 16  # a piece of z in the file, as embedding has it


def join_cells(
    files: Sequence[str | Path],
    path: str | Path,
    *,
    uns: Mapping[str, Any],
    varm: Mapping[str, Any] | None = None,
    obs: pd.DataFrame | None = None,
    obsm: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """Write the cells of several files as one, in their order.

    Numbers are copied as they are. The file appears when it is whole.

    Parameters
    ----------
    files
        AnnData files with the same markers. Representations and layers that one of them lacks are left out.
    path
        The file to write; one that is there is replaced.
    uns, varm
        What is said of all cells; none of it is taken from the files.
    obs, obsm
        Taken instead of what the files have: a table of all cells, and arrays of them.

    Raises
    ------
    InputError
        If the files differ in their markers, or two cells have one name.
    """
    path = Path(path)
    opened = [h5py.File(file, "r") for file in files]
    try:
        var = _agreed_markers(opened, [Path(file).parent.name for file in files])
        table = join_obs([anndata.io.read_elem(file["obs"]) for file in opened]) if obs is None else obs
        if table.index.has_duplicates:
            name = table.index[table.index.duplicated()][0]
            msg = f"two of the cells are called {name!r}: their slides have one name. Give slides different names."
            raise InputError(msg)
        with atomic_write(path) as temporary, h5py.File(temporary, "w") as out:
            out.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
            elements: dict[str, Any] = {"obs": table, "var": var, "uns": dict(uns), "varm": dict(varm or {})}
            for key, value in {**elements, "obsp": {}, "varp": {}, "layers": {}, "obsm": dict(obsm or {})}.items():
                _write(out, key, value)
            given = [f"obsm/{key}" for key in obsm or {}]
            for name in _common(opened):
                if name not in given:
                    _copy_rows(opened, name, out)
    finally:
        for file in opened:
            file.close()
    return path


def split_cells(path: str | Path, places: Mapping[str, Path]) -> None:
    """Write the cells of each slide to a file of its own, with all that the common file says of them.

    Parameters
    ----------
    path
        The file of all cells.
    places
        The file to write for each slide, by its name; one that is there is replaced.
    """
    with h5py.File(path, "r") as file:
        obs = anndata.io.read_elem(file["obs"])
        about = {key: anndata.io.read_elem(file[key]) for key in ("var", "varm", "uns")}
        slides = obs["slide"].astype(str).to_numpy()
        for slide, place in places.items():
            rows = np.flatnonzero(slides == slide)
            own = obs.iloc[rows].copy()
            own["slide"] = own["slide"].cat.remove_unused_categories()
            with atomic_write(place) as temporary, h5py.File(temporary, "w") as out:
                out.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
                for key, value in {**about, "obs": own, "obsm": {}, "layers": {}, "obsp": {}, "varp": {}}.items():
                    _write(out, key, value)
                for name in _common([file]):
                    _copy_rows([file], name, out, (rows[0], rows[-1] + 1) if len(rows) else (0, 0))


def write_obs(path: str | Path, columns: Mapping[str, Any]) -> list[str]:
    """Write columns into ``obs`` of an AnnData file; nothing else in the file changes.

    The file is replaced when the new one is complete.

    Parameters
    ----------
    path
        An ``.h5ad`` file.
    columns
        Arrays or Categoricals (N,) by name. A column of the same name is replaced.

    Returns
    -------
    The names of all columns of ``obs`` now.
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".partial")
    try:
        shutil.copyfile(path, temporary)
        with h5py.File(temporary, "r+") as file:
            obs = file["obs"]
            for column, values in columns.items():
                anndata.io.write_elem(obs, column, values)
            order = list(dict.fromkeys([*obs.attrs["column-order"], *columns]))
            obs.attrs["column-order"] = np.array(order, dtype=h5py.string_dtype())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return [str(column) for column in order]


def join_obs(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return tables one below the other; categories are those of all, in the order in which they come."""
    columns = list(dict.fromkeys(column for table in tables for column in table))
    joined = pd.concat([table.astype(_plain(table)) for table in tables])[columns]
    for column in columns:
        own = [table[column] for table in tables if column in table]
        if all(isinstance(one.dtype, pd.CategoricalDtype) for one in own):
            categories = list(dict.fromkeys(name for one in own for name in one.cat.categories))
            joined[column] = pd.Categorical(joined[column], categories)
    return joined


def _plain(table: pd.DataFrame) -> dict[str, Any]:
    return {str(name): object for name in table if isinstance(table[name].dtype, pd.CategoricalDtype)}


def _agreed_markers(files: Sequence[h5py.File], names: Sequence[str]) -> pd.DataFrame:
    of_files: list[pd.DataFrame] = [anndata.io.read_elem(file["var"]) for file in files]
    for name, var in zip(names[1:], of_files[1:], strict=True):
        if list(var.index) != list(of_files[0].index):
            differ = sorted(set(map(str, var.index)) ^ set(map(str, of_files[0].index))) or ["the order"]
            msg = f"the cells of {names[0]} and {name} differ in their markers ({', '.join(differ)}). Use one model."
            raise InputError(msg)
    return pd.DataFrame(index=of_files[0].index)


def _common(files: Sequence[h5py.File]) -> list[str]:
    """Return the names of the dense arrays of cells that all files have."""
    of_each = [
        ["X", *(f"{group}/{key}" for group in ("layers", "obsm") if group in file for key in file[group])]
        for file in files
    ]
    return [name for name in of_each[0] if all(name in names for names in of_each)]


def _copy_rows(files: Sequence[h5py.File], name: str, out: h5py.File, rows: tuple[int, int] | None = None) -> None:
    ranges = [rows or (0, file[name].shape[0]) for file in files]
    n = sum(stop - start for start, stop in ranges)
    rest, dtype = files[0][name].shape[1:], np.result_type(*(file[name].dtype for file in files))
    pieces = (max(1, min(_ROWS, n)), *(min(_FEATURES, side) for side in rest))
    array = out.create_dataset(name, (n, *rest), dtype, chunks=pieces, compression="gzip")
    array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    at = 0
    for file, (first, last) in zip(files, ranges, strict=True):
        for start in range(first, last, _AT_ONCE):
            part = file[name][start : min(start + _AT_ONCE, last)]
            array[at : at + len(part)] = part
            at += len(part)


def _write(file: h5py.File, key: str, value: Any) -> None:
    anndata.io.write_elem(file, key, value, dataset_kwargs={"compression": "gzip"})
