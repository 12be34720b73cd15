"""Cells and clusters as label images of an OME-Zarr, in NGFF 0.4, which QuPath, napari and Bio-Formats read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from anndata import AnnData

from mxsplicer.export.checks import cells_of_slide, check_zarr_is_free
from mxsplicer.images.lazy_images import LazyImage
from mxsplicer.images.ngff import create_labels, finish_labels
from mxsplicer.images.tiles import TileGrid, Window
from mxsplicer.pl import colors
from mxsplicer.system.files import atomic_write
from mxsplicer.system.progress import track
from mxsplicer.tl.clustering import cluster_codes

_WINDOW_PX = 4096  # a multiple of the zarr chunks


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
    """Write the cells of a slide and their clusters as two label images of an OME-Zarr.

    ``labels/cells`` has the ids of the mask, for the cells in ``adata``. ``labels/<groupby>`` has 1 for the first
    cluster, 2 for the second and so on, with the colours and names of the clusters. Both are pyramids; coarser levels
    take every second pixel. The mask is read once, a window at a time.

    Parameters
    ----------
    adata
        Cells with ``obs["cell_id"]``.
    path
        Folder to write, such as ``NAME.ome.zarr``.
    mask
        Label image (Y, X) of the slide.
    pixel_size_um
        Pixel size of the mask.
    slide
        Name of the slide, if ``adata`` has several.
    groupby
        Column of ``obs`` with the clusters; None writes the cells only.
    overwrite
        Replace an existing store.
    """
    path = Path(path)
    check_zarr_is_free(path, overwrite=overwrite)
    obs = cells_of_slide(adata, slide)
    ids = obs["cell_id"].to_numpy()
    labels_of: dict[str, np.ndarray] = {"cells": ids}  # the label of each cell, by name of the image
    metadata: dict[str, dict[str, Any]] = {"cells": {"source": {"image": "../../"}}}
    if groupby is not None:
        names, codes = cluster_codes(adata, groupby)
        codes = codes[adata.obs_names.get_indexer(obs.index)]
        labels_of[groupby] = np.where(codes == len(names), 0, codes + 1)  # 0: without a cluster
        metadata[groupby] = _names_and_colors(names)
    with atomic_write(path) as temporary:
        root = zarr.create_group(temporary, zarr_format=2)
        root.create_group("labels", attributes={"labels": list(labels_of)})
        groups = {name: temporary / "labels" / name for name in labels_of}
        finest = {
            name: create_labels(group, (mask.shape[0], mask.shape[1]), version="0.4") for name, group in groups.items()
        }
        for window, pixels in _windows(mask):
            codes, present = pd.factorize(pixels.ravel())
            rows = pd.Index(ids).get_indexer(present)
            for name, of_cell in labels_of.items():
                of_present = np.where((present != 0) & (rows >= 0), of_cell[rows], 0).astype(np.uint32)
                finest[name][window] = of_present[codes].reshape(pixels.shape)
        for name, group in groups.items():
            finish_labels(group, pixel_size_um=pixel_size_um, image_label=metadata[name])
    return path


def _windows(mask: LazyImage) -> Iterator[tuple[Window, np.ndarray]]:
    """Yield windows of the mask and their pixels, to write as labels."""
    windows = TileGrid((mask.shape[0], mask.shape[1]), (_WINDOW_PX, _WINDOW_PX))
    for window in track(windows, "Writing labels", total=len(windows)):
        yield window, np.asarray(mask[window])


def _names_and_colors(names: list[str]) -> dict[str, Any]:
    return {
        "colors": [{"label-value": code + 1, "rgba": [*colors.category_rgb(code), 255]} for code in range(len(names))],
        "properties": [{"label-value": code + 1, "class": name} for code, name in enumerate(names)],
        "source": {"image": "../../"},
    }
