"""Segment a slide without a mask, tile by tile: nuclei are found in the nuclear marker and grown into cells.

A tile is segmented with a halo of its surroundings. A cell belongs to the tile whose core holds the centroid of its
nucleus, and that tile writes all of it, so that no cell is cut where tiles meet. Intensities of nuclei and background
are measured once over the slide, and cells are numbered by position, so the mask does not depend on the tiles.
"""

import logging
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from mxsplicer.errors import InputError
from mxsplicer.images.markers import nuclear_candidates
from mxsplicer.images.ngff import made_by_mxsplicer, open_finest_labels
from mxsplicer.images.slide import Slide
from mxsplicer.images.tiles import TileGrid, Window, choose_tiles, expand_window
from mxsplicer.masks.geojson import Polygons, read_polygons
from mxsplicer.segmentation import EXPANSION_UM, NUCLEUS_DIAMETER_UM
from mxsplicer.segmentation.coverage import describe_cells
from mxsplicer.segmentation.segmenters import CellFinder, Segmenter, choose_finder, knows_nuclei
from mxsplicer.segmentation.stitching import Found, UnfinishedMasks, owned_labels
from mxsplicer.system.dask_cluster import is_cluster
from mxsplicer.system.fingerprints import fingerprint
from mxsplicer.system.locks import folder_lock
from mxsplicer.system.memory import Budget
from mxsplicer.system.workers import map_in_order

logger = logging.getLogger(__name__)

_STEP_PX = 128  # sides of tiles are multiples of it


def segment(
    slide: Slide,
    path: str | Path,
    *,
    nuclear_marker: str | None = None,
    expansion_um: float = EXPANSION_UM,
    nucleus_diameter_um: float = NUCLEUS_DIAMETER_UM,
    min_nucleus_area_um2: float = 8.0,
    membrane_marker: str | None = None,
    segmenter: str | Segmenter | None = None,
    nuclei_path: str | Path | None = None,
    roi: str | Path | None = None,
    halo_um: float = 50.0,
    tile_px: int = 2048,
    workers: int | None = None,
    executor: str = "threads",
    max_bytes: int | None = None,
    overwrite: bool = False,
) -> zarr.Array:
    """Find the cells of a slide and write them as a mask.

    Nuclei are bright blobs of about ``nucleus_diameter_um`` in the nuclear marker; each is grown by ``expansion_um``,
    or until it meets its neighbour. Only tiles are held in memory. Cells are numbered by their first pixel, row by row.

    After an interruption the same call continues with the next tile, if the image is a file. With a function of your
    own it starts again, since changes of the function cannot be detected.

    Parameters
    ----------
    slide
        Image (C, Y, X) with its markers and pixel size.
    path
        Folder to create: an OME-Zarr 0.5 label image, of which array ``0`` is the mask and the others are coarser
        levels of it. It appears under this name only when it is complete.
    nuclear_marker
        The marker that stains nuclei; by default it is recognised by its name (DAPI, DNA1, 191Ir, ...) and logged. A
        warning is logged, and kept with the mask, if the cells cover little of the tissue.
    expansion_um
        How far a cell reaches beyond its nucleus.
    nucleus_diameter_um
        Typical diameter of a nucleus; much larger ones are split, much smaller ones that touch are joined.
    min_nucleus_area_um2
        Smaller nuclei are discarded as debris.
    membrane_marker
        A marker of cell membranes, for a named segmenter that then finds whole cells.
    segmenter
        What finds the cells instead of the built-in method. A segmenter named in
        :data:`~mxsplicer.segmentation.segmenters.SEGMENTERS` receives the nuclear marker, normalised over the slide,
        and its nuclei are grown; with a membrane marker it finds whole cells. A function from an image (C, Y, X) to
        labels (Y, X), or its name ``module:function``, receives all channels of a tile with its halo, and its labels
        are whole cells.
    nuclei_path
        Folder to create for the mask of the nuclei, each with the number of its cell; it is complete before the mask
        is. It needs a segmenter that finds nuclei and grows them: see :func:`knows_nuclei`.
    roi
        Outlines (GeoJSON), as QuPath exports annotations: only cells whose nucleus has its centroid in one are kept.
    halo_um
        Margin of its surroundings that is read around each tile.
    tile_px
        Longest side of the core of a tile.
    workers
        Threads of the built-in method; by default as many as processors, at most 4. Other segmenters use one.
    executor
        The address of a dask scheduler, "tcp://...", whose cluster segments the tiles, by the built-in method or a
        function of your own; a named segmenter runs in this process. Any other value means threads.
    max_bytes
        Memory limit of the whole process, by which tiles are chosen; it does not include the memory of a network. On a
        cluster, the limit of a task.
    overwrite
        Replace an existing mask at ``path``.

    Returns
    -------
    The mask, its finest level, opened for reading: uint32 (Y, X), 0 background, cells numbered from 1.

    Raises
    ------
    InputError
        If a path exists or is being written by another process, if no marker is known to stain nuclei, if no nucleus is
        found, or if the segmenter is unknown, has no weights, does not find nuclei or does not return labels.

    Examples
    --------
    >>> import tempfile
    >>> image = np.zeros((1, 64, 64), np.uint16)
    >>> image[0, 20:34, 10:24] = image[0, 20:34, 40:54] = 500
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     mask = segment(Slide("S01", image, ("DAPI",), pixel_size_um=0.5), f"{folder}/mask.zarr")[:]
    >>> np.unique(mask).tolist()
    [0, 1, 2]
    """
    path, paths = Path(path), [Path(one) for one in (path, nuclei_path) if one is not None]
    _check_free(paths, overwrite=overwrite)
    if nuclei_path is not None and not knows_nuclei(segmenter, membrane_marker):
        msg = f"no nuclei can be written to {nuclei_path}: the segmenter finds whole cells, without their nuclei."
        raise InputError(msg)
    finder = choose_finder(
        slide,
        segmenter,
        nuclear_marker=nuclear_marker,
        membrane_marker=membrane_marker,
        nucleus_diameter_um=nucleus_diameter_um,
        min_nucleus_area_um2=min_nucleus_area_um2,
        expansion_um=expansion_um,
    )
    settings = {"pixel_size_um": slide.pixel_size_um, "halo_um": halo_um, **finder.settings}
    if finder.kind != "built-in" or is_cluster(executor):
        workers = 1  # a task of a cluster gets tiles as large as a single worker would
    halo_px = round(halo_um / slide.pixel_size_um)
    grid, n_workers = choose_tiles(
        slide.shape_px,
        (_STEP_PX, _STEP_PX),
        max_px=tile_px,
        bytes_per_px=finder.bytes_per_px + len(finder.channels) * slide.image.dtype.itemsize,
        budget=Budget.of(max_bytes),
        workers=workers,
        halo_px=halo_px,
    )
    outlines = None if roi is None else read_polygons(Path(roi), slide.shape_px, of_cells=False)
    if roi is not None:
        settings["roi"] = fingerprint(roi)
    made_from = None if finder.kind == "own" else _made_from(slide, finder.channels, settings, grid, len(paths))
    with folder_lock(path):
        _check_free(paths, overwrite=overwrite)  # again: another command may have made it since
        unfinished = UnfinishedMasks(paths, grid, halo_px, made_from)
        of_tile = partial(_segment_tile, slide, finder, halo_px, outlines)
        executor = "threads" if finder.kind == "named" else executor
        found = map_in_order(of_tile, unfinished.tiles_left(), n_workers, executor=executor, activity="segmenting")
        n_cells = unfinished.fill(found)
        if not n_cells:
            unfinished.discard()
            raise _nothing_found(slide, settings, roi)
        others = [one for one in nuclear_candidates(slide.markers) if one != settings.get("nuclear_marker")]
        unfinished.finish(
            pixel_size_um=slide.pixel_size_um,
            about=lambda coarse: (
                settings | ({"cells": n_cells} if roi else describe_cells(slide, coarse, n_cells, others))
            ),
            workers=n_workers,
        )
    logger.info("%s: %d cells", path, n_cells)
    return open_finest_labels(path)


