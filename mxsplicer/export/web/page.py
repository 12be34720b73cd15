"""Write the folder of the web page.

The page is our own, some 1,200 lines that browsers run as they are. Vitessce 4 was tried first: its bundle alone is
15 MB, it asks a server for names of genes, and 20,000 cells took seconds to be coloured without a graphics card.
"""

import logging
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from importlib.resources import as_file, files
from operator import ne
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from mxsplicer.errors import InputError
from mxsplicer.export.web import MAX_MEGAPIXELS
from mxsplicer.export.web.columns import write_columns
from mxsplicer.export.web.examples import write_examples
from mxsplicer.export.web.scripts import pack, write_script
from mxsplicer.export.web.tiles import TILE_PX, Brightness, Levels, write_tiles
from mxsplicer.images.lazy_images import LazyImage
from mxsplicer.images.markers import find_nuclear_marker
from mxsplicer.images.slide import Slide
from mxsplicer.masks.files import check_mask
from mxsplicer.pl import colors
from mxsplicer.pl.contrast import contrasting_markers
from mxsplicer.pl.correlations import insignificant_correlations
from mxsplicer.pl.heatmap_order import heatmap_order
from mxsplicer.system.files import atomic_write, check_free
from mxsplicer.tl.correlation import correlation_key
from mxsplicer.tl.fingerprints import fingerprint_rows
from mxsplicer.tl.representations import learned_key

logger = logging.getLogger(__name__)

FORMAT, VERSION = "mxsplicer web page", 1
_PAGE, _INDEX = "index.html", "data/index"
_MORE_CHANNELS = ("#ff5a3c", "#a6e22e", "#66ddff", "#ffffff")  # after pl.colors.CHANNELS
_STEPS = 65_535  # positions are 16-bit


