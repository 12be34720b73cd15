"""What follows from cells and machine instead of being given: the side of a patch and, for a budget, the steps.

Both are chosen once, printed, and kept in ``settings.json``, so that an interrupted call continues with them.
"""

import logging
import math
import time

from mxsplicer.embedding.encode import Encoders
from mxsplicer.errors import InputError
from mxsplicer.patches.blocks import PatchGeometry
from mxsplicer.patches.fitting import describe_larger, fit_patch, measure_extents
from mxsplicer.result.cohort import every_marker, shared_markers
from mxsplicer.result.job import Job
from mxsplicer.splicer.devices import find_device
from mxsplicer.splicer.recipe import Recipe
from mxsplicer.splicer.run import Run
from mxsplicer.splicer.trial import TrialShape, random_patches, seconds_per_step, untrained_run
from mxsplicer.system.progress import format_duration

logger = logging.getLogger(__name__)

FEWEST_STEPS = 20  # of a training
_PLANNED_SHARE = 0.85  # of a budget: steps are timed on a few, and other programs come and go
_TRIAL_CELLS = 512


def fit_patches(job: Job) -> None:
    """Choose the side of the patches by the measured cells, if it was not given, and count cells that are larger."""
    if "larger_cells" in job.chosen or any(one.cells is None for one in job.slides):
        return
    slides = {one.name: (one.measured_cells.table, one.slide.pixel_size_um) for one in job.slides}
    if job.options.patch_size_um is None:
        fit = fit_patch(slides, shapes_px={one.name: one.slide.shape_px for one in job.slides})
        job.chosen["patch_size_um"] = fit.patch_size_um
    if job.sees_cells_only:
        patch_px = {one.name: PatchGeometry.of(one.slide, job.patch_size_um).patch_px for one in job.slides}
        job.chosen["larger_cells"] = {
            name: int((measure_extents(table) > patch_px[name]).sum()) for name, (table, _) in slides.items()
        }


def report_choices(job: Job) -> None:
    """Print what was chosen, once the result is begun."""
    n_larger = sum(job.chosen.get("larger_cells", {}).values())
    larger = describe_larger(n_larger, sum(len(one.measured_cells) for one in job.slides))
    if job.options.patch_size_um is None:
        patch_px = PatchGeometry.of(job.images[0], job.patch_size_um).patch_px
        why = "which follows from the cells"
        logger.info("Patches are %d px (%g µm) wide, %s%s.", patch_px, job.patch_size_um, why, larger)
    elif n_larger:
        logger.warning("Patches are %g µm wide%s.", job.patch_size_um, larger)
    if "max_steps" in job.chosen:
        logger.info(
            "Training takes %d steps of about %s, which leaves time of the budget for embedding, about %s.",
            job.chosen["max_steps"],
            format_duration(job.chosen["seconds_per_step"]),
            format_duration(job.chosen["seconds_to_embed"]),
        )


def choose_steps(job: Job) -> None:
    """Choose how many steps of training a budget allows, if there is one, after the time that embedding takes.

    Raises
    ------
    InputError
        If the budget is too short for a training, and nothing was written yet.
    """
    budget = job.options.budget_s
    if budget is None or "max_steps" in job.chosen or any(one.cells is None for one in job.slides):
        return
    n_cells = sum(len(one.measured_cells) for one in job.slides)
    shape = trial_shape(job)
    to_embed = seconds_to_embed(job, shape) * n_cells
    per_step = sum(seconds_to_step(job, shape).values())
    wanted = steps_by_default(job, n_cells)
    try:
        steps = steps_within(budget, to_embed=to_embed, per_step=per_step)
    except InputError as error:
        if not job.is_begun:
            raise
        logger.warning("%s", error)  # cells were segmented since, and their work is not lost
        steps = FEWEST_STEPS
    job.chosen |= {"max_steps": min(steps, wanted), "seconds_per_step": per_step, "seconds_to_embed": to_embed}


def steps_within(budget_s: float, *, to_embed: float, per_step: float) -> int:
    """Return how many steps fit into a budget next to the embedding, with a reserve.

    Raises
    ------
    InputError
        If they are too few to learn anything.

    Examples
    --------
    >>> steps_within(100, to_embed=25, per_step=0.5)
    120
    """
    steps = int((_PLANNED_SHARE * budget_s - to_embed) / per_step)
    if steps < FEWEST_STEPS:
        to_train = FEWEST_STEPS * per_step
        msg = (
            f"a budget of {format_duration(budget_s)} is too short: embedding all cells takes about "
            f"{format_duration(to_embed)}, and {FEWEST_STEPS} steps of training {format_duration(to_train)}."
        )
        raise InputError(msg, f"Set `budget_s` to at least {math.ceil((to_embed + to_train) / _PLANNED_SHARE / 60)}m.")
    return steps


def steps_by_default(job: Job, n_cells: int) -> int:
    """Return the number of steps of a training on a sample of so many cells, without a budget."""
    n_trained = n_cells if job.options.keep_patches else min(n_cells, job.options.training_cells)
    recipe = job.options.recipe
    return recipe.count_steps(max(1, n_trained // min(recipe.batch_size, n_trained)))


def trial_shape(job: Job) -> TrialShape:
    """Return the patches of a job, as a trial takes them."""
    slide = job.images[0]
    if job.model is not None:
        return TrialShape(job.model.markers, job.model.patch_px, job.model.pixel_size_um)
    panels = [one.markers for one in job.images]
    markers = shared_markers(panels) if job.options.panel == "shared" else every_marker(panels)
    return TrialShape(markers, PatchGeometry.of(slide, job.patch_size_um).patch_px, slide.pixel_size_um)


def seconds_to_step(job: Job, shape: TrialShape) -> dict[str, float]:
    """Measure the seconds of a step of every training of a job, by the name of its stage."""
    recipe, device = job.options.recipe, job.running.device
    seconds = {"training": seconds_per_step(recipe, shape, device=device)}
    if job.trains_joint:
        joint = Recipe.from_settings(recipe.to_settings() | {"method": "joint"})
        seconds["training the baseline (joint)"] = seconds_per_step(joint, shape, device=device)
    return seconds


def seconds_to_embed(job: Job, shape: TrialShape) -> float:
    """Measure the seconds to normalise and encode one cell by all encoders of a job, on random patches."""
    run: Run = job.model or untrained_run(job.options.recipe, shape)
    n_encoders = 1 + job.scores_untrained + job.trains_joint
    encoders = Encoders(
        run, {str(number): run.encoder for number in range(n_encoders)}, find_device(job.running.device)
    )
    patches, regions = random_patches(_TRIAL_CELLS, shape)
    encoders.encode(patches[:64], regions[:64])  # the first pass sets things up
    began = time.perf_counter()
    encoders.encode(patches, regions)
    return (time.perf_counter() - began) / _TRIAL_CELLS


def n_encoders(job: Job) -> int:
    """Return how many encoders embed the cells: the model, and the baselines that it is compared with."""
    return 1 + job.scores_untrained + job.trains_joint


def count_features(job: Job) -> int:
    """Return the width of the representation."""
    return (job.model or untrained_run(job.options.recipe, trial_shape(job))).features
