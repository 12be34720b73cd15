"""Cells as the microscope saw them: patches cut from the slide, side by side, each marker on one scale."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from skimage.segmentation import find_boundaries

from mxsplicer.errors import InputError
from mxsplicer.images.slide import LazyImage, Slide, drop_markers
from mxsplicer.patches.cutting import cut_patches
from mxsplicer.patches.store import THIS_CELL
from mxsplicer.pl import colors
from mxsplicer.pl.axes import axes_or_new, bare

_GAP_PX = 2
_HEADROOM = 1.4  # colours of markers that lie together add up; with none they would be white
_OUTLINE = np.array([255, 255, 255])


@dataclass(frozen=True, eq=False)
class CellImages:
    """Patches of some cells, in the order of a table of cells."""

    patches: np.ndarray  # (n, C, P, P)
    regions: np.ndarray  # (n, P, P): background, this cell, another cell
    found: np.ndarray  # (n,) False where there is no slide of that name; such patches are 0
    markers: tuple[str, ...]  # (C,)

    def limits(self) -> dict[str, tuple[float, float]]:
        """Return for each marker the intensities to show black and full: one contrast for all of these cells."""
        seen = self.patches[self.found]
        limits = (colors.contrast_limits(seen[:, channel]) for channel in range(len(self.markers)))
        return {
            marker: (low, low + _HEADROOM * (high - low))
            for marker, (low, high) in zip(self.markers, limits, strict=True)
        }


def cut_cells(
    cells: pd.DataFrame,
    slides: Sequence[Slide],
    masks: Sequence[LazyImage],
    *,
    markers: Sequence[str] | None = None,
    patch_size_um: float = 32.0,
) -> CellImages:
    """Cut the patches of cells of any of the slides; each tile of a slide is read once.

    Parameters
    ----------
    cells
        Columns ``slide``, ``cell_id``, ``x_px``, ``y_px``: rows of ``adata.obs``, or what
        :func:`mxsplicer.tl.pick_examples` and :func:`mxsplicer.tl.similar` return.
    slides, masks
        Where they are from; slides of the same pixel size. Cells of a slide that is not given stay empty.
    markers
        Which to cut; those that all slides have by default. The others are not read.
    patch_size_um
        Side of a patch.
    """
    if len(slides) != len(masks) or not slides:
        msg = f"{len(slides)} slides and {len(masks)} masks were given; a mask for each slide is needed."
        raise InputError(msg)
    shared = [marker for marker in slides[0].markers if all(marker in slide.markers for slide in slides)]
    wanted = tuple(shared if markers is None else markers)
    side_px = 2 * max(1, round(patch_size_um / slides[0].pixel_size_um / 2))
    dtype = np.result_type(*(np.dtype(slide.image.dtype) for slide in slides))
    patches = np.zeros((len(cells), len(wanted), side_px, side_px), dtype.newbyteorder("="))
    regions = np.zeros((len(cells), side_px, side_px), np.uint8)
    of_row = cells["slide"].astype(str).to_numpy() if "slide" in cells else np.full(len(cells), slides[0].name)
    for slide, mask in zip(slides, masks, strict=True):
        rows = np.flatnonzero(of_row == slide.name)
        if not len(rows):
            continue
        own = drop_markers(slide, [marker for marker in slide.markers if marker not in wanted])
        columns = (cells[column].to_numpy()[rows] for column in ("x_px", "y_px", "cell_id"))
        found, regions[rows] = cut_patches(own, mask, *columns, patch_px=side_px)
        patches[rows] = found[:, own.channels_of(wanted)]
    return CellImages(patches, regions, np.isin(of_row, [slide.name for slide in slides]), wanted)


def contact_sheet(
    images: CellImages,
    rows: Sequence[Sequence[int]],
    *,
    markers: Sequence[str],
    limits: Mapping[str, tuple[float, float]],
    outline: bool = True,
    scale: int = 1,
) -> np.ndarray:
    """Return a picture (y, x, 3) uint8 of rows of patches, up to four markers in colour.

    Parameters
    ----------
    images
        The patches.
    rows
        For each row of the picture the places of its cells in ``images``.
    markers
        One to four of its markers; the first is blue.
    limits
        For each marker the intensities to show black and full.
    outline
        Draw a white line around the cell that is meant.
    scale
        Pixels of the picture for one of a patch, along each side.
    """
    side = images.patches.shape[-1] * scale
    width = max((len(row) for row in rows), default=0)
    sheet = np.full((len(rows) * (side + _GAP_PX) - _GAP_PX, width * (side + _GAP_PX) - _GAP_PX, 3), 255, np.uint8)
    chosen = [images.markers.index(marker) for marker in markers[: len(colors.CHANNELS)]]
    of_markers = [limits[images.markers[channel]] for channel in chosen]
    for down, row in enumerate(rows):
        for right, cell in enumerate(row):
            picture = colors.composite(images.patches[cell, chosen], of_markers)
            picture = picture.repeat(scale, axis=0).repeat(scale, axis=1)
            if outline:
                inside = (images.regions[cell] == THIS_CELL).repeat(scale, axis=0).repeat(scale, axis=1)
                picture[find_boundaries(inside, mode="outer")] = _OUTLINE
            top, left = down * (side + _GAP_PX), right * (side + _GAP_PX)
            sheet[top : top + side, left : left + side] = picture
    return sheet


def gallery(
    adata: AnnData,
    *,
    slides: Sequence[Slide],
    masks: Sequence[LazyImage],
    cells: pd.DataFrame | Sequence[str],
    markers: Sequence[str],
    limits: Mapping[str, tuple[float, float]] | None = None,
    patch_size_um: float | None = None,
    outline: bool = True,
    columns: int = 8,
    ax: Axes | None = None,
) -> Axes:
    """Show cells as they are on the slide, cut anew, with one fixed contrast per marker over all that are shown.

    Parameters
    ----------
    adata
        Embedded cells.
    slides, masks
        The slides they are from, and their label images.
    cells
        Names of cells, or a table of them: what :func:`mxsplicer.tl.pick_examples` returned fills a row for each
        cluster and kind, what :func:`mxsplicer.tl.similar` returned a row for each cell asked for, that one first.
    markers
        One to four; the first is shown in blue, as nuclei are.
    limits
        For each marker the intensities to show black and full, where several galleries are to be compared.
    patch_size_um
        Side of a patch; that of the embedding by default.
    outline
        Draw a white line around each cell.
    columns
        Cells in a row, where names are given.
    ax
        Where to draw; a new figure by default.
    """
    if isinstance(cells, pd.DataFrame) and "group" in cells:
        table, labels = cells, list(cells["group"].astype(str) + ", " + cells["kind"].astype(str))
    elif isinstance(cells, pd.DataFrame) and "query" in cells:
        asked = list(dict.fromkeys(cells["query"]))
        names = [name for query in asked for name in (query, *cells.index[cells["query"] == query])]
        labels = [query for query in asked for _ in range(1 + int((cells["query"] == query).sum()))]
        table = adata.obs.loc[names]
    else:
        names = list(cells.index if isinstance(cells, pd.DataFrame) else cells)
        unknown = [name for name in names if name not in adata.obs_names]
        if unknown:
            msg = f"there is no cell {unknown[0]!r}; cells are called as {adata.obs_names[0]!r} is, SLIDE_CELLID."
            raise InputError(msg)
        table, labels = adata.obs.loc[names], [f"{place // columns}" for place in range(len(names))]
    size_um = patch_size_um or float(adata.uns.get("mxsplicer", {}).get("patch_size_um", 32.0))
    images = cut_cells(table, slides, masks, markers=markers[: len(colors.CHANNELS)], patch_size_um=size_um)
    order = list(dict.fromkeys(labels))
    rows = [[place for place, label in enumerate(labels) if label == one] for one in order]
    sheet = contact_sheet(images, rows, markers=markers, limits=limits or images.limits(), outline=outline, scale=2)
    ax = axes_or_new(ax, (0.9 * max(map(len, rows), default=1) + 1, 0.9 * len(rows) + 0.5))
    ax.imshow(sheet, interpolation="nearest")
    bare(ax)
    if any(label != str(place // columns) for place, label in enumerate(labels)):
        height = sheet.shape[0] / len(rows)
        ax.set_yticks([(place + 0.5) * height for place in range(len(rows))], order, fontsize=8)
        ax.tick_params(left=False)
    handles = [
        Line2D([], [], marker="s", linestyle="", markersize=8, color=color, label=marker)
        for marker, color in zip(images.markers, colors.CHANNELS, strict=False)
    ]
    ax.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=4, frameon=False, fontsize=9)
    ax.set_title(f"{size_um:g} µm wide", fontsize=9)
    return ax
