"""The only module that opens an .h5ad file for writing; wide arrays are written some rows at a time.

z of a result is computed once and stored

1. in the journal of blocks (:mod:`mxsplicer.embedding.journal`), because an embedding of hours must survive
   ``kill -9``. An HDF5 file does not survive being killed while it is written, so the journal is kept until
   ``cells.h5ad`` is complete, and then removed;
2. in ``cells.h5ad``, for scanpy. :func:`write_blocks` writes it under a temporary name and :func:`complete_cells` adds
   all that is computed from z to that same file and renames it, so z is not copied;
3. in ``features.zarr``, feature by feature: a viewer reads one feature of all cells, for which it would have to
   decompress all of ``cells.h5ad``. It is written by ``result/features.py``;
4. of several slides, in an AnnData for each (:func:`split_cells`), because a file per slide is what other programs
   take. ``per_slide=False`` leaves them out.

A finished file is changed (by ``cluster``, ``correlate``, ``evaluate`` and the panel) on a copy that replaces it,
because nothing in the original can be computed again without the images.
"""

import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd

from mxsplicer.embedding.journal import read_blocks, regroup
from mxsplicer.errors import InputError
from mxsplicer.system.files import atomic_write, partial_path
from mxsplicer.system.memory import give_back
from mxsplicer.system.progress import track

# An HDF5 chunk of z: reading all features of some cells and some features of all cells take about as long.
_ROWS, _FEATURES = 4096, 16
_ROWS_IN_MEMORY = 1 << 14  # of z, while cells are copied
_ELEMENTS = ("X", "obs", "var", "varm", "layers", "uns", "obsm")  # groups of a file of anndata 0.8 or newer

_OBS = (
    "x_px",
    "y_px",
    "area_um2",
    "eccentricity",
    "major_axis_um",
    "minor_axis_um",
    "orientation",
    "at_border",
    "nucleus_area_um2",
    "patch_valid_fraction",
)


