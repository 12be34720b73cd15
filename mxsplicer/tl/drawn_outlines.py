"""Cells inside outlines that a person drew, for example in QuPath."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData

from mxsplicer.cells.selection import OUTSIDE
from mxsplicer.embedding.h5ad import named_layers
from mxsplicer.errors import InputError
from mxsplicer.masks.folders import find_outlines
from mxsplicer.masks.geojson import outlines_at, read_classes, read_polygons
from mxsplicer.tl.labels import free_name
from mxsplicer.tl.matching import slides_of
from mxsplicer.tl.reading import read_rows

logger = logging.getLogger(__name__)


def rows_inside(adata: AnnData, path: str | Path) -> np.ndarray:
    """Return the rows, ascending, of the cells whose centroid lies in a drawn outline of a GeoJSON file.

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
        inside[here] = outlines_at(read_polygons(file, None, of_cells=False), x[here], y[here]) > 0
    if not inside.any():
        msg = f"none of the {adata.n_obs:,} cells lies in an outline of {path.name}."
        raise InputError(
            msg, "Draw the outlines on the slide of these cells, and export them in full-resolution pixels."
        )
    logger.info("%d of %d cells lie in the outlines of %s", inside.sum(), adata.n_obs, path.name)
    return np.flatnonzero(inside)


def cells_inside(adata: AnnData, path: str | Path | None) -> AnnData:
    """Return the cells in the drawn outlines of a GeoJSON file, in memory; without a file, ``adata`` itself.

    ``uns["mxsplicer"]["roi"]`` names the file, and the ledger counts the other cells as outside the outlines.

    Parameters
    ----------
    adata, path
        As for :func:`rows_inside`; the representations may lie on disk.
    """
    return adata if path is None else _subset(adata, rows_inside(adata, path), Path(path).name)


@contextmanager
def restricted(adata: AnnData, path: str | Path | None) -> Iterator[AnnData]:
    """Yield the cells in drawn outlines (GeoJSON), and copy what the ``with`` block sets back to ``adata``.

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
    """Return the cells inside drawn outlines, in memory."""
    about: Mapping[str, Any] = adata.uns.get("mxsplicer", {})
    return AnnData(
        adata.X[rows],
        obs=adata.obs.iloc[rows].copy(),
        var=adata.var.copy(),
        # An array on disk is read once, chunk by chunk; an array in memory keeps its dtype.
        obsm={
            key: np.asarray(one)[rows] if isinstance(one, np.ndarray) else read_rows(one, rows)
            for key, one in adata.obsm.items()
        },
        varm={key: np.asarray(one) for key, one in adata.varm.items()},
        layers={key: one[rows] for key, one in named_layers(adata).items()},
        uns=dict(adata.uns) | {"mxsplicer": {**about, "roi": name, **_ledger(adata.obs.iloc[rows], about)}},
    )


def _ledger(obs: pd.DataFrame, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ledger of each slide with the cells that are not in ``obs`` counted as outside the drawn outlines."""
    if "ledger" not in about:
        return {}
    counts = obs["slide"].astype(str).value_counts()
    ledger = {}
    for slide, outcomes in about["ledger"].items():
        kept = int(counts.get(slide, 0))
        outside = int(outcomes.get(OUTSIDE, 0)) + int(outcomes["kept"]) - kept
        ledger[slide] = {**outcomes, "kept": kept, OUTSIDE: outside}
    return {"ledger": ledger}


def join_outlines(adata: anndata.AnnData, path: str | Path, name: str) -> str:
    """Label cells with the class of the drawn outline (GeoJSON, QuPath's annotations) that contains their centroid.

    Where outlines overlap, the smallest counts. Cells outside all outlines have no label.

    Parameters
    ----------
    path
        The file of the slide; for several slides, a folder in which the name of each file begins with the name of its
        slide. Coordinates are pixels of the finest level.
    name
        Name of the label in ``obs``.

    Returns
    -------
    The name of the column in ``obs``.

    Raises
    ------
    InputError
        If no slide has a file, a file is not GeoJSON, or no cell lies in an outline with a class.
    """
    x, y = pixels_of(adata).T
    found = np.full(adata.n_obs, "", dtype=object)
    for here, file in outline_files_by_rows(adata, Path(path)):
        shape_px = (int(y[here].max()) + 2, int(x[here].max()) + 2)
        polygons, classes = read_classes(file, shape_px)
        found[here] = np.array(["", *classes], dtype=object)[outlines_at(polygons, x[here], y[here])]
    if not (found != "").any():
        msg = (
            f"no cell lies in an outline with a class of {Path(path).name}. The cells lie between ({x.min():.0f}, "
            f"{y.min():.0f}) and ({x.max():.0f}, {y.max():.0f}) (x, y)."
        )
        raise InputError(msg, "Export the outlines in pixels of the finest level.")
    column = free_name(adata, name)
    adata.obs[column] = pd.Categorical([one or None for one in found])
    return column


def outline_files_by_rows(adata: anndata.AnnData, path: Path) -> list[tuple[np.ndarray, Path]]:
    """Return, for each slide that has outlines, its rows and the file that :func:`outline_files` finds."""
    slides = slides_of(adata.obs)
    files = outline_files(path, [str(slide) for slide in pd.unique(slides)])
    return [(np.flatnonzero(slides == slide), file) for slide, file in files.items()]


def outline_files(path: Path, slides: Sequence[str]) -> dict[str, Path]:
    """Return the file of drawn outlines of each slide: ``path`` itself, or the files of a folder, matched by name."""
    if path.is_file() and len(slides) == 1:
        return {slides[0]: path}
    if not path.is_dir():
        if path.is_file():
            msg = f"{path.name} has the outlines of one slide, but there are {len(slides)} slides."
            raise InputError(msg, "Use a folder with a file for each slide.")
        msg = f"file {path} was not found."
        raise InputError(msg)
    return find_outlines(path, slides)


def pixels_of(adata: anndata.AnnData) -> np.ndarray:
    """Return the centroids (N, 2) of cells in the pixels of drawn outlines, x then y."""
    if {"x_px", "y_px"} <= set(adata.obs.columns):
        return np.asarray(adata.obs[["x_px", "y_px"]], dtype=np.float64)
    pixel_size_um = adata.uns.get("mxsplicer", {}).get("pixel_size_um")
    if pixel_size_um is None or "spatial" not in adata.obsm:
        msg = "the cells have no centroids in pixels (obs x_px and y_px), so they cannot be compared with outlines."
        raise InputError(msg)
    return np.asarray(adata.obsm["spatial"], dtype=np.float64)[:, :2] / float(pixel_size_um)


def find_roi_files(roi: Path, slides: Sequence[str]) -> dict[str, Path]:
    """Return the file of drawn outlines of each slide; raise if a slide lacks one."""
    files = outline_files(roi, list(slides))
    missing = [slide for slide in slides if slide not in files]
    if missing:
        msg = f"folder {roi} has no GeoJSON file for slide {missing[0]!r}; each slide needs one."
        raise InputError(msg, "Name the file after the slide, or leave out `roi`.")
    return files
