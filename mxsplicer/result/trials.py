"""A part of each slide, segmented, measured and cut on trial, from which a plan estimates the rest."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mxsplicer.cells.estimate import estimate_cells
from mxsplicer.embedding.encode import PatchEncoders
from mxsplicer.errors import InputError
from mxsplicer.images.lazy_images import LazyImage
from mxsplicer.images.slide import Slide
from mxsplicer.patches.extraction_plan import plan_extraction
from mxsplicer.result.cohort import training_cells_of_slides
from mxsplicer.result.job import Job, JobSlide
from mxsplicer.segmentation.segment import segment
from mxsplicer.splicer.devices import find_device
from mxsplicer.splicer.panels import every_marker, shared_markers
from mxsplicer.splicer.recipe import Recipe
from mxsplicer.splicer.run import Run
from mxsplicer.splicer.step_timing import TrialShape, random_patches, seconds_per_step, untrained_run

_SEGMENTED_PX = 1024  # side of the square that is segmented on trial

_TRIAL_CELLS = 512


@dataclass(frozen=True)
class TrialSlide:
    """A slide on trial, with its mask; without one, a square from its middle that was segmented."""

    one: JobSlide
    slide: Slide
    mask: LazyImage | None  # None if nothing could be segmented
    n_cells: int  # of the whole slide, estimated; 0 where the mask shows it
    share: float  # of the slide's pixels that ``slide`` has
    seconds_to_segment: float | None  # the whole slide


def try_slide(job: Job, one: JobSlide, folder: Path) -> TrialSlide:
    """Return a slide with its mask, or segment a square of it on trial, in a mask below ``folder``."""
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


def plan_extractions(job: Job, trials: Sequence[TrialSlide]) -> tuple[dict[str, float], int, int]:
    """Return from trial slides the seconds until the training and to read for the embedding, cells, and memory."""
    plans = {
        trial.one.name: plan_extraction(
            trial.slide,
            trial.mask,
            patch_size_um=job.patch_size_on(trial.slide),
            min_area_um2=job.options.min_area_um2,
            workers=job.running.workers,
            max_bytes=job.running.max_bytes,
            executor=job.running.executor,
        )
        for trial in trials
        if trial.mask is not None
    }
    n_cells = {trial.one.name: trial.n_cells or plans[trial.one.name].n_cells_of_slide for trial in trials}
    n_cut = training_cells_of_slides(job.training_cells, n_cells)
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


def trial_shape(job: Job) -> TrialShape:
    """Return the patches of a job, as trials take them."""
    slide = job.images[0]
    if job.model is not None:
        return TrialShape(job.model.markers, job.model.patch_px, job.model.pixel_size_um)
    panels = [one.markers for one in job.images]
    markers = shared_markers(panels) if job.options.panel == "shared" else every_marker(panels)
    return TrialShape(markers, job.patch_px, slide.pixel_size_um)


def seconds_to_step(job: Job, shape: TrialShape) -> dict[str, float]:
    """Measure on trial the seconds of a step of every training of a job, by the name of its stage."""
    recipe, device = job.recipe, job.running.device
    seconds = {"training": seconds_per_step(recipe, shape, device=device)}
    if job.trains_joint:
        joint = Recipe.from_settings(recipe.to_settings() | {"method": "joint"})
        seconds["training the baseline (joint)"] = seconds_per_step(joint, shape, device=device)
    return seconds


def seconds_to_embed(job: Job, shape: TrialShape) -> float:
    """Measure on trial the seconds to normalise and encode one cell by all encoders of a job, on random patches."""
    run: Run = job.model or untrained_run(job.recipe, shape)
    encoders = PatchEncoders(
        run, {str(number): run.encoder for number in range(job.n_encoders)}, find_device(job.running.device)
    )
    patches, regions = random_patches(_TRIAL_CELLS, shape)
    encoders.encode(patches[:64], regions[:64])  # the first pass sets things up
    began = time.perf_counter()
    encoders.encode(patches, regions)
    return (time.perf_counter() - began) / _TRIAL_CELLS


def count_features(job: Job) -> int:
    """Return the width of the representation, that of a trial encoder if no model is given."""
    return (job.model or untrained_run(job.recipe, trial_shape(job))).features
