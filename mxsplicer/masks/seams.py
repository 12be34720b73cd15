"""Find the seams of tiles in a mask: lines along which cells are cut, or from which they were removed."""

from itertools import pairwise

import numpy as np
from scipy import ndimage

from mxsplicer.images.lazy_images import LazyImage
from mxsplicer.images.markers import find_nuclear_marker
from mxsplicer.images.slide import Slide
from mxsplicer.masks.findings import Finding
from mxsplicer.masks.fragments import Fragments, LabelledCells

_MOST_SEAMS = 64  # along each axis
_MOST_COMPARED, _AS_BRIGHT = 16, 0.2  # stripes that are compared with the image; share of bright pixels next to them


def seam_findings(mask: LazyImage, fragments: Fragments, cells: LabelledCells) -> list[Finding]:
    """Find rows and columns along which cells are cut: they have far more borders than the lines around them."""
    diameter = float(np.median(cells.diameters))
    seams: dict[str, list[int]] = {}
    n_cut = 0
    for axis, name in enumerate(("rows", "columns")):
        # The clearest first: reading a column of a large mask takes a while.
        for line in sorted(_candidate_lines(fragments, axis, diameter)[:_MOST_SEAMS].tolist()):
            two = mask[line - 1 : line + 1, :] if axis == 0 else np.asarray(mask[:, line - 1 : line + 1]).T
            cut = _count_cut_cells(np.asarray(two), int(max(3, diameter / 3)))
            if cut >= 8:
                seams.setdefault(name, []).append(line)
                n_cut += cut
    if not seams:
        return []
    found = f"About {n_cut:,} cells are cut along {_list_lines(seams)}: two ids meet there in straight lines."
    cause = f"The slide was segmented in tiles that do not overlap{_spacing(seams)}."
    fix = "Segment with overlapping tiles (mxsplicer segment does), or join the cells that meet at these lines."
    return [Finding("seams", True, found, cause, fix, {**seams, "cells": n_cut})]


def _candidate_lines(fragments: Fragments, axis: int, diameter: float) -> np.ndarray:
    """Return possible seams: rows (axis 0) or columns with unusually many borders of cells, the clearest first."""
    borders, inside = fragments.borders[axis], fragments.inside[axis]
    most = np.maximum(inside[1:], inside[:-1])
    share = np.zeros(len(borders))
    np.divide(borders[1:], most, out=share[1:], where=most >= 3 * diameter)
    usual = ndimage.median_filter(share, size=int(2 * diameter) | 1, mode="nearest")
    excess = share - usual
    spread = 1.4826 * np.median(np.abs(excess[share > 0])) if (share > 0).any() else 0.0
    candidates = np.flatnonzero((excess > 0.25) & (excess > 8 * spread))
    if len(candidates) > 0.05 * len(borders):  # a mask that was enlarged has its borders on every k-th line
        return candidates[:0]
    ranked: np.ndarray = candidates[np.argsort(-excess[candidates])]
    return ranked


def stripe_findings(
    slide: Slide, mask: LazyImage, fragments: Fragments, cells: LabelledCells, nuclear_marker: str | None = None
) -> list[Finding]:
    """Find the seams of removed cells: rows and columns that no cell crosses although cells lie close by on both sides.

    Where the image has no nuclei there either, they are gaps of a mosaic or of the tissue, which is not a fault.
    """
    diameter = float(np.median(cells.diameters))
    near, far = int(0.75 * diameter) + 1, int(2 * diameter) + 2
    stripes: dict[str, list[int]] = {}
    for axis, name in enumerate(("rows", "columns")):
        inside = fragments.inside[axis]
        if len(inside) <= 2 * far:
            continue
        usual = np.array([np.convolve(inside, np.ones(far - near) / (far - near), mode="valid")]).ravel()
        lines = np.arange(far, len(inside) - far)
        around = np.minimum(usual[lines - far], usual[lines + near])  # just above and just below
        empty = lines[(around > 8 * diameter) & (inside[lines] < 0.02 * around)]
        if len(empty):
            stripes[name] = [int(run.mean()) for run in np.split(empty, np.flatnonzero(np.diff(empty) > diameter) + 1)]
    if not stripes or sum(map(len, stripes.values())) > _MOST_SEAMS:
        return []
    found = f"No cell lies on {_list_lines(stripes)}, with many on both sides."
    marker = nuclear_marker or find_nuclear_marker(slide.markers)
    if marker is not None and tuple(mask.shape) == slide.shape_px:
        channel, half = slide.channels_of([marker])[0], max(1, int(diameter / 3))
        compared = [(axis, line) for axis, name in enumerate(("rows", "columns")) for line in stripes.get(name, [])]
        if not any(_has_nuclei(slide, mask, channel, axis, line, half) for axis, line in compared[:_MOST_COMPARED]):
            found += f" {marker} is dark there, too."
            cause = "Fields of a mosaic lie apart, or the tissue has straight gaps."
            return [Finding("gaps", False, found, cause, "Nothing: no cell is missing.", dict(stripes))]
    cause = f"Cells at the edges of tiles were removed{_spacing(stripes)}, or the tissue has straight gaps."
    fix = "Segment with overlapping tiles (mxsplicer segment does); the missing cells cannot be recovered."
    return [Finding("missing along seams", True, found, cause, fix, dict(stripes))]


def _has_nuclei(slide: Slide, mask: LazyImage, channel: int, axis: int, line: int, half: int) -> bool:
    """Return whether a channel is as bright along a possible seam as in the nuclei of the cells next to it."""
    start, stop = max(0, line - 12 * half), min(mask.shape[axis], line + 12 * half + 1)
    window = (slice(start, stop), slice(None)) if axis == 0 else (slice(None), slice(start, stop))
    image, inside = np.asarray(slide.image[channel, *window]), np.asarray(mask[window]) > 0
    if axis == 1:
        image, inside = image.T, inside.T
    image = ndimage.uniform_filter(np.nan_to_num(image).astype(np.float32), half)
    if not inside.any():
        return False
    nuclei, background = np.percentile(image[inside], 90), np.median(image[~inside])
    bright = image > (nuclei + background) / 2
    stripe = bright[max(0, line - start - half) : line - start + half + 1]
    return bool(stripe.mean() > _AS_BRIGHT * bright[inside].mean())


def _count_cut_cells(two: np.ndarray, shortest: int) -> int:
    """Count the stretches of at least ``shortest`` pixels along which two cells meet at a possible seam."""
    facing = (two[0] != two[1]) & (two[0] > 0) & (two[1] > 0)
    pair = np.where(facing, two[0].astype(np.int64) << 32 | two[1], 0)
    bounds = np.flatnonzero(np.diff(pair, prepend=0, append=0))
    return sum(1 for start, end in pairwise(bounds.tolist()) if pair[start] and end - start >= shortest)


def _list_lines(seams: dict[str, list[int]]) -> str:
    return " and ".join(f"{name} {', '.join(map(str, lines[:12]))}" for name, lines in seams.items())


def _spacing(seams: dict[str, list[int]]) -> str:
    steps = [step for lines in seams.values() for step in np.diff(lines).tolist()]
    return f", of about {int(np.median(steps)):,} pixels" if steps else ""
