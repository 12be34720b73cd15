"""The mask doctor: whether a mask is sound and fits its slide; what is wrong, why that may be, and what mends it.

The mask is read once, a tile at a time: its parts (connected pixels of one id) are counted and measured, and so are the
borders of cells along every row and column. Then the depth of pixels inside their cells is laid over the nuclear
marker, in a few windows of full resolution: where the two fit best tells of shifts, flips and masks of other slides.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import fft, ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from skimage.measure import label as connected_parts

from mxsplicer.errors import InputError
from mxsplicer.images.markers import find_nuclear_marker
from mxsplicer.images.slide import LazyImage, Slide, check_mask, overview
from mxsplicer.masks.files import NotLabelsError
from mxsplicer.system.progress import track

logger = logging.getLogger(__name__)

_PLAUSIBLE_UM = (3.5, 40.0)  # median diameter of cells: small nuclei below, hepatocytes and tumour giants above
_LARGEST_IDS = {255: "8-bit", 32_767: "16-bit", 65_535: "16-bit"}
_WINDOW_PX, _WINDOWS = 1024, 9  # where the mask is compared with the nuclear marker
_MOST_SEAMS = 64  # along each axis
_SURE = 7.0  # standard deviations above the correlation of unrelated positions
_SHIFT_UM, _SHIFT_PX = 0.75, 1.5  # smaller shifts than both are of no consequence: the centre of a nucleus is softer


@dataclass(frozen=True)
class Finding:
    """One thing about a mask."""

    name: str
    wrong: bool  # else it is worth knowing, and no fault
    found: str
    cause: str
    fix: str
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Diagnosis:
    """All that was found about a mask."""

    n_cells: int
    median_diameter_um: float | None
    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong."""
        return not any(finding.wrong for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {"healthy": self.healthy, **asdict(self)}


def examine(
    slide: Slide,
    mask: LazyImage,
    *,
    nuclear_marker: str | None = None,
    nuclei: LazyImage | None = None,
    tile_px: int = 2048,
) -> Diagnosis:
    """Say what is wrong with a mask.

    Memory does not grow with the slide, but for some numbers per cell.

    Parameters
    ----------
    slide
        Image (C, Y, X) with its markers and pixel size.
    mask
        Label image (Y, X), of whatever size; only one as high and wide as the slide is compared with its nuclei.
    nuclear_marker
        The marker that shows nuclei; by default it is known by its name.
    nuclei
        Mask of the nuclei, which should have the ids of their cells.
    tile_px
        Side of what is held in memory at a time. The result does not depend on it.

    Examples
    --------
    >>> from mxsplicer.testing import tiny_slide
    >>> slide, mask = tiny_slide(cells_at=[(20, 30), (20, 60)])
    >>> [finding.name for finding in examine(slide, mask.T).findings]
    ['transposed']
    """
    findings = _shape(slide, mask)
    try:
        parts = _parts_of(mask, slide, tile_px)
    except NotLabelsError as error:
        found = Finding(
            "intensities", True, str(error), "It is an image or a map of probabilities.", "Give the label image."
        )
        return Diagnosis(0, None, (*findings, found))
    if parts.noise or not len(parts.ids):
        return Diagnosis(0, None, (*findings, _no_cells(parts)))
    cells = _Cells(parts)
    median_um = float(np.median(cells.diameters)) * slide.pixel_size_um
    background = _background(parts, cells)
    kinds = background or _few_ids(cells) or _interpolated(cells)
    findings += kinds
    if not kinds:
        findings += _repeats(cells) + _gaps(cells) + _giants(cells) + _sizes(median_um, slide)
        findings += _seams(mask, parts, cells) + _stripes(parts, cells)
    if nuclei is not None and not background:
        findings += compare_nuclei(mask, nuclei, tile_px=tile_px)
    if tuple(mask.shape) == slide.shape_px and not background:
        findings += _fit(slide, mask, parts, nuclear_marker)
    return Diagnosis(len(cells.ids), median_um, tuple(findings))


def compare_nuclei(mask: LazyImage, nuclei: LazyImage, *, tile_px: int = 2048) -> list[Finding]:
    """Return whether a mask of nuclei agrees with the mask of their cells: the same ids at the same places."""
    if tuple(mask.shape) != tuple(nuclei.shape):
        found = f"The nuclei are {tuple(nuclei.shape)} and the cells {tuple(mask.shape)} (Y, X)."
        return [Finding("nuclei", True, found, "They are of other levels or slides.", "Give masks of one run.")]
    pairs: dict[tuple[int, int], int] = {}
    cell_ids, nucleus_ids = set[int](), set[int]()
    tiles = list(_tiles(tuple(mask.shape), (tile_px, tile_px)))
    for rows, columns in track(tiles, "Comparing nuclei"):
        cell, nucleus = (np.asarray(one[rows, columns]).astype(np.uint64).ravel() for one in (mask, nuclei))
        cell_ids.update(np.unique(cell).tolist())
        both, counts = np.unique((nucleus << np.uint64(32) | cell)[nucleus > 0], return_counts=True)
        for one, n in zip(both.tolist(), counts.tolist(), strict=True):
            place = (one >> 32, one & 0xFFFFFFFF)
            pairs[place] = pairs.get(place, 0) + n
            nucleus_ids.add(one >> 32)
    cell_ids.discard(0)
    strangers = nucleus_ids - cell_ids
    pixels = sum(pairs.values())
    outside = sum(n for (nucleus, cell), n in pairs.items() if nucleus != cell)
    figures = {
        "nuclei": len(nucleus_ids),
        "cells": len(cell_ids),
        "nuclei_without_cell": len(strangers),
        "cells_without_nucleus": len(cell_ids - nucleus_ids),
        "share_of_nuclei_outside_their_cells": round(outside / max(1, pixels), 4),
    }
    found = (
        f"{len(nucleus_ids):,} nuclei and {len(cell_ids):,} cells: {len(strangers):,} nuclei have the id of no cell, "
        f"{figures['cells_without_nucleus']:,} cells have no nucleus, and {outside / max(1, pixels):.1%} of the pixels "
        "of nuclei lie outside the cell of their id."
    )
    wrong = bool(strangers) or outside > 0.05 * pixels
    cause = "The two masks were numbered apart from each other." if wrong else "They agree."
    fix = "Export both from one run, or give each nucleus the id of the cell it lies in." if wrong else ""
    return [Finding("nuclei", wrong, found, cause, fix, figures)]


@dataclass(frozen=True, eq=False)
class _Parts:
    """Connected pixels of one id, joined over tiles; and counts along rows and columns."""

    shape: tuple[int, int]
    ids: np.ndarray  # (P) of each part
    areas: np.ndarray  # (P) pixels
    y: np.ndarray  # (P) centroid
    x: np.ndarray
    borders: tuple[np.ndarray, np.ndarray]  # of each row: pixels that differ from the row above; of each column: left
    inside: tuple[np.ndarray, np.ndarray]  # of each row and column: pixels of cells
    noise: bool = False  # so many parts of a few pixels that counting was given up


class _Cells:
    """What one id has."""

    def __init__(self, parts: _Parts) -> None:
        self.parts = parts
        self.ids, self.of_part, self.n_parts = np.unique(parts.ids, return_inverse=True, return_counts=True)
        self.areas = np.bincount(self.of_part, weights=parts.areas)
        # Of its largest part: an id that lies at several places would look too large, one that has crumbs too small.
        self.largest = np.zeros(len(self.ids))
        np.maximum.at(self.largest, self.of_part, parts.areas)
        self.diameters = 2 * np.sqrt(self.largest / np.pi)


def _tiles(shape: tuple[int, ...], tile_px: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    for top in range(0, shape[0], tile_px[0]):
        for left in range(0, shape[1], tile_px[1]):
            yield slice(top, min(shape[0], top + tile_px[0])), slice(left, min(shape[1], left + tile_px[1]))


def _parts_of(mask: LazyImage, slide: Slide, tile_px: int) -> _Parts:
    shape = (mask.shape[0], mask.shape[1])
    down, across = (max(1, tile_px // side) * side if side <= 2 * tile_px else tile_px for side in slide.tile_px)
    tiles = list(_tiles(shape, (down, across)))
    counting = _Counting(shape)
    for rows, columns in track(tiles, "Reading the mask"):
        counting.add(np.asarray(mask[rows, columns]), rows, columns)
        if counting.n_parts > 20_000 and counting.noisy:
            break
    return counting.parts()


class _Counting:
    """Counts the parts of a mask, a tile at a time in rows from the top."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.n_parts = self.n_pixels = 0
        self._shape = shape
        self._borders = np.zeros(shape[0], np.int64), np.zeros(shape[1], np.int64)
        self._inside = np.zeros(shape[0], np.int64), np.zeros(shape[1], np.int64)
        self._found: list[tuple[np.ndarray, ...]] = []
        self._joins: list[np.ndarray] = []  # (2, n): parts that are one
        # Labels and parts of the last row of the tiles above, and of those of this row of tiles, with one more pixel at
        # each end; and of the last column of the tile to the left.
        self._above, self._below = np.zeros((2, 2, shape[1] + 2), np.int64)
        self._beside = np.zeros((2, 0), np.int64)

    @property
    def noisy(self) -> bool:
        """Whether parts are too small for cells."""
        return self.n_parts > 200 and self.n_pixels < 4 * self.n_parts

    def add(self, labels: np.ndarray, rows: slice, columns: slice) -> None:
        """Count a tile."""
        parts, n = connected_parts(labels, background=0, connectivity=2, return_num=True)
        inside = parts.ravel() > 0
        part = parts.ravel()[inside] - 1
        ids, areas = np.zeros(n, labels.dtype), np.bincount(part, minlength=n)
        ids[part] = labels.ravel()[inside]
        y, x = (
            np.bincount(part, weights=np.broadcast_to(along, labels.shape).ravel()[inside], minlength=n) / areas
            for along in np.ogrid[rows, columns]
        )
        self._found.append((ids, areas, y, x))

        def edge(row: slice | int, column: slice | int) -> np.ndarray:
            number = parts[row, column].astype(np.int64)
            return np.stack([labels[row, column], np.where(number > 0, number + self.n_parts, 0)]).astype(np.int64)

        if columns.start == 0:
            self._above, self._below = self._below, np.zeros_like(self._below)
        if rows.start:
            self._join(edge(0, slice(None)), self._above[:, columns.start : columns.stop + 2], 0, rows.start)
        if columns.start:
            self._join(edge(slice(None), 0), np.pad(self._beside, ((0, 0), (1, 1))), 1, columns.start)
        self._below[:, columns.start + 1 : columns.stop + 1] = edge(-1, slice(None))
        self._beside = edge(slice(None), -1)

        self._borders[0][rows.start + 1 : rows.stop] += (labels[1:] != labels[:-1]).sum(axis=1)
        self._borders[1][columns.start + 1 : columns.stop] += (labels[:, 1:] != labels[:, :-1]).sum(axis=0)
        self._inside[0][rows] += (labels > 0).sum(axis=1)
        self._inside[1][columns] += (labels > 0).sum(axis=0)
        self.n_parts, self.n_pixels = self.n_parts + n, self.n_pixels + len(part)

    def _join(self, edge: np.ndarray, others: np.ndarray, axis: int, line: int) -> None:
        """Note which parts go on beyond the edge of a tile; ``others`` reach one pixel further at both ends."""
        for step in range(3):  # parts touch at corners too
            other = others[:, step : step + edge.shape[1]]
            same = (edge[0] == other[0]) & (edge[0] > 0)
            self._joins.append(np.unique(np.stack([edge[1, same], other[1, same]]), axis=1))
        self._borders[axis][line] += (edge[0] != others[0, 1:-1]).sum()

    def parts(self) -> _Parts:
        """Return the parts, those that are one made one."""
        ids, areas, y, x = (np.concatenate(one) for one in zip(*self._found, strict=True))
        if self._joins and not self.noisy:
            pairs = np.concatenate(self._joins, axis=1) - 1
            size = (self.n_parts, self.n_parts)
            graph = coo_array((np.ones(pairs.shape[1], np.uint8), (pairs[0], pairs[1])), shape=size)
            n, whole = connected_components(graph, directed=False)
            total = np.bincount(whole, weights=areas, minlength=n)
            y, x = (np.bincount(whole, weights=areas * one, minlength=n) / total for one in (y, x))
            joined = np.zeros(n, ids.dtype)
            joined[whole] = ids
            ids, areas = joined, total
        return _Parts(self._shape, ids, areas, y, x, self._borders, self._inside, self.noisy)


def _shape(slide: Slide, mask: LazyImage) -> list[Finding]:
    try:
        check_mask(mask, slide)
    except InputError as error:
        sentence = str(error)
    else:
        return []
    found, needed = tuple(mask.shape), slide.shape_px
    figures = {"mask_shape": found, "slide_shape": needed}
    if found == needed[::-1]:
        return [_turned("transposed", "numpy.transpose", sentence, figures)]
    ratios = needed[0] / found[0], needed[1] / found[1]
    if abs(ratios[0] / ratios[1] - 1) < 0.02 and abs(ratios[0] - 1) > 0.2:
        levels = [level for level, image in enumerate(slide.pyramid, 1) if tuple(image.shape[1:]) == found]
        where = f"It is of level {levels[0]} of the slide's pyramid." if levels else "It is of another level or scale."
        fix = "Segment the finest level, or enlarge the mask by repeating pixels (never by interpolating ids)."
        return [Finding("other level", True, sentence, where, fix, figures | {"ratio": round(ratios[0], 3)})]
    cause = "It is of another slide, or of a part of this one."
    return [Finding("other shape", True, sentence, cause, "Give the mask of this slide.", figures)]


def _no_cells(parts: _Parts) -> Finding:
    if parts.noise:
        found = f"Pixels of one value hardly ever lie side by side: {len(parts.ids):,} parts of a few pixels were met."
        cause = "It is an image of intensities or noise, or was scaled by interpolation."
        return Finding(
            "intensities", True, found, cause, "Give the label image; scale it by the nearest neighbour only."
        )
    found = "It holds no cell, only background (0)."
    return Finding("empty", True, found, "The segmentation found nothing, or wrote another page.", "Segment again.")


def _background(parts: _Parts, cells: _Cells) -> list[Finding]:
    """Find an id that is the background."""
    pixels = parts.shape[0] * parts.shape[1]
    largest = int(np.argmax(cells.areas))
    share = cells.areas[largest] / pixels
    typical = np.median(np.delete(cells.areas, largest)) if len(cells.ids) > 1 else 0.0
    if len(cells.ids) > 10 and share > 0.05 and cells.areas[largest] > 50 * typical:
        zero = 1 - parts.areas.sum() / pixels
        found = (
            f"The id {cells.ids[largest]} covers {share:.0%} of the slide, and 0 covers {zero:.0%}: it is no cell but "
            "the background."
        )
        cause = "The background was numbered as well, as connected components do without being told of it."
        fix = f"Set this id to 0: mask[mask == {cells.ids[largest]}] = 0."
        figures = {"id": int(cells.ids[largest]), "share": round(float(share), 4), "share_of_0": round(float(zero), 4)}
        return [Finding("background is not 0", True, found, cause, fix, figures)]
    return []


def _few_ids(cells: _Cells) -> list[Finding]:
    """Find a mask whose values say what a pixel is, and not whose."""
    if len(cells.ids) > 20 or np.median(cells.n_parts) < (2 if len(cells.ids) == 1 else 5):
        return []
    figures = {"values": cells.ids.tolist(), "parts": int(cells.n_parts.sum())}
    if len(cells.ids) == 1:
        found = f"Its only values are 0 and {cells.ids[0]}, in {cells.n_parts[0]:,} separate parts."
        cause = "It tells cells from background, and not one cell from the next (a binary mask)."
    else:
        found = f"It has {len(cells.ids)} values in {cells.n_parts.sum():,} separate parts."
        cause = "It tells kinds of pixels (nucleus, cytoplasm, ...), and not one cell from the next."
    fix = (
        "Number the parts, skimage.measure.label(mask == value), after a watershed where cells touch; or segment again."
    )
    return [Finding("binary", True, found, cause, fix, figures)]


def _interpolated(cells: _Cells) -> list[Finding]:
    """Find rims of foreign ids around cells."""
    crumbs = int((cells.parts.areas < 0.05 * np.median(cells.largest)).sum())
    if crumbs <= 2 * len(cells.ids):
        return []
    found = f"Beside the parts of {len(cells.ids):,} ids there are {crumbs:,} crumbs of a few pixels."
    cause = "The mask was scaled by interpolation, which mixes the ids of neighbours, or saved with losses (JPEG)."
    fix = "Scale the mask anew by the nearest neighbour, and save it without losses."
    return [Finding("interpolated", True, found, cause, fix, {"crumbs": crumbs})]


def _repeats(cells: _Cells) -> list[Finding]:
    """Find ids that are used more than once: far apart for two cells, close by for the fragments of one."""
    several = cells.n_parts[cells.of_part] > 1
    if not several.any():
        return []
    parts, of = cells.parts, cells.of_part[several]
    # Distance of each part from the largest of its id.
    order = np.lexsort((-parts.areas[several], of))
    of, areas = of[order], parts.areas[several][order]
    y, x = parts.y[several][order], parts.x[several][order]
    first = np.r_[True, of[1:] != of[:-1]]
    main = np.maximum.accumulate(np.where(first, np.arange(len(of)), 0))
    distance = np.hypot(y - y[main], x - x[main])
    typical = float(np.median(cells.diameters))
    # Beyond what one cell can span, and each part a cell for itself.
    whole = areas > 0.2 * np.median(cells.largest)
    far = ~first & whole & (distance > 3 * typical + 2 * np.sqrt(areas[main] / np.pi))
    apart, torn = np.unique(of[far]), np.setdiff1d(np.unique(of[~first]), of[far])
    return _wrapped(cells, apart) + _fragments(cells, torn)


def _wrapped(cells: _Cells, apart: np.ndarray) -> list[Finding]:
    largest, n = int(cells.ids[-1]), len(cells.ids)
    cut_off = largest in _LARGEST_IDS and apart.tolist() == [n - 1]
    if not (len(apart) and (cut_off or len(apart) >= 1e-4 * n)):
        return []
    examples = cells.ids[apart[:5]].tolist()
    figures = {"ids": len(apart), "examples": examples, "largest_id": largest}
    found = (
        f"{len(apart):,} of {n:,} ids stand at several places far apart, such as {', '.join(map(str, examples[:3]))}"
    )
    word = next((word for limit, word in _LARGEST_IDS.items() if 0.99 * limit <= largest <= limit), None)
    fix = "Save the mask again as 32-bit integers, or number its parts anew: skimage.measure.label(mask)."
    if cut_off:
        found += f": the last of all, {largest:,}, at {cells.n_parts[-1]:,}."
        cause = (
            f"Ids beyond {largest:,} were cut off to it when the mask was saved as {_LARGEST_IDS[largest]} integers."
        )
        return [Finding("wrapped", True, found, cause, fix, figures)]
    found += f"; the largest id is {largest:,}."
    if word:
        cause = f"Ids began anew after {largest:,} because the mask was saved as {word} integers."
        return [Finding("wrapped", True, found, cause, fix, figures)]
    cause = "Tiles or fields were numbered one by one and put together, or cells were merged by mistake."
    fix = "Number the tiles on from one another, or number all parts again: skimage.measure.label(mask)."
    return [Finding("repeated ids", True, found, cause, fix, figures)]


def _fragments(cells: _Cells, torn: np.ndarray) -> list[Finding]:
    if not len(torn):
        return []
    n, examples = len(cells.ids), cells.ids[torn[:5]].tolist()
    found = f"{len(torn):,} of {n:,} cells ({len(torn) / n:.1%}) lie in several pieces, such as {examples[0]}."
    cause = "Watersheds and smoothing leave crumbs; many of them mean that masks were scaled or cut afterwards."
    fix = "Keep the largest piece of each id, where this matters; the shape of these cells is not to be trusted."
    figures = {"cells": len(torn), "examples": examples}
    return [Finding("fragments", len(torn) > max(3, 0.05 * n), found, cause, fix, figures)]


def _gaps(cells: _Cells) -> list[Finding]:
    largest, n = int(cells.ids[-1]), len(cells.ids)
    if largest == n:
        return []
    found = f"{n:,} ids are used, up to {largest:,}."
    fix = "Nothing: ids are kept as they are."
    return [Finding("holes in the ids", False, found, "Cells were filtered.", fix, {"missing": largest - n})]


def _giants(cells: _Cells) -> list[Finding]:
    giants = np.flatnonzero(cells.areas > 30 * np.median(cells.areas))
    if not len(giants):
        return []
    largest = giants[np.argmax(cells.areas[giants])]
    found = (
        f"{len(giants):,} of {len(cells.ids):,} cells are more than 30 times larger than half of the others; the "
        f"largest, {cells.ids[largest]}, has {cells.areas[largest]:,.0f} pixels."
    )
    cause = "Necrosis, folds and dirt are often segmented as one large cell."
    figures = {"ids": cells.ids[giants[:20]].tolist(), "cells": len(giants)}
    return [Finding("giant cells", False, found, cause, "Look at them, and drop them by their area.", figures)]


def _sizes(median_um: float, slide: Slide) -> list[Finding]:
    low, high = _PLAUSIBLE_UM
    if low <= median_um <= high:
        return []
    found = (
        f"Half of the cells are smaller than {median_um:.3g} µm across, at {slide.pixel_size_um:g} µm per pixel "
        f"({slide.pixel_size_from}); {low:g} to {high:g} µm are usual."
    )
    cause = "The pixel size is wrong, or the mask is not of cells."
    figures = {"median_diameter_um": round(median_um, 3), "pixel_size_um": slide.pixel_size_um}
    return [Finding("size of cells", True, found, cause, "Give the right --pixel-size-um.", figures)]


def _seams(mask: LazyImage, parts: _Parts, cells: _Cells) -> list[Finding]:
    """Find rows and columns along which cells are cut: far more borders than on the lines beside them."""
    diameter = float(np.median(cells.diameters))
    seams: dict[str, list[int]] = {}
    n_cut = 0
    for axis, name in enumerate(("rows", "columns")):
        borders, inside = parts.borders[axis], parts.inside[axis]
        most = np.maximum(inside[1:], inside[:-1])
        share = np.zeros(len(borders))
        np.divide(borders[1:], most, out=share[1:], where=most >= 3 * diameter)
        usual = ndimage.median_filter(share, size=int(2 * diameter) | 1, mode="nearest")
        excess = share - usual
        spread = 1.4826 * np.median(np.abs(excess[share > 0])) if (share > 0).any() else 0.0
        candidates = np.flatnonzero((excess > 0.25) & (excess > 8 * spread))
        if len(candidates) > 0.05 * len(borders):  # a mask that was enlarged has its borders on every k-th line
            continue
        # The clearest first: to look at a column of a large mask takes a while.
        for line in sorted(candidates[np.argsort(-excess[candidates])][:_MOST_SEAMS].tolist()):
            two = mask[line - 1 : line + 1, :] if axis == 0 else np.asarray(mask[:, line - 1 : line + 1]).T
            cut = _cut_cells(np.asarray(two), int(max(3, diameter / 3)))
            if cut >= 8:
                seams.setdefault(name, []).append(line)
                n_cut += cut
    if not seams:
        return []
    said = " and ".join(f"{name} {', '.join(map(str, lines[:12]))}" for name, lines in seams.items())
    found = f"About {n_cut:,} cells are cut along {said}: two ids meet there in straight lines."
    cause = f"The slide was segmented in tiles that do not overlap{_spacing(seams)}."
    fix = "Segment with overlapping tiles (mxsplicer segment does), or join what meets at these lines."
    return [Finding("seams", True, found, cause, fix, {**seams, "cells": n_cut})]


def _stripes(parts: _Parts, cells: _Cells) -> list[Finding]:
    """Find rows and columns that no cell crosses, though cells lie close by on both sides."""
    diameter = float(np.median(cells.diameters))
    near, far = int(0.75 * diameter) + 1, int(2 * diameter) + 2
    stripes: dict[str, list[int]] = {}
    for axis, name in enumerate(("rows", "columns")):
        inside = parts.inside[axis]
        if len(inside) <= 2 * far:
            continue
        usual = np.array([np.convolve(inside, np.ones(far - near) / (far - near), mode="valid")]).ravel()
        lines = np.arange(far, len(inside) - far)
        beside = np.minimum(usual[lines - far], usual[lines + near])  # just above and just below
        empty = lines[(beside > 8 * diameter) & (inside[lines] < 0.02 * beside)]
        if len(empty):
            stripes[name] = [int(run.mean()) for run in np.split(empty, np.flatnonzero(np.diff(empty) > diameter) + 1)]
    if not stripes or sum(map(len, stripes.values())) > _MOST_SEAMS:
        return []
    said = " and ".join(f"{name} {', '.join(map(str, lines[:12]))}" for name, lines in stripes.items())
    found = f"No cell lies on {said}, with many on both sides."
    cause = f"Cells at the edges of tiles were removed{_spacing(stripes)}, or the tissue has straight gaps."
    fix = "Segment with overlapping tiles (mxsplicer segment does); the cells that are missing cannot be had back."
    return [Finding("missing along seams", True, found, cause, fix, dict(stripes))]


def _cut_cells(two: np.ndarray, shortest: int) -> int:
    """Count the stretches, of some length, along which two cells face each other across a line."""
    facing = (two[0] != two[1]) & (two[0] > 0) & (two[1] > 0)
    pair = np.where(facing, two[0].astype(np.int64) << 32 | two[1], 0)
    bounds = np.flatnonzero(np.diff(pair, prepend=0, append=0))
    return sum(1 for start, end in pairwise(bounds.tolist()) if pair[start] and end - start >= shortest)


def _spacing(seams: dict[str, list[int]]) -> str:
    steps = [step for lines in seams.values() for step in np.diff(lines).tolist()]
    return f", of about {int(np.median(steps)):,} pixels" if steps else ""


_TURNS = {  # (transposed, upside down, left to right): what it is called, what puts it right
    (False, True, False): ("upside down", "numpy.flipud"),
    (False, False, True): ("mirrored", "numpy.fliplr"),
    (False, True, True): ("rotated by 180°", "numpy.rot90(mask, 2)"),
    (True, False, False): ("transposed", "numpy.transpose"),
    (True, True, False): ("rotated by 90°", "numpy.rot90(mask)"),
    (True, False, True): ("rotated by 90°", "numpy.rot90(mask, -1)"),
    (True, True, True): ("transposed and rotated", "numpy.rot90(numpy.transpose(mask), 2)"),
}
_AS_IT_IS = (False, False, False)


def _turned(name: str, mend: str, found: str, figures: dict[str, Any]) -> Finding:
    cause = "The tool that wrote the mask counts axes in another order, or from another corner."
    fix = f"Turn the mask before it is used: {mend if '(' in mend else f'{mend}(mask)'}."
    return Finding(name, True, found, cause, fix, figures)


@dataclass(frozen=True)
class _Match:
    """How a mask fits the nuclear marker best."""

    correlation: float  # at the best place
    here: float  # where it lies now
    sigmas: float  # of the best above unrelated places
    dy: int  # rows the mask has to move down
    dx: int


def _fit(slide: Slide, mask: LazyImage, parts: _Parts, nuclear_marker: str | None) -> list[Finding]:
    marker = nuclear_marker or find_nuclear_marker(slide.markers)
    if marker is None:
        found = f"No marker of the slide is known to stain nuclei: {', '.join(slide.markers[:40])}."
        cause = "Whether the mask lies where the cells are was not looked at."
        return [Finding("nuclei not known", False, found, cause, "Name the marker by --nuclear-marker.")]
    channel = slide.channels_of([marker])[0]
    matches = _matches(slide, mask, channel, parts, _AS_IT_IS)
    if matches is None:
        found = f"{marker} is the same everywhere where there are cells."
        cause = "Whether the mask lies where the cells are was not looked at."
        return [Finding("nuclei not seen", False, found, cause, "Name another marker by --nuclear-marker.")]
    best, windows = matches
    if best.sigmas >= _SURE:
        return _shifted_in_parts(slide, marker, best, windows) or _shifted(slide, marker, best)
    for turn, (name, mend) in _TURNS.items():
        if turn[0] and mask.shape[0] != mask.shape[1]:
            continue
        turned = _matches(slide, mask, channel, parts, turn)
        if turned is not None and turned[0].sigmas >= _SURE:
            found = (
                f"{marker} follows the mask when that is turned (correlation {turned[0].correlation:.2f}), and not as "
                f"it is ({best.here:.2f})."
            )
            figures = {"correlation": round(turned[0].correlation, 3), "correlation_as_it_is": round(best.here, 3)}
            return [_turned(name, mend, found, figures)]
    far = _far_shift(slide, mask, channel, parts)
    if far is not None:
        return _shifted(slide, marker, far)
    found = f"The brightness of {marker} does not follow the mask (correlation {best.here:.2f})."
    cause = "The mask is of another slide or section, or the marker shows no nuclei here."
    fix = "Compare the two in a viewer; name another marker by --nuclear-marker."
    # Few cells or a marker without signal prove nothing.
    return [Finding("does not follow the nuclei", len(parts.ids) >= 100, found, cause, fix, asdict(best))]


def _shifted(slide: Slide, marker: str, match: _Match) -> list[Finding]:
    um = slide.pixel_size_um
    length = float(np.hypot(match.dy, match.dx))
    if length < _SHIFT_PX or length * um < _SHIFT_UM or match.correlation < 1.05 * match.here:
        return []
    down, across = (
        f"{abs(px)} px ({abs(px) * um:.3g} µm) too {words[px < 0]}" if px else ""
        for px, words in ((match.dy, ("high", "low")), (match.dx, ("far left", "far right")))
    )
    found = (
        f"The mask lies {' and '.join(part for part in (down, across) if part)}: there its "
        f"correlation with {marker} is {match.here:.2f}, and {match.correlation:.2f} where it belongs."
    )
    cause = (
        "The image was cropped, registered or stitched again after it was segmented, or tiles were put off by a halo."
    )
    fix = f"Move the mask by {match.dy} rows and {match.dx} columns, or segment the image as it is now."
    figures = {"dy_px": match.dy, "dx_px": match.dx, "dy_um": match.dy * um, "dx_um": match.dx * um} | asdict(match)
    return [Finding("shifted", True, found, cause, fix, figures)]


def _shifted_in_parts(
    slide: Slide, marker: str, best: _Match, windows: Sequence[tuple[tuple[int, int], _Match]]
) -> list[Finding]:
    sure = [(place, match) for place, match in windows if match.sigmas >= 1.5 * _SURE]
    off = [(place, match) for place, match in sure if _shifted(slide, marker, match)]
    least = max(3.0, 2 * _SHIFT_UM / slide.pixel_size_um)
    if not off or max(np.hypot(match.dy - best.dy, match.dx - best.dx) for _, match in sure) < least:
        return []
    said = "; ".join(f"{match.dy} rows and {match.dx} columns near row {y}, column {x}" for (y, x), match in off[:5])
    found = f"In {len(off)} of {len(windows)} places that were looked at the mask has to move, by {said}."
    cause = "Cycles or tiles were registered again after segmentation; or, where it grows steadily, the scales differ."
    figures = {"places": [{"y": y, "x": x, "dy_px": match.dy, "dx_px": match.dx} for (y, x), match in off]}
    return [Finding("shifted in parts", True, found, cause, "Segment the image as it is now.", figures)]


def _matches(
    slide: Slide,
    mask: LazyImage,
    channel: int,
    parts: _Parts,
    turn: tuple[bool, bool, bool],
    start: tuple[int, int] = (0, 0),
) -> tuple[_Match, list[tuple[tuple[int, int], _Match]]] | None:
    """Lay the mask, turned and moved by ``start``, over the nuclear marker; None where there is nothing to compare."""
    um = slide.pixel_size_um
    y, x = _turned_points(parts, turn)
    whole = np.zeros(0)
    energy = 0.0
    windows = []
    for rows, columns in _busiest(slide.shape_px, y + start[0], x + start[1]):
        labels = _turned_window(mask, rows, columns, turn, start)
        nuclei = _nuclear(np.asarray(slide.image[channel, rows, columns]), um)
        depth = _without_trend(_depth(labels, um), um)
        strength = float(np.sqrt((nuclei**2).sum() * (depth**2).sum()))
        if not strength:
            continue
        product = fft.rfft2(nuclei) * np.conj(fft.rfft2(depth))
        surface = fft.irfft2(product, s=nuclei.shape)
        place = (rows.start + rows.stop) // 2, (columns.start + columns.stop) // 2
        windows.append((place, _peak(surface / strength, (0, 0))))
        whole = surface if not whole.size else whole + surface
        energy += strength
    return (_peak(whole / energy, start), windows) if energy else None


def _peak(surface: np.ndarray, start: tuple[int, int]) -> _Match:
    """Find the highest point of a correlation surface, up to a third of its sides away."""
    reach = [max(1, n // 3) for n in surface.shape]
    near = np.roll(surface, reach, axis=(0, 1))[: 2 * reach[0] + 1, : 2 * reach[1] + 1]
    top = np.unravel_index(int(np.argmax(near)), near.shape)
    # The spread of the rest, robustly: the peak itself and its surroundings are part of what is measured.
    middle = float(np.median(near))
    spread = 1.4826 * float(np.median(np.abs(near - middle))) or 1.0
    return _Match(
        correlation=float(near[top]),
        here=float(surface[0, 0]),
        sigmas=(float(near[top]) - middle) / spread,
        dy=int(top[0]) - reach[0] + start[0],
        dx=int(top[1]) - reach[1] + start[1],
    )


def _far_shift(slide: Slide, mask: LazyImage, channel: int, parts: _Parts) -> _Match | None:
    """Look for a shift over the whole slide on its overview, and then closely."""
    small, factor = overview(slide, channels=[channel])
    nuclei = small[0].astype(np.float32)
    map_of_cells = np.zeros(nuclei.shape, np.float32)
    y, x = (
        np.minimum(along.astype(np.int64) // factor, n - 1)
        for along, n in zip((parts.y, parts.x), nuclei.shape, strict=True)
    )
    np.add.at(map_of_cells, (y, x), 1)
    if factor == 1 or not nuclei.any():
        return None
    a, b = (ndimage.gaussian_filter(np.sqrt(np.maximum(one, 0)), 2) for one in (nuclei, map_of_cells))
    a, b = (np.pad(one - one.mean(), [(0, n) for n in one.shape]) for one in (a, b))
    surface = fft.irfft2(fft.rfft2(a) * np.conj(fft.rfft2(b)), s=a.shape)
    rough = _peak(surface / max(1e-12, float(np.sqrt((a**2).sum() * (b**2).sum()))), (0, 0))
    matches = _matches(slide, mask, channel, parts, _AS_IT_IS, (rough.dy * factor, rough.dx * factor))
    return matches[0] if matches is not None and matches[0].sigmas >= _SURE else None


def _busiest(shape: tuple[int, int], y: np.ndarray, x: np.ndarray) -> Iterable[tuple[slice, slice]]:
    """Return windows with many cells, spread over the slide."""
    side = min(_WINDOW_PX, shape[0]), min(_WINDOW_PX, shape[1])
    grid = shape[0] // side[0], shape[1] // side[1]
    rows, columns = (y // side[0]).astype(np.int64), (x // side[1]).astype(np.int64)
    within = (rows >= 0) & (columns >= 0) & (rows < grid[0]) & (columns < grid[1])
    counts = np.bincount(rows[within] * grid[1] + columns[within], minlength=grid[0] * grid[1]).reshape(grid)
    thirds = [np.array_split(np.arange(n), min(n, 3)) for n in grid]
    for some_rows in thirds[0]:
        for some_columns in thirds[1]:
            region = counts[np.ix_(some_rows, some_columns)]
            if region.any():
                row, column = np.unravel_index(int(np.argmax(region)), region.shape)
                top, left = int(some_rows[row]) * side[0], int(some_columns[column]) * side[1]
                yield slice(top, top + side[0]), slice(left, left + side[1])


def _turned_points(parts: _Parts, turn: tuple[bool, bool, bool]) -> tuple[np.ndarray, np.ndarray]:
    transposed, upside_down, mirrored = turn
    y, x = (parts.x, parts.y) if transposed else (parts.y, parts.x)
    height, width = parts.shape[::-1] if transposed else parts.shape
    return (height - 1 - y if upside_down else y), (width - 1 - x if mirrored else x)


def _turned_window(
    mask: LazyImage, rows: slice, columns: slice, turn: tuple[bool, bool, bool], start: tuple[int, int]
) -> np.ndarray:
    """Read a window of the mask as it would be once turned and moved; 0 beyond it."""
    transposed, upside_down, mirrored = turn
    shape = mask.shape[::-1] if transposed else mask.shape
    out = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.uint32)
    wanted = [(one.start - by, one.stop - by) for one, by in zip((rows, columns), start, strict=True)]
    inner = [(max(0, a), min(n, b)) for (a, b), n in zip(wanted, shape, strict=True)]
    if any(a >= b for a, b in inner):
        return out
    source = [(n - b, n - a) if flip else (a, b) for (a, b), n, flip in zip(inner, shape, turn[1:], strict=True)]
    slices = [slice(*one) for one in source]
    labels = np.asarray(mask[slices[1], slices[0]]).T if transposed else np.asarray(mask[slices[0], slices[1]])
    labels = labels[:: -1 if upside_down else 1, :: -1 if mirrored else 1]
    (y0, y1), (x0, x1) = ((a - w, b - w) for (a, b), (w, _) in zip(inner, wanted, strict=True))
    out[y0:y1, x0:x1] = labels
    return out


def _depth(labels: np.ndarray, um: float) -> np.ndarray:
    """Return how far each pixel lies inside its cell, at most as deep as a nucleus begins."""
    inner = labels > 0
    for axis in (0, 1):
        differ = np.diff(labels.astype(np.int64), axis=axis) != 0
        before, after = [slice(None)] * 2, [slice(None)] * 2
        before[axis], after[axis] = slice(None, -1), slice(1, None)
        inner[tuple(before)] &= ~differ
        inner[tuple(after)] &= ~differ
    depth: np.ndarray = ndimage.distance_transform_edt(np.pad(inner, 1))[1:-1, 1:-1]
    shallow: np.ndarray = np.minimum(depth, max(2.0, 3.0 / um)).astype(np.float32)
    return shallow


def _nuclear(image: np.ndarray, um: float) -> np.ndarray:
    image = np.nan_to_num(image.astype(np.float32), posinf=0, neginf=0)
    low, high = np.percentile(image, [1, 99.8])
    image = np.sqrt(np.clip(image - low, 0, high - low))
    return _without_trend(ndimage.gaussian_filter(image, max(0.5, 0.7 / um)), um)


def _without_trend(image: np.ndarray, um: float) -> np.ndarray:
    """Take away what varies over more than a few cells: tissue and background fit at any shift."""
    flat: np.ndarray = image - ndimage.uniform_filter(image, int(24 / um) | 1, mode="nearest")
    return flat