def _check_free(paths: Sequence[Path], *, overwrite: bool) -> None:
    for path in paths:
        if path.exists() and not overwrite:
            msg = f"{path} exists."
            raise InputError(msg, "Choose another name, or pass `overwrite=True` to replace it.")
        if path.exists() and not made_by_mxsplicer(path):
            msg = f"{path} is not a mask that mxsplicer made, so it is not replaced."
            raise InputError(msg, "Choose another name.")


def _nothing_found(slide: Slide, settings: dict[str, str | float], roi: str | Path | None) -> InputError:
    method = settings.get("segmenter", settings.get("nuclear_marker"))
    where = f"slide {slide.name!r}" if roi is None else f"the outlines of {Path(roi).name} on slide {slide.name!r}"
    return InputError(
        f"no nucleus was found in {where} by {method} at {slide.pixel_size_um:g} µm per pixel.",
        "Name another `nuclear_marker`, check the pixel size, or give a `mask`.",
    )


def _made_from(
    slide: Slide, channels: list[int], settings: dict[str, str | float], grid: TileGrid, n_masks: int
) -> dict[str, Any] | None:
    """Return what decides the masks of a segmentation, or None for an image in memory, which has no fingerprint."""
    if slide.path is None:
        return None
    image = {"image": fingerprint(slide.path), "channels": channels}
    image |= {"images_in_file": slide.images_in_file} if slide.images_in_file else {}
    tiles = {"shape_px": list(grid.shape_px), "tile_px": list(grid.tile_px), "masks": n_masks}
    return {"version": version("mxsplicer"), **image, **settings, **tiles}


def _segment_tile(slide: Slide, finder: CellFinder, halo_px: int, outlines: Polygons | None, core: Window) -> Found:
    """Return the cells and nuclei of a tile with its halo, and which of them belong to the tile."""
    window = expand_window(core, halo_px, slide.shape_px)
    if outlines is not None and not outlines[core].any():
        nothing = np.zeros([side.stop - side.start for side in window], dtype=np.uint32)
        return nothing, nothing, np.zeros(1, dtype=bool)
    channels = finder.channels
    adjacent = np.all(np.diff(channels) == 1)
    image = slide.image[channels[0] : channels[-1] + 1, *window] if adjacent else _stacked(slide, channels, window)
    cells, nuclei = finder.find(np.asarray(image))
    return cells, nuclei, owned_labels(nuclei, core, window, outlines)


def _stacked(slide: Slide, channels: list[int], window: Window) -> np.ndarray:
    return np.stack([np.asarray(slide.image[channel, *window]) for channel in channels])
