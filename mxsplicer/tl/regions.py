"""A part of the cells: those that lie in outlines which somebody drew, in QuPath say."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from mxsplicer.cells.selection import OUTSIDE
from mxsplicer.errors import InputError
from mxsplicer.masks.polygons import outlines_at, read_polygons
from mxsplicer.tl.labels import pixels_of, regions_by_rows
from mxsplicer.tl.rows import take

logger = logging.getLogger(__name__)


def rows_inside(adata: AnnData, path: str | Path) -> np.ndarray:
    """Return the rows, ascending, of the cells whose centroid lies in an outline of a GeoJSON file.

    Holes are outside, and where outlines overlap, their union counts; a class is not needed.

    Parameters
    ----------
    adata
        Cells with their places in pixels, ``obs["x_px"]`` and ``obs["y_px"]``.
    path
        The outlines, as QuPath exports annotations, in pixels of the finest level; of several slides, a folder in which
        the name of each file begins with its slide's. Cells of a slide without a file are outside.

    Raises
    ------
    InputError
        If there is no such file, it is no GeoJSON, or no cell lies in an outline.
    """
    path = Path(path)
    inside = np.zeros(adata.n_obs, dtype=bool)
    x, y = pixels_of(adata).T
    for here, file in regions_by_rows(adata, path):
        inside[here] = outlines_at(read_polygons(file, None), x[here], y[here]) > 0
    if not inside.any():
        msg = (
            f"none of the {adata.n_obs:,} cells lies in an outline of {path.name}. Draw the outlines on the slide of "
            "these cells, and export them in pixels of its full resolution."
        )
        raise InputError(msg)
    logger.info("%d of %d cells lie in the outlines of %s", inside.sum(), adata.n_obs, path.name)
    return np.flatnonzero(inside)


def cells_inside(adata: AnnData, path: str | Path | None) -> AnnData:
    """Return the cells in the outlines of a GeoJSON file, in memory; all cells, as they are, where there is no file.

    ``uns["mxsplicer"]["roi"]`` names the file, and the ledger books the other cells as outside the regions.

    Parameters
    ----------
    adata, path
        As for :func:`rows_inside`; the representations may lie on disk.
    """
    return adata if path is None else _taken(adata, rows_inside(adata, path), Path(path).name)


@contextmanager
def restricted(adata: AnnData, path: str | Path | None) -> Iterator[AnnData]:
    """Give the cells in the outlines of a GeoJSON file; what is set of them in the ``with`` block comes back.

    In ``adata`` the other cells then have no value: NaN, or no category. Where there is no file, ``adata`` is given.

    Parameters
    ----------
    adata, path
        As for :func:`cells_inside`.
    """
    if path is None:
        yield adata
        return
    rows = rows_inside(adata, path)
    part = _taken(adata, rows, Path(path).name)
    before = {column: part.obs[column].copy() for column in part.obs}
    arrays = {name: dict(getattr(part, name)) for name in ("obsm", "layers")}
    about = adata.uns.get("mxsplicer")
    yield part
    for column in part.obs:
        if column not in before or not part.obs[column].equals(before[column]):
            of_rows = part.obs[column].set_axis(rows)
            adata.obs[column] = of_rows.reindex(range(adata.n_obs)).set_axis(adata.obs_names)
    for name, then in arrays.items():
        for key, values in getattr(part, name).items():
            if values is not then.get(key):
                spread = np.full((adata.n_obs, *values.shape[1:]), np.nan, dtype=np.float32)
                spread[rows] = values
                getattr(adata, name)[key] = spread
    adata.var = part.var
    adata.varm.update({key: np.asarray(values) for key, values in part.varm.items()})
    adata.uns = dict(part.uns) | ({} if about is None else {"mxsplicer": about})


def _taken(adata: AnnData, rows: np.ndarray, name: str) -> AnnData:
    about: Mapping[str, Any] = adata.uns.get("mxsplicer", {})
    return AnnData(
        adata.X[rows],
        obs=adata.obs.iloc[rows].copy(),
        var=adata.var.copy(),
        # Of what lies on disk each piece is read once; what is in memory keeps its type.
        obsm={
            key: np.asarray(one)[rows] if isinstance(one, np.ndarray) else take(one, rows)
            for key, one in adata.obsm.items()
        },
        varm={key: np.asarray(one) for key, one in adata.varm.items()},
        layers={key: one[rows] for key, one in adata.layers.items()},
        uns=dict(adata.uns) | {"mxsplicer": {**about, "roi": name, **_ledger(adata.obs.iloc[rows], about)}},
    )


def _ledger(obs: pd.DataFrame, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ledger of each slide, in which cells that are not among these lie outside."""
    if "ledger" not in about:
        return {}
    counts = obs["slide"].astype(str).value_counts()
    ledger = {}
    for slide, fates in about["ledger"].items():
        kept = int(counts.get(slide, 0))
        out = int(fates.get(OUTSIDE, 0)) + int(fates["kept"]) - kept
        ledger[slide] = {**fates, "kept": kept, OUTSIDE: out}
    return {"ledger": ledger}
