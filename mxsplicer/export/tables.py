"""Cells as a plain table, CSV or Parquet, in the columns of mcmicro's quantification."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from mxsplicer.errors import InputError
from mxsplicer.system.files import atomic_write, check_free
from mxsplicer.system.imports import import_extra
from mxsplicer.tl.rows import representation, slices

_ENDINGS = (".csv", ".csv.gz", ".parquet")
# What mcmicro calls it, our column of obs, and how many pixels one of its units are, as a power of the pixel size.
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
    """Write one row per cell: mcmicro's columns first, then what this package knows of the cell.

    The columns are ``CellID``; ``imageid``, the slide; each marker, its mean intensity (a marker called
    as another column is, ``Area`` say, becomes ``Area (marker)``); ``X_centroid`` and
    ``Y_centroid``, ``Area`` and the rest of mcmicro's shape in pixels of the full resolution; then the other columns of
    ``obs`` under their names. Cells are written some at a time.

    Parameters
    ----------
    adata
        Embedded cells.
    path
        The file to write, ``.csv``, ``.csv.gz`` or ``.parquet``, which needs pyarrow.
    pixel_sizes_um
        Of each slide; that of the model, ``uns["mxsplicer"]["pixel_size_um"]``, by default.
    use_rep
        Write this representation too, as columns ``<name>_0``, ``<name>_1``, ...
    overwrite
        Replace a file that is there.

    Raises
    ------
    InputError
        If the file exists, its ending is unknown, or the size of the pixels is.
    """
    path = Path(path)
    check_free(path, overwrite=overwrite)
    ending = next((one for one in _ENDINGS if path.name.lower().endswith(one)), None)
    if ending is None:
        msg = f"{path.name} has another ending than {', '.join(_ENDINGS)}; it says which kind of table is meant."
        raise InputError(msg)
    parts = _tables(adata, _pixel_sizes(adata, pixel_sizes_um), use_rep)
    with atomic_write(path) as temporary:
        if ending == ".parquet":
            _write_parquet(parts, temporary)
        else:
            _write_csv(parts, temporary, "gzip" if ending == ".csv.gz" else None)
    return path


def _pixel_sizes(adata: AnnData, given: Mapping[str, float] | None) -> np.ndarray:
    """Return the pixel size of each cell's slide."""
    slides = adata.obs["slide"].astype("category").cat if "slide" in adata.obs else None
    shared = adata.uns.get("mxsplicer", {}).get("pixel_size_um")
    names = [""] if slides is None else [str(name) for name in slides.categories]
    sizes = [(given or {}).get(name, shared) for name in names]
    if None in sizes:
        msg = f"the pixel size of slide {names[sizes.index(None)]!r} is not known; give it by pixel_sizes_um."
        raise InputError(msg)
    codes = np.zeros(adata.n_obs, dtype=np.int64) if slides is None else slides.codes.to_numpy()
    return np.asarray(sizes, dtype=np.float64)[codes]


def _tables(adata: AnnData, pixel_sizes_um: np.ndarray, use_rep: str | None) -> Iterator[pd.DataFrame]:
    z = None if use_rep is None else representation(adata, use_rep)
    others = [column for column in adata.obs if column not in _WRITTEN]
    taken = {"CellID", "imageid", *(name for name, _, _ in _COLUMNS), *others}
    markers = [f"{name} (marker)" if name in taken else str(name) for name in adata.var_names]
    for part in slices(adata.n_obs):
        obs, size = adata.obs.iloc[part], pixel_sizes_um[part]
        # Of obs alone: names of markers may be those of its columns.
        first = {"CellID": obs["cell_id"].to_numpy() if "cell_id" in obs else obs.index.to_numpy()}
        if "slide" in obs:
            first["imageid"] = obs["slide"].astype(str).to_numpy()
        rows = adata.X[part]
        shape = {
            name: obs[column].to_numpy() / size**power for name, column, power in _COLUMNS if column in obs.columns
        }
        pieces = [
            pd.DataFrame(first),
            pd.DataFrame(rows.toarray() if hasattr(rows, "toarray") else np.asarray(rows), columns=markers),
            pd.DataFrame(shape, index=range(len(obs))),
            obs[others].reset_index(drop=True),
        ]
        if z is not None:
            name = str(use_rep).removeprefix("X_")
            features = np.asarray(z[part])
            pieces.append(pd.DataFrame(features, columns=[f"{name}_{i}" for i in range(features.shape[1])]))
        yield pd.concat(pieces, axis=1)


def _write_csv(parts: Iterator[pd.DataFrame], path: Path, compression: str | None) -> None:
    for number, part in enumerate(parts):
        mode, header = ("w", True) if number == 0 else ("a", False)
        part.to_csv(path, index=False, mode=mode, header=header, compression=compression)  # type: ignore[call-overload]


def _write_parquet(parts: Iterator[pd.DataFrame], path: Path) -> None:
    missing = "Parquet is written by pyarrow, which is not installed; run `pip install pyarrow`, or write a CSV."
    pa, pq = (import_extra(name, missing) for name in ("pyarrow", "pyarrow.parquet"))
    writer = None
    try:
        for part in parts:
            # As text: a later part may lack categories of the first.
            text = {name: one.astype(str).where(one.notna()) for name, one in part.select_dtypes("category").items()}
            table = pa.Table.from_pandas(part.assign(**{str(name): one for name, one in text.items()}))
            if writer is None:
                writer = pq.ParquetWriter(path, table.schema)
            writer.write_table(table.cast(writer.schema))
    finally:
        if writer is not None:
            writer.close()