def write_web(
    adata: AnnData,
    path: str | Path,
    *,
    slides: Sequence[Slide],
    masks: Sequence[LazyImage],
    groupby: str = "leiden",
    max_megapixels: float = MAX_MEGAPIXELS,
    features: Any = None,
    rows: np.ndarray | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a folder with a web page of the cells that opens from a disk or any web server, without a network.

    The page shows the tissue with its channels, the cells coloured by cluster, marker or feature, the UMAP, the
    correlation heatmap and example cells. Open ``index.html``. Slides are read a block of tiles at a time, so that
    memory does not grow with the slide.

    Parameters
    ----------
    adata
        Embedded cells with ``obs["cell_id"]``, ``slide``, ``x_px`` and ``y_px``.
    path
        Folder to write. It has this name when it is complete.
    slides, masks
        Slides of the cells, and the label image (Y, X) of each.
    groupby
        Column of ``obs`` with the clusters.
    max_megapixels
        Pixels of the finest level that is written, in millions, per channel. A larger slide is halved until it fits.
    features
        The representation (d, N), where one feature is read at once; by default it is read from ``adata``.
    rows
        Row of each cell in the file that the page refers to; by default 0, 1, 2, ...
    overwrite
        Replace an existing page.

    Returns
    -------
    The folder.

    Raises
    ------
    InputError
        If the folder exists, a slide or mask is missing or does not fit, or the clusters were not found.
    """
    path = Path(path)
    _check(adata, path, slides, masks, groupby, max_megapixels, overwrite)
    use_rep = learned_key(adata) if learned_key(adata) in adata.obsm else None
    with atomic_write(path) as folder:
        with as_file(files("mxsplicer.export.web") / "static") as static:
            shutil.copytree(static, folder)
        levels = [Levels.of(slide.shape_px, max_megapixels) for slide in slides]
        brightness = [
            write_tiles(folder, number, slide, mask, *_ids_and_rows(adata, slide.name), levels[number])
            for number, (slide, mask) in enumerate(zip(slides, masks, strict=True))
        ]
        examples = None
        if use_rep is not None:
            examples = write_examples(folder, adata, slides, masks, brightness, groupby=groupby, use_rep=use_rep)
        content = {
            "format": FORMAT,
            "version": VERSION,
            "made_by": f"mxsplicer {version('mxsplicer')}",
            "n": adata.n_obs,
            "rows_of": fingerprint_rows(adata.obs_names),
            "slides": [_describe(adata, *one) for one in zip(slides, levels, brightness, strict=True)],
            "columns": write_columns(folder, adata, groupby=groupby, use_rep=use_rep, features=features),
            "channels": contrasting_markers(adata),
            "channel_colors": [*colors.CHANNELS, *_MORE_CHANNELS],
            "heatmap": _heatmap(adata, use_rep),
            "examples": examples,
            **_write_cells(folder, adata, slides, rows),
        }
        write_script(folder, _INDEX, content)
    logger.info("Web page of %d cells: %s", adata.n_obs, path / _PAGE)
    return path


def _check(
    adata: AnnData,
    path: Path,
    slides: Sequence[Slide],
    masks: Sequence[LazyImage],
    groupby: str,
    max_megapixels: float,
    overwrite: bool,
) -> None:
    """Raise if the web page cannot be written, before anything is."""
    check_free(path, overwrite=overwrite)
    if path.exists() and not ((path / _PAGE).is_file() and (path / f"{_INDEX}.js").is_file()):
        msg = f"{path} exists and is not a web page of mxsplicer, so it is not replaced."
        raise InputError(msg, "Choose another name.")
    if not slides or len(slides) != len(masks):
        msg = f"{len(slides)} slides and {len(masks)} masks were given."
        raise InputError(msg, "Pass one mask for each slide, in the same order.")
    for slide, mask in zip(slides, masks, strict=True):
        check_mask(mask, slide)
    missing = [name for name in ("cell_id", "slide", "x_px", "y_px", groupby) if name not in adata.obs]
    if missing:
        msg = f"obs has no column {missing[0]!r}; it has {', '.join(map(str, adata.obs.columns))}."
        raise InputError(msg, "Run `mxsplicer cluster` first, or pass another column as `groupby`.")
    without = sorted(set(adata.obs["slide"].astype(str)) - {slide.name for slide in slides})
    if without:
        msg = f"the slide {without[0]!r} of some cells was not given."
        raise InputError(msg, "Pass all `slides` of the cells.")
    if not max_megapixels > 0:
        msg = f"`max_megapixels` is {max_megapixels:g}; a number above 0 is needed."
        raise InputError(msg)


def _ids_and_rows(adata: AnnData, slide: str) -> tuple[pd.Index, np.ndarray]:
    rows = np.flatnonzero((adata.obs["slide"].astype(str) == slide).to_numpy())
    return pd.Index(adata.obs["cell_id"].to_numpy()[rows]), rows


def _describe(adata: AnnData, slide: Slide, levels: Levels, brightness: Sequence[Brightness]) -> dict[str, Any]:
    """Return what the page has to know about a slide."""
    return {
        "name": slide.name,
        "um": slide.pixel_size_um * levels.step,  # of a pixel of the finest level
        "step": levels.step,
        "longest": max(slide.shape_px),
        "tile": TILE_PX,
        "levels": [[width, height] for height, width in levels.sides],
        "channels": [
            {"name": marker, "low": one.low, "full": one.full, "shown": list(one.shown)}
            for marker, one in zip(slide.markers, brightness, strict=True)
        ],
        "nuclear": find_nuclear_marker(list(slide.markers)),
        "cells": int((adata.obs["slide"].astype(str) == slide.name).sum()),
    }


def _write_cells(folder: Path, adata: AnnData, slides: Sequence[Slide], rows: np.ndarray | None) -> dict[str, Any]:
    """Write positions, ids and names of the cells; return which of them the page has."""
    ids, names = adata.obs["cell_id"].to_numpy().astype(np.uint32), [slide.name for slide in slides]
    slide_of = pd.Index(names).get_indexer(adata.obs["slide"].astype(str)).astype(np.uint16)
    write_script(folder, "data/id", pack(ids))
    write_script(folder, "data/slide", pack(slide_of))
    # In 16 bits of the longer side of each slide.
    longest = np.array([max(slide.shape_px) for slide in slides])[slide_of]
    places = np.stack([adata.obs[column].to_numpy() / longest for column in ("x_px", "y_px")], axis=1)
    write_script(folder, "data/xy", pack(_quantize(places).T))
    found = {"has_umap": "X_umap" in adata.obsm, "has_names": False, "has_rows": rows is not None}
    if found["has_umap"]:
        write_script(folder, "data/umap", pack(_quantize(_unit_square(np.asarray(adata.obsm["X_umap"])[:, :2])).T))
    expected = (f"{names[slide]}_{cell}" for slide, cell in zip(slide_of.tolist(), ids.tolist(), strict=True))
    if any(map(ne, adata.obs_names, expected)):
        found["has_names"] = True
        write_script(folder, "data/names", list(map(str, adata.obs_names)))
    if rows is not None:
        write_script(folder, "data/rows", pack(np.asarray(rows).astype(np.uint32)))
    return found


def _quantize(places: np.ndarray) -> np.ndarray:
    """Return positions from 0 to 1 in 16 bits; cells without one are at 65535."""
    return np.where(np.isfinite(places), np.clip(places, 0, 1) * (_STEPS - 1) + 0.5, _STEPS).astype(np.uint16)


def _unit_square(points: np.ndarray) -> np.ndarray:
    """Return points scaled to a unit square, with y downwards, as on a screen."""
    finite = points[np.isfinite(points).all(axis=1)]
    if not len(finite):
        return np.full(points.shape, np.nan)
    low, high = finite.min(axis=0), finite.max(axis=0)
    span = max(float((high - low).max()), 1e-6)
    scaled = (points - (low + high) / 2) / span + 0.5
    return np.stack([scaled[:, 0], 1 - scaled[:, 1]], axis=1)


def _heatmap(adata: AnnData, use_rep: str | None) -> dict[str, Any] | None:
    """Return the correlations of markers with features in the order of the report, in hundredths."""
    key = correlation_key(adata)
    if key is None or use_rep is None or adata.varm[key].shape[1] != adata.obsm[use_rep].shape[1]:
        return None
    r = np.nan_to_num(np.asarray(adata.varm[key], dtype=np.float64))
    markers, features = heatmap_order(r)
    weak = insignificant_correlations(adata, key)
    weak = np.zeros(r.shape, bool) if weak is None else weak
    return {
        "markers": markers.tolist(),
        "features": features.tolist(),
        "r": pack(np.round(r[markers][:, features] * 100).astype(np.int8)),
        "weak": pack(weak[markers][:, features].astype(np.uint8)),
    }
