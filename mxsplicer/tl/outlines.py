"""Cells inside outlines that a person drew, for example in QuPath."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from mxsplicer.cells.selection import OUTSIDE
from mxsplicer.embedding.h5ad import named_layers
from mxsplicer.errors import InputError
from mxsplicer.masks.geojson import outlines_at, read_polygons
from mxsplicer.tl.labels import outline_files_by_rows, pixels_of
from mxsplicer.tl.rows import take

logger = logging.getLogger(__name__)


def rows_inside(adata: AnnData, path: str | Path) -> np.ndarray:
    """Return the rows, ascending, of the cells whose centroid lies in an outline of a GeoJSON file.

    Holes are outside. Where outlines overlap, their union counts. Outlines need no class.

    Parameters
    ----------
    adata
        Cells with their positions in pixels, ``obs["x_px"]`` and ``obs["y_px"]``.
    path
        The outlines, as QuPath exports annotations, in pixels of the finest level. For several slides, a folder in
        which the name of each file begins with the name of its slide; cells of a slide without a file are outside.

    Raises
    ------
    InputError
        If the file does not exist or is not GeoJSON, or if no cell lies in an outline.
    """
    path = Path(path)
    inside = np.zeros(adata.n_obs, dtype=bool)
    x, y = pixels_of(adata).T
    for here, file in outline_files_by_rows(adata, path):
        inside[here] = outlines_at(read_polygons(file, None), x[here], y[here]) > 0
    if not inside.any():
        msg = f"none of the {adata.n_obs:,} cells lies in an outline of {path.name}."
        raise InputError(
            msg, "Draw the outlines on the slide of these cells, and export them in full-resolution pixels."
        )
    logger.info("%d of %d cells lie in the outlines of %s", inside.sum(), adata.n_obs, path.name)
    return np.flatnonzero(inside)


def cells_inside(adata: AnnData, path: str | Path | None) -> AnnData:
    """Return the cells in the outlines of a GeoJSON file, in memory; without a file, ``adata`` itself.

    ``uns["mxsplicer"]["roi"]`` names the file, and the ledger counts the other cells as outside the outlines.

    Parameters
    ----------
    adata, path
        As for :func:`rows_inside`; the representations may lie on disk.
    """
    return adata if path is None else _subset(adata, rows_inside(adata, path), Path(path).name)


@contextmanager
def restricted(adata: AnnData, path: str | Path | None) -> Iterator[AnnData]:
    """Yield the cells in the outlines of a GeoJSON file, and copy what the ``with`` block sets back to ``adata``.

    Cells outside the outlines get no value: NaN, or no category. Without a file, ``adata`` itself is yielded.

    Parameters
    ----------
    adata, path
        As for :func:`cells_inside`.
    """
    if path is None:
        yield adata
        return
    rows = rows_inside(adata, path)
    inside = _subset(adata, rows, Path(path).name)
    columns = {column: inside.obs[column].copy() for column in inside.obs}
    arrays = {"obsm": dict(inside.obsm), "layers": named_layers(inside)}
    about = adata.uns.get("mxsplicer")
    yield inside
    for column in inside.obs:
        if column not in columns or not inside.obs[column].equals(columns[column]):
            of_rows = inside.obs[column].set_axis(rows)
            adata.obs[column] = of_rows.reindex(range(adata.n_obs)).set_axis(adata.obs_names)
    for name, before in arrays.items():
        for key, values in getattr(inside, name).items():
            if key is not None and values is not before.get(key):
                of_all = np.full((adata.n_obs, *values.shape[1:]), np.nan, dtype=np.float32)
                of_all[rows] = values
                getattr(adata, name)[key] = of_all
    adata.var = inside.var
    adata.varm.update({key: np.asarray(values) for key, values in inside.varm.items()})
    adata.uns = dict(inside.uns) | ({} if about is None else {"mxsplicer": about})


def _subset(adata: AnnData, rows: np.ndarray, name: str) -> AnnData:
    about: Mapping[str, Any] = adata.uns.get("mxsplicer", {})
    return AnnData(
        adata.X[rows],
        obs=adata.obs.iloc[rows].copy(),
        var=adata.var.copy(),
        # An array on disk is read once, chunk by chunk; an array in memory keeps its dtype.
        obsm={
            key: np.asarray(one)[rows] if isinstance(one, np.ndarray) else take(one, rows)
            for key, one in adata.obsm.items()
        },
        varm={key: np.asarray(one) for key, one in adata.varm.items()},
        layers={key: one[rows] for key, one in named_layers(adata).items()},
        uns=dict(adata.uns) | {"mxsplicer": {**about, "roi": name, **_ledger(adata.obs.iloc[rows], about)}},
    )


def _ledger(obs: pd.DataFrame, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ledger of each slide with the cells that are not in ``obs`` counted as outside."""
    if "ledger" not in about:
        return {}
    counts = obs["slide"].astype(str).value_counts()
    ledger = {}
    for slide, outcomes in about["ledger"].items():
        kept = int(counts.get(slide, 0))
        outside = int(outcomes.get(OUTSIDE, 0)) + int(outcomes["kept"]) - kept
        ledger[slide] = {**outcomes, "kept": kept, OUTSIDE: outside}
    return {"ledger": ledger}
