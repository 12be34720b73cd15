"""Slides, masks and cells as a SpatialData store, for scverse and napari-spatialdata."""

import logging
import warnings
from collections.abc import Collection, Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from mxsplicer.errors import InputError
from mxsplicer.export.checks import check_zarr_is_free
from mxsplicer.images.lazy_images import LazyImage
from mxsplicer.images.slide import Slide
from mxsplicer.masks.files import check_mask
from mxsplicer.system.files import atomic_write
from mxsplicer.system.imports import import_extra
from mxsplicer.tl.labels import obs_name

logger = logging.getLogger(__name__)

_CHUNK_PX = 1024
_SMALLEST_PX = 1024


def write_spatialdata(
    adata: AnnData,
    path: str | Path,
    *,
    slides: Sequence[Slide],
    masks: Sequence[LazyImage],
    image: bool = True,
    overwrite: bool = False,
) -> Path:
    """Write slides, masks and cells as one SpatialData store.

    The table ``cells`` is the AnnData. It annotates the labels, one element for each slide, by ``slide`` and
    ``cell_id``. The labels of slide S are the element ``S``, and its image ``S_image``, if SpatialData allows these
    names; ``uns["mxsplicer_elements"]`` lists the names of all slides. The coordinate system "global" is in
    micrometres, as ``obsm["spatial"]``. Images are copied a chunk at a time; the table is loaded into memory.

    Parameters
    ----------
    adata
        Embedded cells.
    path
        Folder to write, such as ``NAME.zarr``.
    slides, masks
        Slides of the cells, and the label image (Y, X) of each. Cells of other slides are left out.
    image
        Copy the images of the slides too. Without them the store is about a thousand times smaller.
    overwrite
        Replace an existing store.

    Raises
    ------
    InputError
        If SpatialData is not installed, the store exists, or the numbers of slides and masks differ.
    """
    missing = "SpatialData is not installed. Run `pip install 'mxsplicer[spatialdata]'`."
    spatialdata, models = (import_extra(name, missing) for name in ("spatialdata", "spatialdata.models"))
    scale = import_extra("spatialdata.transformations", missing).Scale
    path = Path(path)
    check_zarr_is_free(path, overwrite=overwrite)
    if not slides or len(slides) != len(masks):
        msg = f"{len(slides)} slides and {len(masks)} masks were given."
        raise InputError(msg, "Pass one mask for each slide, in the same order.")
    names = _element_names([slide.name for slide in slides])
    images, labels = {}, {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecation warnings of packages that SpatialData uses
        for slide, mask in zip(slides, masks, strict=True):
            check_mask(mask, slide)
            to_um = {"global": scale([slide.pixel_size_um] * 2, axes=("y", "x"))}
            steps = [2] * max(0, int(np.ceil(np.log2(max(slide.shape_px) / _SMALLEST_PX))))
            parsed: dict[str, Any] = {"transformations": to_um, "scale_factors": steps or None}
            labels[names[slide.name]] = models.Labels2DModel.parse(_lazy(mask), dims=("y", "x"), **parsed)
            if image:
                images[f"{names[slide.name]}_image"] = models.Image2DModel.parse(
                    _lazy(slide.image), dims=("c", "y", "x"), c_coords=list(slide.markers), **parsed
                )
        table = models.TableModel.parse(
            _table(adata, names), region=list(names.values()), region_key="slide", instance_key="cell_id"
        )
        data = spatialdata.SpatialData(images=images, labels=labels, tables={"cells": table})
        with atomic_write(path) as temporary:
            data.write(temporary)
    return path


def _element_names(slides: Sequence[str]) -> dict[str, str]:
    """Return the SpatialData element of each slide, unlike any other element, also where capitals do not count."""
    names: dict[str, str] = {}
    taken = {"cells"}
    # Slides whose names are valid come first, so that they keep them.
    for slide in sorted(slides, key=lambda one: valid_name(one) != one):
        names[slide] = _free(valid_name(slide), taken, ("", "_image"))
        taken |= {names[slide].casefold(), f"{names[slide]}_image".casefold()}
        if names[slide] != slide:
            logger.warning("slide %r is the element %r, a name that SpatialData allows", slide, names[slide])
    return names


def _free(name: str, taken: Collection[str], endings: Sequence[str]) -> str:
    """Return a name in a SpatialData store, with a number behind it if it is taken, with any of the endings."""
    numbered = (name if number == 1 else f"{name}_{number}" for number in count(1))
    return next(one for one in numbered if not any((one + ending).casefold() in taken for ending in endings))


def _valid_names(keys: Iterable[str], *, first: Sequence[str] = ()) -> dict[str, str]:
    """Return names that SpatialData allows for columns or keys, each unlike any other; ``first`` keep theirs."""
    names: dict[str, str] = {}
    for key in sorted(keys, key=lambda one: (one not in first, valid_name(one) != one)):
        names[key] = _free(valid_name(key), {one.casefold() for one in names.values()}, ("",))
    return {key: names[key] for key in keys}


def valid_name(name: str) -> str:
    """Return a name of an element or a column that SpatialData allows.

    Examples
    --------
    >>> valid_name("core A1"), valid_name("__")
    ('core_A1', 'x__')
    """
    name = obs_name(name)
    return f"x{name}" if name in ("", ".", "..") or name.startswith("__") else name


def _lazy(image: LazyImage) -> Any:
    import dask.array as da

    from_array: Any = da.from_array
    chunks = (1,) * (image.ndim - 2) + (_CHUNK_PX, _CHUNK_PX)
    return from_array(image, chunks=chunks, asarray=True, name=False)


def _table(adata: AnnData, names: dict[str, str]) -> AnnData:
    """Return the cells of these slides in memory, with names that SpatialData allows."""
    rows = np.flatnonzero(adata.obs["slide"].astype(str).isin(list(names)).to_numpy())
    obs = adata.obs.iloc[rows].rename(columns=_valid_names(adata.obs, first=("slide", "cell_id")))
    obs["slide"] = pd.Categorical(obs["slide"].astype(str).map(names), categories=list(names.values()))
    obs["cell_id"] = obs["cell_id"].astype(np.int64)
    chosen = slice(None) if len(rows) == adata.n_obs else rows
    uns = {key: value for key, value in adata.uns.items() if key != "spatialdata_attrs"}
    elements = pd.DataFrame({"slide": list(names), "labels": list(names.values())})
    elements["image"] = elements["labels"] + "_image"
    uns["mxsplicer_elements"] = elements.set_axis(elements.index.astype(str))
    return AnnData(
        np.asarray(adata.X[chosen]),
        obs=obs,
        var=adata.var.copy(),
        obsm={name: np.asarray(adata.obsm[key][chosen]) for key, name in _valid_names(adata.obsm).items()},
        varm={name: adata.varm[key] for key, name in _valid_names(adata.varm).items()},
        uns={name: uns[key] for key, name in _valid_names(uns).items()},
    )
