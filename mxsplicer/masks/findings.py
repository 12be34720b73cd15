"""Findings about the ids, sizes and shape of a mask, each with its likely cause and remedy."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mxsplicer.images.lazy_images import LazyImage
from mxsplicer.images.slide import Slide
from mxsplicer.masks.fragments import Fragments, LabelledCells
from mxsplicer.masks.nuclei import best_cells, count_overlaps, nuclei_lie_inside

_PLAUSIBLE_UM = (3.5, 40.0)  # median diameter of cells: small nuclei below, hepatocytes and tumour giants above
_LARGEST_IDS = {255: "8-bit", 32_767: "16-bit", 65_535: "16-bit"}


@dataclass(frozen=True)
class Finding:
    """One observation about a mask, with its likely cause and what corrects it."""

    name: str
    wrong: bool  # a fault; otherwise only worth knowing
    found: str
    cause: str
    fix: str
    figures: dict[str, Any] = field(default_factory=dict)


def no_cells_finding(fragments: Fragments) -> Finding:
    """Return why a mask has no cells: it is empty, or it is an image of intensities."""
    if fragments.noise:
        found = (
            f"Neighbouring pixels hardly ever have the same value: {len(fragments.ids):,} fragments of a few pixels "
            "were counted."
        )
        cause = "It is an image of intensities or noise, or was scaled by interpolation."
        fix = "Give the label image; scale it by the nearest neighbour only."
        return Finding("intensities", True, found, cause, fix)
    found = "It holds no cell, only background (0)."
    return Finding("empty", True, found, "The segmentation found nothing, or wrote another page.", "Segment again.")


def background_findings(fragments: Fragments, cells: LabelledCells) -> list[Finding]:
    """Find an id that labels the background."""
    pixels = fragments.shape[0] * fragments.shape[1]
    largest = int(np.argmax(cells.areas))
    share = cells.areas[largest] / pixels
    typical = np.median(np.delete(cells.areas, largest)) if len(cells.ids) > 1 else 0.0
    if len(cells.ids) > 10 and share > 0.05 and cells.areas[largest] > 50 * typical:
        zero = 1 - fragments.areas.sum() / pixels
        found = (
            f"The id {cells.ids[largest]} covers {share:.0%} of the slide, and 0 covers {zero:.0%}: it labels the "
            "background, not a cell."
        )
        cause = "The background was numbered too, as connected components do by default."
        fix = f"Set this id to 0: mask[mask == {cells.ids[largest]}] = 0."
        figures = {"id": int(cells.ids[largest]), "share": round(float(share), 4), "share_of_0": round(float(zero), 4)}
        return [Finding("background is not 0", True, found, cause, fix, figures)]
    return []


def few_ids_findings(cells: LabelledCells) -> list[Finding]:
    """Find a mask whose values are classes of pixels instead of cells."""
    if len(cells.ids) > 20 or np.median(cells.n_fragments) < (2 if len(cells.ids) == 1 else 5):
        return []
    figures = {"values": cells.ids.tolist(), "parts": int(cells.n_fragments.sum())}
    if len(cells.ids) == 1:
        found = f"Its only values are 0 and {cells.ids[0]}, in {cells.n_fragments[0]:,} separate fragments."
        cause = "It is a binary mask: it separates cells from background, but not one cell from the next."
    else:
        found = f"It has {len(cells.ids)} values in {cells.n_fragments.sum():,} separate fragments."
        cause = "Its values are classes of pixels (nucleus, cytoplasm, ...), not cells."
    fix = (
        "Number the fragments, skimage.measure.label(mask == value), after a watershed where cells touch; or segment "
        "again."
    )
    return [Finding("binary", True, found, cause, fix, figures)]


def interpolation_findings(cells: LabelledCells) -> list[Finding]:
    """Find rims of wrong ids around cells."""
    small = int((cells.fragments.areas < 0.05 * np.median(cells.largest)).sum())
    if small <= 2 * len(cells.ids):
        return []
    found = f"The {len(cells.ids):,} ids have {small:,} fragments of only a few pixels."
    cause = "The mask was scaled by interpolation, which mixes the ids of neighbours, or saved with losses (JPEG)."
    fix = "Scale the original mask by the nearest neighbour, and save it without losses."
    return [Finding("interpolated", True, found, cause, fix, {"crumbs": small})]


def repeat_findings(cells: LabelledCells) -> list[Finding]:
    """Find ids with several fragments: far apart they are different cells, close together fragments of one cell."""
    several = cells.n_fragments[cells.of_fragment] > 1
    if not several.any():
        return []
    fragments, of = cells.fragments, cells.of_fragment[several]
    # Distance of each fragment from the largest of its id.
    # Of equal areas the upper left one is first, whatever tiles the mask was read in.
    places = np.round(fragments.x[several], 3), np.round(fragments.y[several], 3)
    order = np.lexsort((*places, -fragments.areas[several], of))
    of, areas = of[order], fragments.areas[several][order]
    y, x = fragments.y[several][order], fragments.x[several][order]
    first = np.r_[True, of[1:] != of[:-1]]
    main = np.maximum.accumulate(np.where(first, np.arange(len(of)), 0))
    distance = np.hypot(y - y[main], x - x[main])
    typical = float(np.median(cells.diameters))
    # Different cells: each fragment is as large as a cell, and they are further apart than one cell is long.
    whole = areas > 0.2 * np.median(cells.largest)
    far = ~first & whole & (distance > 3 * typical + 2 * np.sqrt(areas[main] / np.pi) + 1e-6)
    repeated, torn = np.unique(of[far]), np.setdiff1d(np.unique(of[~first]), of[far])
    return _repeated_ids(cells, repeated) + _fragmented_cells(cells, torn)


def _repeated_ids(cells: LabelledCells, repeated: np.ndarray) -> list[Finding]:
    largest, n = int(cells.ids[-1]), len(cells.ids)
    cut_off = largest in _LARGEST_IDS and repeated.tolist() == [n - 1]
    if not (len(repeated) and (cut_off or len(repeated) >= 1e-4 * n)):
        return []
    examples = cells.ids[repeated[:5]].tolist()
    figures = {"ids": len(repeated), "examples": examples, "largest_id": largest}
    found = (
        f"{len(repeated):,} of {n:,} ids occur at several places far apart, such as {', '.join(map(str, examples[:3]))}"
    )
    word = next((word for limit, word in _LARGEST_IDS.items() if 0.99 * limit <= largest <= limit), None)
    fix = "Save the mask again as 32-bit integers, or number its fragments: skimage.measure.label(mask)."
    if cut_off:
        found += f": the last of all, {largest:,}, at {cells.n_fragments[-1]:,}."
        cause = f"Ids above {largest:,} were cut off to it when the mask was saved as {_LARGEST_IDS[largest]} integers."
        return [Finding("wrapped", True, found, cause, fix, figures)]
    found += f"; the largest id is {largest:,}."
    if word:
        cause = f"Ids started again after {largest:,} because the mask was saved as {word} integers."
        return [Finding("wrapped", True, found, cause, fix, figures)]
    cause = "Tiles or fields were numbered separately and then joined, or cells were merged by mistake."
    fix = "Number the tiles consecutively, or number all fragments again: skimage.measure.label(mask)."
    return [Finding("repeated ids", True, found, cause, fix, figures)]


def _fragmented_cells(cells: LabelledCells, torn: np.ndarray) -> list[Finding]:
    if not len(torn):
        return []
    n, examples = len(cells.ids), cells.ids[torn[:5]].tolist()
    found = f"{len(torn):,} of {n:,} cells ({len(torn) / n:.1%}) consist of several fragments, such as {examples[0]}."
    cause = "Watersheds and smoothing leave small fragments; many mean that the mask was scaled or cut afterwards."
    fix = "Keep the largest fragment of each id, if this matters; the shape of these cells is unreliable."
    figures = {"cells": len(torn), "examples": examples}
    return [Finding("fragments", len(torn) > max(3, 0.05 * n), found, cause, fix, figures)]


def gap_findings(cells: LabelledCells) -> list[Finding]:
    """Report ids that are missing between 1 and the largest."""
    largest, n = int(cells.ids[-1]), len(cells.ids)
    if largest == n:
        return []
    found = f"{n:,} ids are used, up to {largest:,}."
    fix = "Nothing: ids are kept as they are."
    return [Finding("holes in the ids", False, found, "Cells were filtered.", fix, {"missing": largest - n})]


def giant_findings(cells: LabelledCells) -> list[Finding]:
    """Report cells much larger than the median cell."""
    giants = np.flatnonzero(cells.areas > 30 * np.median(cells.areas))
    if not len(giants):
        return []
    largest = giants[np.argmax(cells.areas[giants])]
    found = (
        f"{len(giants):,} of {len(cells.ids):,} cells are more than 30 times larger than the median cell; the "
        f"largest, {cells.ids[largest]}, has {cells.areas[largest]:,.0f} pixels."
    )
    cause = "Necrosis, folds and dirt are often segmented as one large cell."
    figures = {"ids": cells.ids[giants[:20]].tolist(), "cells": len(giants)}
    return [Finding("giant cells", False, found, cause, "Inspect them, and remove them by their area.", figures)]


def size_findings(median_um: float, slide: Slide) -> list[Finding]:
    """Find a median diameter that is implausible for cells."""
    low, high = _PLAUSIBLE_UM
    if low <= median_um <= high:
        return []
    found = (
        f"The median diameter of cells is {median_um:.3g} µm, at {slide.pixel_size_um:g} µm per pixel "
        f"({slide.pixel_size_from}); {low:g} to {high:g} µm are usual."
    )
    cause = "The pixel size is wrong, or the mask is not of cells."
    figures = {"median_diameter_um": round(median_um, 3), "pixel_size_um": slide.pixel_size_um}
    return [Finding("size of cells", True, found, cause, "Give the right `pixel_size_um`.", figures)]


def nuclei_findings(mask: LazyImage, nuclei: LazyImage, *, tile_px: int = 2048) -> list[Finding]:
    """Find nuclei in a mask of their own whose ids or places differ from those of the mask of their cells."""
    if tuple(mask.shape) != tuple(nuclei.shape):
        found = f"The nuclei are {tuple(nuclei.shape)} and the cells {tuple(mask.shape)} (Y, X)."
        return [Finding("nuclei", True, found, "They belong to different levels or slides.", "Give masks of one run.")]
    overlaps, cell_ids = count_overlaps(nuclei, mask, tile_px=tile_px)
    nucleus_ids = np.unique(overlaps["nucleus"])
    n_alone = len(np.setdiff1d(nucleus_ids, cell_ids))
    n_without = len(np.setdiff1d(cell_ids, nucleus_ids))
    pixels = int(overlaps["n"].sum())
    outside = int(overlaps["n"][overlaps["nucleus"] != overlaps["cell"]].sum())
    figures = {
        "nuclei": len(nucleus_ids),
        "cells": len(cell_ids),
        "nuclei_without_cell": n_alone,
        "cells_without_nucleus": n_without,
        "share_of_nuclei_outside_their_cells": round(outside / max(1, pixels), 4),
    }
    found = (
        f"{len(nucleus_ids):,} nuclei and {len(cell_ids):,} cells: {n_alone:,} nuclei have the id of no cell, "
        f"{n_without:,} cells have no nucleus, and {outside / max(1, pixels):.1%} of the nuclear pixels lie outside "
        "the cell with their id."
    )
    if not n_alone and outside <= 0.05 * pixels:
        return [Finding("nuclei", False, found, "They agree.", "", figures)]
    cause = "The two masks were numbered separately."
    best = best_cells(overlaps)
    if outside > 0.05 * pixels and nuclei_lie_inside(best):
        found += f" {best['inside'].mean():.1%} of the nuclei lie inside one cell."
        fix = "Nothing: each nucleus is matched with the cell that it overlaps most."
        return [Finding("nuclei", False, found, cause, fix, figures)]
    fix = "Export both from one run, or give each nucleus the id of its cell."
    return [Finding("nuclei", True, found, cause, fix, figures)]


def orientation_finding(name: str, remedy: str, found: str, figures: dict[str, Any]) -> Finding:
    """Return the finding that a mask is transposed, flipped or rotated."""
    cause = "The tool that wrote the mask counts axes in another order, or from another corner."
    fix = f"Reorient the mask before it is used: {remedy if '(' in remedy else f'{remedy}(mask)'}."
    return Finding(name, True, found, cause, fix, figures)