@contextmanager
def open_h5ad(path: str | Path, *, needed: Collection[str] = _ELEMENTS) -> Iterator[h5py.File]:
    """Open an h5ad file for reading, and name it in the error if it is damaged.

    Parameters
    ----------
    path
        The file.
    needed
        Groups that it must have.

    Raises
    ------
    InputError
        If the file does not exist, is not an AnnData file, is truncated, or its data cannot be decoded, also in the
        ``with`` block.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"file {path} was not found."
        raise InputError(msg)
    if not h5py.is_hdf5(path):
        what = "is empty" if not path.stat().st_size else "is not an HDF5 file"
        msg = f"{path} {what}, so it is not an AnnData file (.h5ad)."
        raise InputError(msg, "Copy it again, or write it again with anndata.")
    try:
        with h5py.File(path, "r") as file:
            missing = [name for name in needed if name not in file]
            missing += [name for name in ("obs", "var") if name in file and not isinstance(file[name], h5py.Group)]
            if missing:
                msg = f"{path} is not an AnnData file of version 0.8 or newer: it lacks {', '.join(missing)}."
                raise InputError(msg, "Read it with anndata and write it again.")
            yield file
    except (OSError, RuntimeError, KeyError) as error:
        reason = _damage(error)
        if reason is None:
            raise
        msg = f"{path} is damaged or incomplete ({reason})."
        raise InputError(msg, "Copy it again, or write it again.") from error


def _damage(error: Exception) -> str | None:
    """Return what HDF5 reports about a damaged h5ad file; None for other errors, such as a full disk."""
    text = str(error.args[0] if error.args else error).partition("\n")[0]
    if getattr(error, "errno", None) is not None or not text.startswith(("Unable to", "Can't")):
        return None
    return None if "doesn't exist" in text else text.partition("(")[2].rpartition(")")[0] or text


@contextmanager
def open_cells(path: str | Path) -> Iterator[anndata.AnnData]:
    """Open an h5ad file with its representations left on disk.

    In the ``with`` block ``obsm["X_splicer"]`` and the like are h5py datasets, from which slices are read when they are
    needed. Everything else is in memory and may be changed there; the file stays as it is.

    Raises
    ------
    InputError
        If the file cannot be read (:func:`open_h5ad`).
    """
    with open_h5ad(path) as file:
        read = {key: anndata.io.read_elem(file[key]) for key in ("X", "obs", "var", "varm", "layers", "uns")}
        obsm = {key: one if _is_wide(one) else anndata.io.read_elem(one) for key, one in file["obsm"].items()}
        give_back()  # reading holds the table of millions of cells twice
        yield anndata.AnnData(**read, obsm=obsm)


def write_cells(adata: anndata.AnnData, path: str | Path) -> None:
    """Write an AnnData that is in memory as an h5ad file; the file appears when it is complete."""
    elements = {key: dict(getattr(adata, key)) for key in ("obsm", "varm", "obsp", "varp", "uns")}
    elements |= {"X": adata.X, "obs": adata.obs, "var": adata.var, "layers": named_layers(adata)}
    with atomic_write(Path(path)) as temporary, _create(temporary, elements, compression=None):
        pass


def named_layers(adata: anndata.AnnData) -> dict[str, Any]:
    """Return the layers of an h5ad file by name, without X, which anndata 0.13 lists under the name None."""
    return {name: layer for name, layer in adata.layers.items() if name is not None}


def write_blocks(
    path: Path,
    blocks: Mapping[str, Sequence[Path]],
    *,
    markers: Sequence[str],
    missing: Mapping[str, Sequence[str]],
    uns: Mapping[str, Any],
    compression: str | None = "gzip",
) -> None:
    """Write the blocks of a journal as one h5ad file; it appears when it is complete.

    Parameters
    ----------
    path
        The file to write; an existing one is replaced.
    blocks
        The files of the blocks of each slide.
    markers
        Names for ``var``.
    missing
        The markers that each slide lacks.
    uns
        Content of ``uns["mxsplicer"]``.
    compression
        ``"gzip"``, ``"lzf"`` or None.
    """
    files = [file for of_slide in blocks.values() for file in of_slide]
    obs = _obs_of(blocks, missing)
    lacking = {name: list(of_slide) for name, of_slide in missing.items() if of_slide}
    about = {**uns, **({"missing_markers": lacking} if lacking else {})}
    elements = {
        "obs": obs,
        "var": pd.DataFrame(index=pd.Index(markers)),
        "obsm": {
            "spatial": np.stack([np.concatenate(list(read_blocks(files, f"cells/{axis}"))) for axis in "xy"], axis=1)
        },
        "uns": {"mxsplicer": about} if about else {},
    }
    with np.load(files[0]) as first:
        wide = [name for name in first.files if name.startswith(("X", "layers/", "obsm/"))]
    with atomic_write(path) as temporary, _create(temporary, elements, compression) as file:
        for name in wide:
            groups = track(regroup(read_blocks(files, name), _ROWS), "Writing", total=-(-len(obs) // _ROWS))
            for start, rows in groups:
                if start == 0:
                    array = _create_array(file, name, (len(obs), rows.shape[1]), np.dtype(np.float32), compression)
                array[start : start + len(rows)] = rows


def complete_cells(
    adata: anndata.AnnData, embedded: str | Path, path: str | Path, *, layers: Collection[str] = ()
) -> None:
    """Complete the h5ad file in which z lies with what was computed from z, and give it its final name.

    The file ``embedded`` is changed in place, under a temporary name, and is gone afterwards; it has to be one that can
    be made again, because a process that is killed here leaves neither of the two.

    Parameters
    ----------
    adata
        Cells that :func:`open_cells` opened from ``embedded``, outside of its ``with`` block.
    embedded
        The file that :func:`write_blocks` or :func:`join_cells` wrote.
    path
        The file to make; an existing one is replaced.
    layers
        Layers that changed; new ones are written in any case.
    """
    path = Path(path)
    temporary = partial_path(path)
    Path(embedded).replace(temporary)
    _update(temporary, adata, layers)
    temporary.replace(path)


def save_cells(adata: anndata.AnnData, path: str | Path, *, layers: Collection[str] = ()) -> None:
    """Save cells to the h5ad file ``path`` that :func:`open_cells` opened, with all that was added to them.

    X, layers and representations are copied as they are. The file is replaced when the new one is complete.

    Parameters
    ----------
    adata
        The cells.
    path
        The file that they were opened from.
    layers
        Layers that changed; new ones are written in any case.
    """
    with _changed_copy(Path(path)) as temporary:
        _update(temporary, adata, layers)


def write_obs(path: str | Path, columns: Mapping[str, Any], *, uns: Mapping[str, Any] | None = None) -> list[str]:
    """Write columns into ``obs`` of an h5ad file, and entries into ``uns``; nothing else in the file changes.

    The file is replaced when the new one is complete.

    Parameters
    ----------
    path
        An ``.h5ad`` file.
    columns
        Arrays or Categoricals (N,) by name. A column of the same name is replaced.
    uns
        Entries of ``uns`` by key; an entry of the same key is replaced.

    Returns
    -------
    The names of all columns of ``obs`` now.
    """
    with _changed_copy(Path(path)) as temporary, h5py.File(temporary, "r+") as file:
        obs = file["obs"]
        for column, values in columns.items():
            _write_elem(obs, column, values)
        order = list(dict.fromkeys([*obs.attrs["column-order"], *columns]))
        obs.attrs["column-order"] = np.array(order, dtype=h5py.string_dtype())
        if uns and "uns" not in file:
            _write_elem(file, "uns", {})
        for key, value in (uns or {}).items():
            _write_elem(file["uns"], key, value)
    return [str(column) for column in order]


def write_uns(path: str | Path, entries: Mapping[str, Any]) -> None:
    """Write entries into ``uns`` of an h5ad file; nothing else in it changes."""
    with _changed_copy(Path(path)) as temporary, h5py.File(temporary, "r+") as file:
        for key, value in entries.items():
            _write_elem(file["uns"], key, value)


def read_uns(path: str | Path, key: str = "") -> Any:
    """Return ``uns`` of an h5ad file, or one entry of it."""
    with open_h5ad(path, needed=("uns",)) as file:
        return anndata.io.read_elem(file[f"uns/{key}" if key else "uns"])


def join_cells(
    files: Sequence[str | Path],
    path: str | Path,
    *,
    uns: Mapping[str, Any],
    varm: Mapping[str, Any] | None = None,
    obs: pd.DataFrame | None = None,
    obsm: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """Write the cells of several h5ad files as one, in their order.

    Numbers are copied as they are. The file appears when it is complete.

    Parameters
    ----------
    files
        AnnData files with the same markers. Representations and layers that one of them lacks are left out.
    path
        The file to write; an existing one is replaced.
    uns, varm
        Of the new file; nothing is taken from those of the files.
    obs, obsm
        Used instead of what the files hold: a table of all cells, and arrays of them.

    Raises
    ------
    InputError
        If the files differ in their markers, or two cells have the same name.
    """
    path = Path(path)
    opened = [h5py.File(file, "r") for file in files]
    try:
        var = _common_var(opened, [Path(file).parent.name for file in files])
        table = join_obs([anndata.io.read_elem(file["obs"]) for file in opened]) if obs is None else obs
        if table.index.has_duplicates:
            name = table.index[table.index.duplicated()][0]
            msg = f"two cells are called {name!r}: their slides have the same name."
            raise InputError(msg, "Give slides different names.")
        elements = {"obs": table, "var": var, "uns": dict(uns), "varm": dict(varm or {}), "obsm": dict(obsm or {})}
        given = [f"obsm/{key}" for key in obsm or {}]
        with atomic_write(path) as temporary, _create(temporary, elements) as out:
            for name in _common_arrays(opened):
                if name not in given:
                    _copy_rows(opened, name, out)
    finally:
        for file in opened:
            file.close()
    return path


def split_cells(path: str | Path, places: Mapping[str, Path]) -> None:
    """Write the cells of each slide to an h5ad file of its own, with ``var``, ``varm`` and ``uns`` of the common one.

    Parameters
    ----------
    path
        The file of all cells.
    places
        The file to write for each slide, by its name; an existing one is replaced.
    """
    with h5py.File(path, "r") as file:
        obs = anndata.io.read_elem(file["obs"])
        common = {key: anndata.io.read_elem(file[key]) for key in ("var", "varm", "uns")}
        slides = obs["slide"].astype(str).to_numpy()
        for slide, place in places.items():
            rows = np.flatnonzero(slides == slide)
            own = obs.iloc[rows].copy()
            own["slide"] = own["slide"].cat.remove_unused_categories()
            with atomic_write(place) as temporary, _create(temporary, {**common, "obs": own}) as out:
                for name in _common_arrays([file]):
                    _copy_rows([file], name, out, (rows[0], rows[-1] + 1) if len(rows) else (0, 0))


def join_obs(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return ``obs`` of several h5ad files one below the other; categories are those of all, in order of appearance.

    A column that has numbers in one table and text in another becomes text. One of numbers that a table lacks or leaves
    empty has NaN there; of truth values it becomes text.
    """
    columns = list(dict.fromkeys(column for table in tables for column in table))
    mixed = mixed_columns(tables)
    known = {name for table in tables for name in table if table[name].notna().any()}
    tables = [
        table.drop(columns=[one for one in table if one in known and table[one].isna().all()]) for table in tables
    ]
    tables = [table.assign(**{name: _as_text(table[name]) for name in mixed if name in table}) for table in tables]
    joined = pd.concat([table.astype(_plain_types(table)) for table in tables])[columns]
    for column in columns:
        own = [table[column] for table in tables if column in table]
        if all(isinstance(one.dtype, pd.CategoricalDtype) for one in own):
            categories = list(dict.fromkeys(name for one in own for name in one.cat.categories))
            joined[column] = pd.Categorical(joined[column], categories)
        elif column not in known:
            joined[column] = joined[column].astype(np.float64)
        elif joined[column].isna().any() and all(one.dtype == bool for one in own):
            joined[column] = _as_text(joined[column])
    return joined


