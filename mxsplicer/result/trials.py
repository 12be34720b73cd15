"""A part of each slide, segmented, measured and cut on trial, from which a plan estimates the rest."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from mxsplicer.cells.estimate import estimate_cells
from mxsplicer.cells.shapes import find_pieces, join_pieces
from mxsplicer.errors import InputError
from mxsplicer.images.lazy_images import LazyImage
from mxsplicer.images.slide import Slide
from mxsplicer.images.tiles import TileGrid
from mxsplicer.patches import PATCH_SIZE_UM
from mxsplicer.patches.fitting import fit_patch
from mxsplicer.patches.planning import plan_extraction
from mxsplicer.result.cohort import allocate_cells
from mxsplicer.result.job import Job, JobSlide
from mxsplicer.segmentation.segment import segment

_FIT_TILE_PX, _FIT_TILES = 2048, 16  # of a mask, on which the side of a patch is estimated
_SEGMENTED_PX = 1024  # side of the square that is segmented on trial


@dataclass(frozen=True)
class TrialSlide:
    """A slide with its mask; without one, a square from its middle that was segmented."""

    one: JobSlide
    slide: Slide
    mask: LazyImage | None  # None if nothing could be segmented
    n_cells: int  # of the whole slide, estimated; 0 where the mask shows it
    share: float  # of the slide's pixels that ``slide`` has
    seconds_to_segment: float | None  # the whole slide


def try_slide(job: Job, one: JobSlide, folder: Path) -> TrialSlide:
    """Return a slide with its mask, or segment a square of it, in a mask below ``folder``."""
    if one.mask is not None:
        return TrialSlide(one, one.slide, one.mask, 0, 1.0, None)
    n_cells = estimate_cells(one.slide, nuclear_marker=job.options.nuclear_marker).n_cells
    height, width = one.slide.shape_px
    rows, columns = _middle(height), _middle(width)
    image = np.asarray(one.slide.image[:, rows, columns])
    square = replace(one.slide, image=image, pyramid=(), tile_px=image.shape[1:], path=None)
    share = image[0].size / (height * width)
    if job.options.segmenter is not None and ":" not in job.options.segmenter:
        return TrialSlide(one, square, None, n_cells, share, None)  # a network, which takes long to load
    began = time.perf_counter()
    try:
        mask = segment(
            square,
            folder / f"{one.name}.zarr",
            nuclear_marker=job.options.nuclear_marker,
            nucleus_diameter_um=job.options.nucleus_diameter_um,
            expansion_um=job.options.expansion_um,
            segmenter=job.options.segmenter,
            workers=1,
        )
    except InputError:  # no cell in the middle of the slide
        return TrialSlide(one, square, None, n_cells, share, None)
    seconds = (time.perf_counter() - began) / share
    return TrialSlide(one, square, np.asarray(mask[...]), n_cells, share, seconds)


def _middle(side: int) -> slice:
    length = min(side, _SEGMENTED_PX)
    return slice((side - length) // 2, (side - length) // 2 + length)


def fit_trials(job: Job, trials: Sequence[TrialSlide]) -> None:
    """Choose the side of the patches as the run will, where it was not given."""
    if job.options.patch_size_um is not None:
        return
    cells = {
        trial.one.name: (_some_cells(trial, job.options.min_area_um2), trial.slide.pixel_size_um)
        for trial in trials
        if trial.mask is not None
    }
    cells = {name: (table, size) for name, (table, size) in cells.items() if len(table)}
    if not cells:
        job.chosen["patch_size_um"] = PATCH_SIZE_UM
        return
    fit = fit_patch(cells, shapes_px={one.name: one.slide.shape_px for one in job.slides})
    job.chosen["patch_size_um"] = fit.patch_size_um


def _some_cells(trial: TrialSlide, min_area_um2: float) -> pd.DataFrame:
    """Return the cells of a mask, or of some tiles of a large one."""
    assert trial.mask is not None
    grid = TileGrid(trial.slide.shape_px, (_FIT_TILE_PX, _FIT_TILE_PX))
    numbers = np.random.default_rng(0).permutation(len(grid))[:_FIT_TILES]
    pieces = [find_pieces(trial.slide, trial.mask, None, grid[int(number)]) for number in sorted(numbers)]
    pieces = [piece for piece in pieces if len(piece)]
    if not pieces:
        return pd.DataFrame()
    table = join_pieces(pieces, trial.slide)
    return table[table["area_um2"] >= min_area_um2]


def plan_extractions(job: Job, trials: Sequence[TrialSlide]) -> tuple[dict[str, float], int, int]:
    """Return the seconds until the training and to read for the embedding, the number of cells, and the memory."""
    plans = {
        trial.one.name: plan_extraction(
            trial.slide,
            trial.mask,
            patch_size_um=job.patch_size_um,
            min_area_um2=job.options.min_area_um2,
            workers=job.running.workers,
            max_bytes=job.running.max_bytes,
            executor=job.running.executor,
        )
        for trial in trials
        if trial.mask is not None
    }
    n_cells = {trial.one.name: trial.n_cells or plans[trial.one.name].n_cells_of_slide for trial in trials}
    n_cut = allocate_cells(job.options.training_cells, n_cells)
    seconds = dict.fromkeys(("segmentation", "cells", "patches", "embedding"), 0.0)
    for trial in trials:
        name = trial.one.name
        seconds["segmentation"] += trial.seconds_to_segment or 0.0
        if name not in plans:
            continue
        plan = plans[name]
        of_plan, more = plan.seconds, n_cells[name] / plan.n_cells_of_slide
        decoding, cutting = of_plan["decoding tiles"] / trial.share, of_plan["cutting patches"] * more
        storing = (of_plan["compressing"] + of_plan["writing"]) * more
        seconds["cells"] += of_plan["measuring cells"] / trial.share
        cut = 1.0 if job.options.keep_patches else 0.0 if job.model is not None else n_cut[name] / n_cells[name]
        if cut:
            seconds["patches"] += decoding + (cutting + storing) * cut
        if cut < 1:  # otherwise it reads the patches that were stored
            seconds["embedding"] += decoding + cutting
    memory_bytes = max((plan.memory_bytes for plan in plans.values()), default=0)
    read = seconds.pop("embedding")
    stages = {stage: value for stage, value in seconds.items() if value} | {"embedding": read}
    return stages, sum(n_cells.values()), memory_bytes
