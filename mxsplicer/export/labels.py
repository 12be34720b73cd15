"""Cells and clusters as label images of an OME-Zarr (NGFF 0.4, which QuPath, napari and Bio-Formats read)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from anndata import AnnData

from mxsplicer.errors import InputError
from mxsplicer.export.files import appearing, cells_of_slide
from mxsplicer.images.slide import LazyImage
from mxsplicer.pl import colors
from mxsplicer.system.progress import track
from mxsplicer.tl.naming import cluster_codes

_CHUNK_PX, _WINDOW_PX, _SMALLEST_PX = 1024, 4096, 512


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
    with appearing(path, overwrite=overwrite) as unfinished:
        root = zarr.create_group(unfinished, zarr_format=2)
        group = root.create_group("labels", attributes={"labels": list(tables)})
        levels = {
            name: _create(group.create_group(name), mask.shape, pixel_size_um, about)
            for name, (_, about) in tables.items()
        }
        for (y, x), labels in _windows(mask):
            codes, known = pd.factorize(labels.ravel())
            place = pd.Index(ids).get_indexer(known)
            for name, (values, _) in tables.items():
                of_known = np.where((known != 0) & (place >= 0), values[place], 0).astype(np.uint32)
                window = of_known[codes].reshape(labels.shape)
                for number, level in enumerate(levels[name]):
                    small = window[:: 1 << number, :: 1 << number]
                    top, left = y >> number, x >> number
                    level[top : top + small.shape[0], left : left + small.shape[1]] = small
    return path


def _windows(mask: LazyImage) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
    """Yield the first pixel and the labels of windows whose sides are a multiple of every level's step."""
    height, width = mask.shape
    places = [(y, x) for y in range(0, height, _WINDOW_PX) for x in range(0, width, _WINDOW_PX)]
    for y, x in track(places, "Writing labels"):
        yield (y, x), np.asarray(mask[y : min(y + _WINDOW_PX, height), x : min(x + _WINDOW_PX, width)])


def _n_levels(shape: tuple[int, ...]) -> int:
    return 1 + max(0, int(np.ceil(np.log2(max(shape) / _SMALLEST_PX))))


def _create(group: zarr.Group, shape: tuple[int, ...], pixel_size_um: float, about: dict[str, Any]) -> list[zarr.Array]:
    levels, datasets = [], []
    for number in range(_n_levels(shape)):
        of_level = tuple(-(-side // (1 << number)) for side in shape)
        chunks = tuple(min(_CHUNK_PX, side) for side in of_level)
        levels.append(
            group.create_array(
                str(number),
                shape=of_level,
                chunks=chunks,
                dtype=np.uint32,
                fill_value=0,
                chunk_key_encoding={"name": "v2", "separator": "/"},
            )
        )
        scale = [pixel_size_um * (1 << number)] * 2
        transform = [{"type": "scale", "scale": scale}]
        datasets.append({"path": str(number), "coordinateTransformations": transform})
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"]
    name = group.basename
    group.attrs.update(
        {
            "multiscales": [{"version": "0.4", "name": name, "axes": axes, "datasets": datasets}],
            "image-label": {"version": "0.4", **about},
        }
    )
    return levels


def _named(names: list[str]) -> dict[str, Any]:
    rgba = [[*(round(255 * one) for one in colors.rgb(colors.of_category(code))), 255] for code in range(len(names))]
    return {
        "colors": [{"label-value": code + 1, "rgba": rgba[code]} for code in range(len(names))],
        "properties": [{"label-value": code + 1, "class": name} for code, name in enumerate(names)],
        "source": {"image": "../../"},
    }
