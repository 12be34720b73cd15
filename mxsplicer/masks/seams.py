"""Find the seams of tiles in a mask: lines along which cells are cut, or from which they were removed."""

from itertools import pairwise

import numpy as np
from scipy import ndimage

from mxsplicer.images.lazy_images import LazyImage
from mxsplicer.masks.findings import Finding
from mxsplicer.masks.fragments import Fragments, LabelledCells

_MOST_SEAMS = 64  # along each axis


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
    """Return the rows (axis 0) or columns with unusually many borders of cells, the clearest first."""
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


def stripe_findings(fragments: Fragments, cells: LabelledCells) -> list[Finding]:
    """Find rows and columns that no cell crosses although cells lie close by on both sides."""
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
    cause = f"Cells at the edges of tiles were removed{_spacing(stripes)}, or the tissue has straight gaps."
    fix = "Segment with overlapping tiles (mxsplicer segment does); the missing cells cannot be recovered."
    return [Finding("missing along seams", True, found, cause, fix, dict(stripes))]


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
