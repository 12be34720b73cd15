"""Example cells of the web page: for each cluster typical, borderline and outlying cells, at full resolution."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from anndata import AnnData

from mxsplicer.export.web.scripts import pack, pack_image, write_script
from mxsplicer.export.web.tiles import Brightness
from mxsplicer.images.lazy_images import LazyImage
from mxsplicer.images.slide import Slide
from mxsplicer.patches.store import THIS_CELL
from mxsplicer.pl.galleries import cut_cells, examples_within_reach, gallery_size_um
from mxsplicer.tl.examples import KINDS, pick_examples

_CELLS = 8  # of each kind
_JPEG_QUALITY = 92


def write_examples(
    folder: Path,
    adata: AnnData,
    slides: Sequence[Slide],
    masks: Sequence[LazyImage],
    brightness: Sequence[Sequence[Brightness]],
    *,
    groupby: str,
    use_rep: str,
) -> dict[str, Any]:
    """Write a script per cluster with images of its example cells in every marker that all slides have.

    Parameters
    ----------
    folder
        Folder of the page.
    adata, slides, masks
        Cells, their slides and masks.
    brightness
        Of the channels of each slide; the images are encoded as the tiles of the first slide are.
    groupby, use_rep
        Column of the clusters, and key of the representation that examples are chosen by.

    Returns
    -------
    The side of an image in pixels and micrometres, the markers, and per cluster the rows of its cells by kind.
    """
    markers = [marker for marker in slides[0].markers if all(marker in slide.markers for slide in slides)]
    among, n_tiles = examples_within_reach(adata, slides, len(markers), groupby=groupby)
    table = pick_examples(adata, groupby=groupby, use_rep=use_rep, n=_CELLS, among=among)
    size_um = gallery_size_um(adata)
    images = cut_cells(table, slides, masks, markers=markers, patch_size_um=size_um)
    encoders = [brightness[0][slides[0].markers.index(marker)] for marker in markers]
    side, clusters = images.patches.shape[-1], {}
    names = adata.obs[groupby].astype("category").cat.categories
    group, kind = table["group"].to_numpy(), table["kind"].to_numpy()
    for code, name in enumerate(map(str, names)):
        cells = [np.flatnonzero((group == name) & (kind == one)) for one in KINDS]
        if not sum(map(len, cells)):
            continue
        sheets = {
            marker: pack_image(
                imagecodecs.jpeg8_encode(
                    encoder.encode(_sheet(images.patches[:, place], cells, side)), level=_JPEG_QUALITY
                )
            )
            for place, (marker, encoder) in enumerate(zip(markers, encoders, strict=True))
        }
        inside = _sheet((images.regions == THIS_CELL).astype(np.uint8), cells, side)
        write_script(folder, f"examples/{code}", {"sheets": list(sheets.values()), "inside": pack(inside)})
        clusters[str(code)] = [table["row"].to_numpy()[one].tolist() for one in cells]
    return {
        "side_px": side,
        "size_um": size_um,
        "kinds": list(KINDS),
        "across": _CELLS,
        "markers": markers,
        "clusters": clusters,
        "n_tiles": n_tiles,
    }


def _sheet(images: np.ndarray, cells: Sequence[np.ndarray], side: int) -> np.ndarray:
    """Return images (n, side, side) next to each other, one row for each kind of example cells."""
    sheet = np.zeros((len(cells) * side, _CELLS * side), images.dtype)
    for down, rows in enumerate(cells):
        for across, row in enumerate(rows):
            sheet[down * side : (down + 1) * side, across * side : (across + 1) * side] = images[row]
    return sheet
