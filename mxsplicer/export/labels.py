"""Cells and clusters as label images of an OME-Zarr (NGFF 0.4, which QuPath, napari and Bio-Formats read)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from anndata import AnnData

from mxsplicer.errors import InputError
from mxsplicer.export.files import cells_of_slide
from mxsplicer.images.ngff import create_labels, finish_labels
from mxsplicer.images.slide import LazyImage
from mxsplicer.images.tiles import Grid, Window
from mxsplicer.pl import colors
from mxsplicer.system.files import atomic_write, check_free
from mxsplicer.system.progress import track
from mxsplicer.tl.naming import cluster_codes

_WINDOW_PX = 4096  # a multiple of the chunks that are written


def write_labels(
    adata: AnnData,
    path: str | Path,
    mask: LazyImage,
    *,
    pixel_size_um: float,
    slide: str | None = None,
    groupby: str | None = "leiden",
    overwrite: bool = False,
) -> Path:
    """Write the cells of a slide, and their clusters, as two label images under ``labels/`` of an OME-Zarr.

    ``labels/cells`` has the numbers of the mask for the cells that are in ``adata``, ``labels/<groupby>`` 1 for the
    first cluster, 2 for the second, with their colours and names. Both are pyramids; levels take every second pixel, as
    numbers cannot be averaged. The mask is read once, a window at a time.

    Parameters
    ----------
    adata
        Cells with ``obs["cell_id"]``.
    path
        The folder to write, ``NAME.ome.zarr``.
    mask
        Label image (Y, X) of the slide.
    pixel_size_um
        Of the mask.
    slide
        Which slide of ``adata``, where it holds several.
    groupby
        Column of ``obs``; the cells alone where None.
    overwrite
        Replace a folder that is there.
    """
    path = Path(path)
    check_free(path, overwrite=overwrite)
    obs = cells_of_slide(adata, slide)
    if path.exists() and overwrite and not (path / ".zgroup").is_file():
        msg = f"{path} exists and is no zarr group, so it is not replaced. Choose another name."
        raise InputError(msg)
    ids = obs["cell_id"].to_numpy()
    tables: dict[str, tuple[np.ndarray, dict[str, Any]]] = {"cells": (ids, {"source": {"image": "../../"}})}
    if groupby is not None:
        names, codes = cluster_codes(adata, groupby)
        of_cell = codes[adata.obs_names.get_indexer(obs.index)]
        tables[groupby] = (np.where(of_cell == len(names), 0, of_cell + 1), _named(names))
    with atomic_write(path) as temporary:
        root = zarr.create_group(temporary, zarr_format=2)
        root.create_group("labels", attributes={"labels": list(tables)})
        groups = {name: temporary / "labels" / name for name in tables}
        finest = {
            name: create_labels(group, (mask.shape[0], mask.shape[1]), version="0.4") for name, group in groups.items()
        }
        for at, labels in _windows(mask):
            codes, known = pd.factorize(labels.ravel())
            place = pd.Index(ids).get_indexer(known)
            for name, (values, _) in tables.items():
                of_known = np.where((known != 0) & (place >= 0), values[place], 0).astype(np.uint32)
                finest[name][at] = of_known[codes].reshape(labels.shape)
        for name, (_, image_label) in tables.items():
            finish_labels(groups[name], pixel_size_um=pixel_size_um, image_label=image_label)
    return path


def _windows(mask: LazyImage) -> Iterator[tuple[Window, np.ndarray]]:
    """Yield windows of the mask and their labels."""
    windows = Grid((mask.shape[0], mask.shape[1]), (_WINDOW_PX, _WINDOW_PX))
    for window in track(windows, "Writing labels", total=len(windows)):
        yield window, np.asarray(mask[window])


def _named(names: list[str]) -> dict[str, Any]:
    rgba = [[*(round(255 * one) for one in colors.rgb(colors.category_color(code))), 255] for code in range(len(names))]
    return {
        "colors": [{"label-value": code + 1, "rgba": rgba[code]} for code in range(len(names))],
        "properties": [{"label-value": code + 1, "class": name} for code, name in enumerate(names)],
        "source": {"image": "../../"},
    }