def mixed_columns(tables: Sequence[pd.DataFrame]) -> list[str]:
    """Return the columns of ``obs`` with numbers in one h5ad file and text in another; empty ones are neither."""
    kinds: dict[str, set[bool]] = {}
    for table in tables:
        for name in table:
            if table[name].notna().any():
                kinds.setdefault(str(name), set()).add(bool(pd.api.types.is_numeric_dtype(table[name])))
    return [name for name, found in kinds.items() if len(found) > 1]


def _as_text(values: "pd.Series[Any]") -> "pd.Series[Any]":
    """Return a column of ``obs`` of an h5ad file as categories, numbers as written: whole ones without a point."""
    given = values.dropna()
    if pd.api.types.is_float_dtype(values) and (given % 1 == 0).all():
        given = given.astype("int64")
    return given.astype(str).reindex(values.index).astype(object).astype("category")


def _plain_types(table: pd.DataFrame) -> dict[str, Any]:
    return {str(name): object for name in table if isinstance(table[name].dtype, pd.CategoricalDtype)}


def _obs_of(blocks: Mapping[str, Sequence[Path]], missing: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Return ``obs`` of all h5ad files; column by column, because each copy for millions of cells is hundreds of MB."""
    files = [file for of_slide in blocks.values() for file in of_slide]
    lengths = [sum(len(ids) for ids in read_blocks(of_slide, "cells/cell_id")) for of_slide in blocks.values()]
    slides, codes = list(blocks), np.repeat(np.arange(len(blocks)), lengths)
    obs: dict[str, Any] = {"cell_id": np.concatenate(list(read_blocks(files, "cells/cell_id")))}
    obs["slide"] = pd.Categorical.from_codes(codes, pd.Index(slides))
    for column in _OBS:
        parts = list(_optional_column(files, column, np.nan))
        if any(known for _, known in parts):
            obs[column] = np.concatenate([values for values, _ in parts])
    object_ids = np.concatenate([values for values, _ in _optional_column(files, "object_id", "")])
    if (object_ids != "").any():
        obs["object_id"] = object_ids.astype(object)
    if any(missing.values()):
        of_slides = [", ".join(missing.get(name, [])) for name in slides]
        obs["missing_markers"] = pd.Categorical(np.array(of_slides, dtype=object)[codes])
    names = pd.Index([f"{slides[code]}_{cell}" for code, cell in zip(codes, obs["cell_id"], strict=True)])
    return pd.DataFrame(obs, index=names, copy=False)


def _optional_column(files: Sequence[Path], column: str, missing: float | str) -> Iterator[tuple[np.ndarray, bool]]:
    """Yield a column of each block, ``missing`` for all cells of a block that lacks it, and whether it has it.

    Slides without a mask of nuclei lack areas of nuclei, those with a label image names of cells in another program.
    """
    for file in files:
        with np.load(file) as block:
            known = f"cells/{column}" in block.files
            yield block[f"cells/{column}"] if known else np.full(len(block["cells/cell_id"]), missing), known


@contextmanager
def _create(path: Path, elements: Mapping[str, Any], compression: str | None = "gzip") -> Iterator[h5py.File]:
    """Create an h5ad file with some elements, the others empty, to which wide arrays are then added."""
    empty: dict[str, Any] = {key: {} for key in ("uns", "obsm", "varm", "layers", "obsp", "varp")}
    with h5py.File(path, "w") as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        for key, element in {**empty, **elements}.items():
            _write_elem(file, key, element, compression)
        yield file


def _create_array(
    file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], compression: str | None = "gzip"
) -> h5py.Dataset:
    chunks = (max(1, min(_ROWS, shape[0])), *(min(_FEATURES, side) for side in shape[1:]))
    array = file.create_dataset(name, shape, dtype, chunks=chunks, compression=compression)
    array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return array


@contextmanager
def _changed_copy(path: Path) -> Iterator[Path]:
    """Yield a copy of an h5ad file to change, which replaces it at the end of the block."""
    with atomic_write(path) as temporary:
        shutil.copyfile(path, temporary)
        yield temporary


def _update(path: Path, adata: anndata.AnnData, layers: Collection[str]) -> None:
    """Write everything in memory of cells into their h5ad file; datasets that stayed on disk are left as they are."""
    with h5py.File(path, "r+") as file:
        for key in ("obs", "var"):
            _write_elem(file, key, getattr(adata, key))
        for key in ("varm", "uns"):
            _write_elem(file, key, dict(getattr(adata, key)))
        for key, one in adata.obsm.items():
            if not isinstance(one, h5py.Dataset):
                _write_elem(file["obsm"], key, one)
        for key, one in named_layers(adata).items():
            if key in layers or key not in file["layers"]:
                _write_elem(file["layers"], key, one)


def _common_var(files: Sequence[h5py.File], names: Sequence[str]) -> pd.DataFrame:
    """Return the markers of all h5ad files, or raise where they differ."""
    of_files: list[pd.DataFrame] = [anndata.io.read_elem(file["var"]) for file in files]
    for name, var in zip(names[1:], of_files[1:], strict=True):
        if list(var.index) != list(of_files[0].index):
            differ = sorted(set(map(str, var.index)) ^ set(map(str, of_files[0].index))) or ["the order"]
            msg = f"the cells of {names[0]} and {name} differ in their markers ({', '.join(differ)})."
            raise InputError(msg, "Embed all slides with one `model`.")
    return pd.DataFrame(index=of_files[0].index)


def _common_arrays(files: Sequence[h5py.File]) -> list[str]:
    """Return the names of the dense arrays of cells that all h5ad files have."""
    of_each = [
        ["X", *(f"{group}/{key}" for group in ("layers", "obsm") if group in file for key in file[group])]
        for file in files
    ]
    return [name for name in of_each[0] if all(name in names for names in of_each)]


def _copy_rows(files: Sequence[h5py.File], name: str, out: h5py.File, rows: tuple[int, int] | None = None) -> None:
    ranges = [rows or (0, file[name].shape[0]) for file in files]
    n = sum(stop - start for start, stop in ranges)
    dtype = np.result_type(*(file[name].dtype for file in files))
    array = _create_array(out, name, (n, *files[0][name].shape[1:]), dtype)
    at = 0
    for file, (first, last) in zip(files, ranges, strict=True):
        for start in range(first, last, _ROWS_IN_MEMORY):
            some = file[name][start : min(start + _ROWS_IN_MEMORY, last)]
            array[at : at + len(some)] = some
            at += len(some)


def _write_elem(group: h5py.Group, key: str, value: Any, compression: str | None = "gzip") -> None:
    anndata.io.write_elem(group, key, _with_plain_strings(value), dataset_kwargs={"compression": compression})


def _with_plain_strings(value: Any) -> Any:
    """Return a value for an h5ad file whose strings are objects: anndata 0.10 and R know no others.

    Strings with missing values become a Categorical, the only form in which old readers know them.
    """
    if isinstance(value, Mapping):
        return {key: _with_plain_strings(one) for key, one in value.items()}
    if isinstance(value, pd.DataFrame):
        table = value.copy(deep=False)
        for column, values in value.items():
            plain = _with_plain_strings(values)
            if plain is not values:
                table[column] = plain
        return table.set_axis(_plain_index(value.index))
    if isinstance(value, pd.Series):
        array = value.array
        plain = _with_plain_strings(array)
        kind = None if isinstance(plain, pd.Categorical) else object  # pandas 3 would make strings of objects again
        return value if plain is array else pd.Series(plain, index=value.index, name=value.name, dtype=kind)
    if isinstance(value, pd.Categorical):
        categories = _plain_index(value.categories)
        return pd.Categorical.from_codes(value.codes, categories=categories, ordered=bool(value.ordered))
    if _holds_strings(value):
        plain = np.asarray(value, dtype=object)
        return pd.Categorical(plain) if pd.isna(plain).any() else plain
    return value


def _plain_index(index: "pd.Index[Any]") -> "pd.Index[Any]":
    return pd.Index(index, dtype=object, name=index.name) if _holds_strings(index) else index


def _holds_strings(values: Any) -> bool:
    dtype = getattr(values, "dtype", None)
    if isinstance(dtype, pd.StringDtype) or getattr(dtype, "kind", "") == "T":
        return True
    is_column = getattr(dtype, "kind", "") == "O" and getattr(values, "ndim", 0) == 1
    return is_column and pd.api.types.infer_dtype(np.asarray(values), skipna=True) == "string"


def _is_wide(element: h5py.Group | h5py.Dataset) -> bool:
    # Positions in the tissue and in a UMAP are tiny compared with features, and always needed as a whole.
    return isinstance(element, h5py.Dataset) and element.ndim == 2 and element.shape[1] > 3
