"""Cells as a CSV or Parquet table, with the columns of mcmicro's quantification."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from mxsplicer.errors import InputError
from mxsplicer.system.files import atomic_write, check_free
from mxsplicer.system.imports import import_extra
from mxsplicer.tl.features import feature_names
from mxsplicer.tl.reading import row_slices
from mxsplicer.tl.representations import representation

_ENDINGS = (".csv", ".csv.gz", ".parquet")
# mcmicro's column, our column of obs, and the power of the pixel size by which ours is divided to get pixels.
_COLUMNS = (
    ("X_centroid", "x_px", 0),
    ("Y_centroid", "y_px", 0),
    ("Area", "area_um2", 2),
    ("MajorAxisLength", "major_axis_um", 1),
    ("MinorAxisLength", "minor_axis_um", 1),
    ("Eccentricity", "eccentricity", 0),
    ("Orientation", "orientation", 0),
)
_WRITTEN = {"cell_id", "slide", *(column for _, column, _ in _COLUMNS)}


def write_table(
    adata: AnnData,
    path: str | Path,
    *,
    pixel_sizes_um: Mapping[str, float] | None = None,
    use_rep: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write one row per cell, with the columns of mcmicro first and the other columns of ``obs`` after them.

    The columns are ``CellID``; ``imageid``, the slide; the mean intensity of each marker; ``X_centroid``,
    ``Y_centroid``, ``Area`` and mcmicro's other measurements of shape, in pixels of the full resolution; and the other
    columns of ``obs``. A marker with the name of another column, such as ``Area``, becomes ``Area (marker)``. Cells are
    written a slice at a time.

    Parameters
    ----------
    adata
        Embedded cells.
    path
        File to write, ``.csv``, ``.csv.gz`` or ``.parquet``; the last needs pyarrow.
    pixel_sizes_um
        Pixel size of each slide; by default that of the model, ``uns["mxsplicer"]["pixel_size_um"]``.
    use_rep
        Representation to write, none by default. Its columns are called ``splicer_CD4 rim``, or ``splicer_143`` where
        the features have no names.
    overwrite
        Replace an existing file.

    Raises
    ------
    InputError
        If the file exists, or its ending or the pixel size is unknown.
    """
    path = Path(path)
    check_free(path, overwrite=overwrite)
    ending = next((one for one in _ENDINGS if path.name.lower().endswith(one)), None)
    if ending is None:
        msg = f"{path.name} does not end in {', '.join(_ENDINGS[:-1])} or {_ENDINGS[-1]}."
        raise InputError(msg, "Choose a name with the ending of the format to write.")
    tables = _tables(adata, _pixel_sizes(adata, pixel_sizes_um), use_rep)
    with atomic_write(path) as temporary:
        if ending == ".parquet":
            _write_parquet(tables, temporary)
        else:
            _write_csv(tables, temporary, "gzip" if ending == ".csv.gz" else None)
    return path


def _pixel_sizes(adata: AnnData, given: Mapping[str, float] | None) -> np.ndarray:
    """Return the pixel size of each cell's slide, for a table in pixels."""
    slides = adata.obs["slide"].astype("category").cat if "slide" in adata.obs else None
    shared = adata.uns.get("mxsplicer", {}).get("pixel_size_um")
    names = [""] if slides is None else [str(name) for name in slides.categories]
    sizes = [(given or {}).get(name, shared) for name in names]
    if None in sizes:
        msg = f"the pixel size of slide {names[sizes.index(None)]!r} is not known."
        raise InputError(msg, "Pass it in `pixel_sizes_um`.")
    codes = np.zeros(adata.n_obs, dtype=np.int64) if slides is None else slides.codes.to_numpy()
    return np.asarray(sizes, dtype=np.float64)[codes]


def _tables(adata: AnnData, pixel_sizes_um: np.ndarray, use_rep: str | None) -> Iterator[pd.DataFrame]:
    z = None if use_rep is None else representation(adata, use_rep)
    names = [] if use_rep is None else _feature_columns(adata, use_rep)
    others = [column for column in adata.obs if column not in _WRITTEN]
    taken = {"CellID", "imageid", *(name for name, _, _ in _COLUMNS), *others}
    markers = [f"{name} (marker)" if name in taken else str(name) for name in adata.var_names]
    for rows in row_slices(adata.n_obs):
        obs, size = adata.obs.iloc[rows], pixel_sizes_um[rows]
        first = {"CellID": obs["cell_id"].to_numpy() if "cell_id" in obs else obs.index.to_numpy()}
        if "slide" in obs:
            first["imageid"] = obs["slide"].astype(str).to_numpy()
        intensities = adata.X[rows]
        shape = {
            name: obs[column].to_numpy() / size**power for name, column, power in _COLUMNS if column in obs.columns
        }
        pieces = [
            pd.DataFrame(first),
            pd.DataFrame(
                intensities.toarray() if hasattr(intensities, "toarray") else np.asarray(intensities), columns=markers
            ),
            pd.DataFrame(shape, index=range(len(obs))),
            obs[others].reset_index(drop=True),
        ]
        if z is not None:
            pieces.append(pd.DataFrame(np.asarray(z[rows]), columns=names))
        yield pd.concat(pieces, axis=1)


def _feature_columns(adata: AnnData, use_rep: str) -> list[str]:
    of_rep = use_rep.removeprefix("X_")
    return [f"{of_rep}_{name.removeprefix('feature ')}" for name in feature_names(adata, use_rep=use_rep)]


def _write_csv(tables: Iterator[pd.DataFrame], path: Path, compression: str | None) -> None:
    for number, table in enumerate(tables):
        mode, header = ("w", True) if number == 0 else ("a", False)
        table.to_csv(path, index=False, mode=mode, header=header, compression=compression)  # type: ignore[call-overload]


def _write_parquet(tables: Iterator[pd.DataFrame], path: Path) -> None:
    missing = "Parquet needs pyarrow, which is not installed. Run `pip install pyarrow`, or write a CSV."
    pa, pq = (import_extra(name, missing) for name in ("pyarrow", "pyarrow.parquet"))
    writer = None
    try:
        for table in tables:
            # As text, because a later slice may lack categories of the first, or the first all values.
            words = [name for name in table if not pd.api.types.is_any_real_numeric_dtype(table[name])]
            text = {str(name): pa.array(_words(table[name]), pa.string()) for name in words}
            columns = [text[name] if name in text else pa.array(table[name]) for name in map(str, table)]
            arrow = pa.Table.from_arrays(columns, names=[str(name) for name in table])
            if writer is None:
                writer = pq.ParquetWriter(path, arrow.schema)
            writer.write_table(arrow)
    finally:
        if writer is not None:
            writer.close()


def _words(values: "pd.Series[Any]") -> list[str | None]:
    return [None if missing else str(one) for one, missing in zip(values, values.isna(), strict=True)]
