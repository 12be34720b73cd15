"""Images of single cells: patches cut from the slides, next to each other, with one contrast per marker."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from skimage.segmentation import find_boundaries

from mxsplicer.errors import InputError
from mxsplicer.images.lazy_images import LazyImage
from mxsplicer.images.slide import Slide, drop_markers
from mxsplicer.images.tiles import reading_tile
from mxsplicer.patches import PATCH_SIZE_UM
from mxsplicer.patches.cutting import cut_patches
from mxsplicer.patches.store import THIS_CELL
from mxsplicer.pl import colors
from mxsplicer.pl.axes import axes_or_new, hide_ticks_and_frame
from mxsplicer.tl.clustering import cluster_codes
from mxsplicer.tl.reading import row_slices
from mxsplicer.tl.representations import intensities_of

_GAP_PX = 2
_HEADROOM = 1.4  # leaves room for the sum of several colours, which would be white without it
_HEADROOM_OF_MEANS = 2.2  # the same, and pixels are brighter than the mean of their cell
_OUTLINE = np.array([255, 255, 255])
_LEAST_UM = 24.0  # of the image of an example cell
_PIXELS_TO_READ = 1.5e9  # over all markers: about a minute of decoding


@dataclass(frozen=True, eq=False)
class CellImages:
    """Images of some cells for a gallery, in the order of a table of cells."""

    patches: np.ndarray  # (n, C, P, P)
    regions: np.ndarray  # (n, P, P): background, this cell, another cell
    found: np.ndarray  # (n,) False if the slide of the cell was not given; the patch is then 0
    markers: tuple[str, ...]  # (C,)

    def limits(self) -> dict[str, tuple[float, float]]:
        """Return for each marker the intensities to show as black and as full, by the pixels of these cells alone."""
        shown = self.patches[self.found]
        return {
            marker: _with_headroom(*colors.contrast_limits(shown[:, channel]), _HEADROOM)
            for channel, marker in enumerate(self.markers)
        }


def limits_of_all_cells(adata: AnnData, markers: Sequence[str]) -> dict[str, tuple[float, float]] | None:
    """Return for each marker the intensities to show as black and as full in a gallery of any cells.

    They are percentiles 1 and 99.8 of the mean intensities of all cells, on all slides, so that a cell without a marker
    looks as if it had none whichever cells are shown with it. Above the second is some headroom.

    Parameters
    ----------
    adata
        Cells with raw intensities in ``X``.
    markers
        Names of markers.

    Returns
    -------
    The limits by marker; None if ``X`` is not raw, or lacks one of the markers.
    """
    names = adata.var_names.astype(str).tolist()
    if intensities_of(adata).form != "raw" or not set(markers) <= set(names):
        return None
    limits = {}
    for marker in markers:
        column = np.concatenate([_column(adata.X[part], names.index(marker)) for part in row_slices(adata.n_obs)])
        limits[marker] = _with_headroom(*colors.contrast_limits(column), _HEADROOM_OF_MEANS)
    return limits


def _column(rows: Any, number: int) -> np.ndarray:
    column = rows[:, number]
    return np.asarray(column.toarray() if hasattr(column, "toarray") else column).ravel()


def _with_headroom(low: float, high: float, times: float) -> tuple[float, float]:
    return low, low + times * (high - low)


def cut_cells(
    cells: pd.DataFrame,
    slides: Sequence[Slide],
    masks: Sequence[LazyImage],
    *,
    markers: Sequence[str] | None = None,
    patch_size_um: float = PATCH_SIZE_UM,
) -> CellImages:
    """Cut the patches for a gallery of cells from their slides. Each tile of a slide is read once.

    Parameters
    ----------
    cells
        Columns ``slide``, ``cell_id``, ``x_px``, ``y_px``: rows of ``adata.obs``, or what
        :func:`mxsplicer.tl.pick_examples` and :func:`mxsplicer.tl.similar` return.
    slides, masks
        The slides of the cells, all with the same pixel size, and a mask for each. Patches of cells on other slides are
        empty.
    markers
        Markers to read; by default those that all slides have.
    patch_size_um
        Side of a patch in micrometres.
    """
    if len(slides) != len(masks) or not slides:
        msg = f"{len(slides)} slides and {len(masks)} masks were given."
        raise InputError(msg, "Pass one mask for each slide, in the same order.")
    shared = [marker for marker in slides[0].markers if all(marker in slide.markers for slide in slides)]
    wanted = tuple(shared if markers is None else markers)
    side_px = 2 * max(1, round(patch_size_um / slides[0].pixel_size_um / 2))
    dtype = np.result_type(*(np.dtype(slide.image.dtype) for slide in slides))
    patches = np.zeros((len(cells), len(wanted), side_px, side_px), dtype.newbyteorder("="))
    regions = np.zeros((len(cells), side_px, side_px), np.uint8)
    slide_of = cells["slide"].astype(str).to_numpy() if "slide" in cells else np.full(len(cells), slides[0].name)
    for slide, mask in zip(slides, masks, strict=True):
        rows = np.flatnonzero(slide_of == slide.name)
        if not len(rows):
            continue
        reduced = drop_markers(slide, [marker for marker in slide.markers if marker not in wanted])
        columns = (cells[column].to_numpy()[rows] for column in ("x_px", "y_px", "cell_id"))
        found, regions[rows] = cut_patches(reduced, mask, *columns, patch_px=side_px)
        patches[rows] = found[:, reduced.channels_of(wanted)]
    return CellImages(patches, regions, np.isin(slide_of, [slide.name for slide in slides]), wanted)


def contact_sheet(
    images: CellImages,
    rows: Sequence[Sequence[int]],
    *,
    markers: Sequence[str],
    limits: Mapping[str, tuple[float, float]],
    outline: bool = True,
    scale: int = 1,
) -> np.ndarray:
    """Arrange patches in a gallery's rows, one RGB image (y, x, 3) uint8, with up to four markers in colour.

    Parameters
    ----------
    images
        The patches.
    rows
        For each row of the sheet the indices of its cells in ``images``.
    markers
        One to four markers of ``images``; the first is blue.
    limits
        For each marker the intensities to show as black and as full.
    outline
        Draw a white line around the cell at the centre of each patch.
    scale
        Pixels of the sheet for one pixel of a patch, along each side.
    """
    side = images.patches.shape[-1] * scale
    width = max((len(row) for row in rows), default=0)
    sheet = np.full((len(rows) * (side + _GAP_PX) - _GAP_PX, width * (side + _GAP_PX) - _GAP_PX, 3), 255, np.uint8)
    chosen = [images.markers.index(marker) for marker in markers[: len(colors.CHANNELS)]]
    of_markers = [limits[images.markers[channel]] for channel in chosen]
    for down, row in enumerate(rows):
        for right, cell in enumerate(row):
            region = images.regions[cell] if outline else None
            rgb = draw_cell(images.patches[cell, chosen], of_markers, region=region, scale=scale)
            top, left = down * (side + _GAP_PX), right * (side + _GAP_PX)
            sheet[top : top + side, left : left + side] = rgb
    return sheet


def draw_cell(
    patch: np.ndarray,
    limits: Sequence[tuple[float, float]],
    *,
    region: np.ndarray | None = None,
    scale: int = 1,
    channel_colors: Sequence[str] = colors.CHANNELS,
) -> np.ndarray:
    """Return the image of one cell, RGB (y, x, 3) uint8, with up to four markers in colour.

    Parameters
    ----------
    patch
        Channels (C, P, P), those of the first colours.
    limits
        For each channel the intensities to show as black and as full.
    region
        Region (P, P) of each pixel, 1 for this cell, which gets a white outline; without it there is none.
    scale
        Pixels of the image for one pixel of the patch, along each side.
    channel_colors
        One per channel, as ``#rrggbb``; by default blue, orange, pink and turquoise.
    """
    rgb = colors.composite(patch, limits, channel_colors)
    rgb = rgb.repeat(scale, axis=0).repeat(scale, axis=1)
    if region is not None:
        inside = (region == THIS_CELL).repeat(scale, axis=0).repeat(scale, axis=1)
        rgb[find_boundaries(inside, mode="outer")] = _OUTLINE
    return np.asarray(rgb)


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
    """Show images of cells, cut from their slides, with one contrast per marker.

    It is that of all cells in ``adata``, whichever are shown; see the percentiles in :func:`limits_of_all_cells`. If
    ``X`` is not raw it is that of the cells shown, and the title reports it.

    Parameters
    ----------
    adata
        Embedded cells.
    slides, masks
        The slides of the cells, and a label image (Y, X) for each.
    cells
        Names of cells, or a table of cells. The table of :func:`mxsplicer.tl.pick_examples` gives one row for each
        cluster and kind; the table of :func:`mxsplicer.tl.similar` one row for each queried cell, which comes first.
    markers
        One to four names; the first is blue, as nuclei usually are.
    limits
        For each marker the intensities to show as black and as full, instead of those of all cells.
    patch_size_um
        Side of a patch; by default as in the embedding.
    outline
        Draw a white line around each cell.
    columns
        Cells in a row, if ``cells`` are names.
    ax
        Where to draw; a new figure by default.
    """
    table, rows, names = _gallery_rows(adata, cells, columns)
    size_um = patch_size_um or float(adata.uns.get("mxsplicer", {}).get("patch_size_um", PATCH_SIZE_UM))
    images = cut_cells(table, slides, masks, markers=markers[: len(colors.CHANNELS)], patch_size_um=size_um)
    of_all = limits or limits_of_all_cells(adata, images.markers)
    shown = images.limits() if of_all is None else of_all
    sheet = contact_sheet(images, rows, markers=markers, limits=shown, outline=outline, scale=2)
    ax = axes_or_new(ax, (0.9 * max(map(len, rows), default=1) + 1, 0.9 * len(rows) + 0.5))
    ax.imshow(sheet, interpolation="nearest")
    hide_ticks_and_frame(ax)
    if names:
        height = sheet.shape[0] / len(rows)
        ax.set_yticks([(row + 0.5) * height for row in range(len(rows))], names, fontsize=8)
        ax.tick_params(left=False)
    handles = [
        Line2D([], [], marker="s", linestyle="", markersize=8, color=color, label=marker)
        for marker, color in zip(images.markers, colors.CHANNELS, strict=False)
    ]
    ax.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=4, frameon=False, fontsize=9)
    note = "; contrast of these cells alone" if of_all is None else ""
    ax.set_title(f"{size_um:g} µm wide{note}", fontsize=9)
    return ax


def _gallery_rows(
    adata: AnnData, cells: pd.DataFrame | Sequence[str], columns: int
) -> tuple[pd.DataFrame, list[list[int]], list[str]]:
    """Return the table of cells in a gallery, the indices of the cells in each row, and names of the rows, if any."""
    if isinstance(cells, pd.DataFrame) and "group" in cells:
        table, labels = cells, list(cells["group"].astype(str) + ", " + cells["kind"].astype(str))
    elif isinstance(cells, pd.DataFrame) and "query" in cells:
        queries = list(dict.fromkeys(cells["query"]))
        names = [name for query in queries for name in (query, *cells.index[cells["query"] == query])]
        labels = [query for query in queries for _ in range(1 + int((cells["query"] == query).sum()))]
        table = adata.obs.loc[names]
    else:
        names = list(cells.index if isinstance(cells, pd.DataFrame) else cells)
        unknown = [name for name in names if name not in adata.obs_names]
        if unknown:
            msg = f"cell {unknown[0]!r} not found; cells are named SLIDE_CELLID, such as {adata.obs_names[0]!r}."
            raise InputError(msg)
        rows = [list(range(first, min(first + columns, len(names)))) for first in range(0, len(names), columns)]
        return adata.obs.loc[names], rows, []
    names = list(dict.fromkeys(labels))
    return table, [[i for i, label in enumerate(labels) if label == name] for name in names], names


def gallery_size_um(adata: AnnData) -> float:
    """Return the side of an image of an example cell in micrometres, wide enough to show the neighbours."""
    return max(_LEAST_UM, float(adata.uns.get("mxsplicer", {}).get("patch_size_um", PATCH_SIZE_UM)))


def examples_within_reach(
    adata: AnnData, slides: Sequence[Slide], n_markers: int, *, groupby: str = "leiden"
) -> tuple[np.ndarray | None, int]:
    """Return which example cells may be shown, and on how many tiles they lie; None and 0 if all may be shown.

    Cells from all over a large slide would need nearly all of it to be decoded. So some tiles are chosen, those of
    cells drawn at random from each cluster, and the cells that lie completely inside them.
    """
    tile, inside, tile_pixels = _tiles_of_cells(adata, slides)
    most = max(8, int(_PIXELS_TO_READ / tile_pixels / max(n_markers, 1)))
    if len(np.unique(tile[tile >= 0])) <= most:
        return None, 0
    clusters, codes = cluster_codes(adata, groupby)
    rng = np.random.default_rng(0)
    usable = inside & (tile >= 0)
    chosen: set[int] = set()
    for code in range(len(clusters)):
        rows = np.flatnonzero((codes == code) & usable)
        drawn = rng.choice(rows, min(len(rows), max(1, most // len(clusters))), replace=False) if len(rows) else rows
        chosen |= set(tile[drawn].tolist())
    return usable & np.isin(tile, list(chosen)), len(chosen)


def _tiles_of_cells(adata: AnnData, slides: Sequence[Slide]) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the tile of each possible example cell (-1 without a slide), whether its patch lies inside, and pixels."""
    slide_of = adata.obs["slide"].astype(str).astype("category").cat
    names, code_of = [str(name) for name in slide_of.categories], slide_of.codes.to_numpy()
    x, y = adata.obs["x_px"].to_numpy(), adata.obs["y_px"].to_numpy()
    tile = np.full(adata.n_obs, -1, dtype=np.int64)
    inside = np.zeros(adata.n_obs, dtype=bool)
    first, tile_pixels = 0, 1
    for slide in slides:
        if slide.name not in names:
            continue
        cells = np.flatnonzero(code_of == names.index(slide.name))
        height, width = reading_tile(slide.tile_px, slide.shape_px)
        across, down = -(-slide.shape_px[1] // width), -(-slide.shape_px[0] // height)
        tile[cells] = first + (y[cells] // height).astype(int) * across + (x[cells] // width).astype(int)
        margin = gallery_size_um(adata) / slide.pixel_size_um / 2 + 1
        inside[cells] = np.logical_and(
            *(np.minimum(at % side, side - at % side) >= margin for at, side in ((y[cells], height), (x[cells], width)))
        )
        first, tile_pixels = first + across * down, max(tile_pixels, height * width)
    return tile, inside, tile_pixels
