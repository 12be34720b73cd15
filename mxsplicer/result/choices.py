"""What follows from cells and machine instead of being given: the side of a patch and, for a budget, the steps.

Both are chosen once, printed, and kept in ``settings.json``, so that an interrupted call continues with them.
"""

import logging
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from mxsplicer.cells.shapes import find_pieces, join_pieces
from mxsplicer.errors import InputError
from mxsplicer.images.tiles import TileGrid
from mxsplicer.patches import PATCH_SIZE_UM
from mxsplicer.patches.fitting import describe_larger, fit_patch, measure_extents
from mxsplicer.result.job import Job
from mxsplicer.result.trials import TrialSlide, seconds_to_embed, seconds_to_step, trial_shape
from mxsplicer.system.durations import format_duration

logger = logging.getLogger(__name__)

FEWEST_STEPS = 20  # of a training
_PLANNED_SHARE = 0.85  # of a budget: steps are timed on a few, and other programs come and go

_FIT_TILE_PX, _FIT_TILES = 2048, 16  # of a mask, on which the side of a patch is estimated


def fit_patches(job: Job) -> None:
    """Choose the side of the patches by the measured cells, if it was not given, and count cells that are larger."""
    if "larger_cells" in job.chosen or any(one.cells is None for one in job.slides):
        return
    slides = {one.name: (one.measured_cells.table, one.slide.pixel_size_um) for one in job.slides}
    if job.options.patch_size_um is None:
        fit = fit_patch(slides, shapes_px={one.name: one.slide.shape_px for one in job.slides})
        job.chosen |= {"patch_size_um": fit.patch_size_um, "patch_px": fit.patch_px}
    if job.sees_cells_only:
        job.chosen["larger_cells"] = {
            name: int((measure_extents(table) > job.patch_px).sum()) for name, (table, _) in slides.items()
        }


def report_choices(job: Job) -> None:
    """Print what was chosen, once the result is begun."""
    n_larger = sum(job.chosen.get("larger_cells", {}).values())
    larger = describe_larger(n_larger, sum(len(one.measured_cells) for one in job.slides))
    if job.options.patch_size_um is None:
        why = "which follows from the cells"
        logger.info("Patches are %d px (%g µm) wide, %s%s.", job.patch_px, job.patch_size_um, why, larger)
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
    """Choose how many steps fit into a budget next to the embedding, with a reserve.

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
    """Choose the number of steps of a training on a sample of so many cells, without a budget."""
    n_trained = n_cells if job.options.keep_patches else min(n_cells, job.options.training_cells)
    recipe = job.options.recipe
    return recipe.count_steps(max(1, n_trained // min(recipe.batch_size, n_trained)))


def fit_trials(job: Job, trials: Sequence[TrialSlide]) -> None:
    """Choose the side of the patches of a plan as the run will, where it was not given."""
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
    job.chosen |= {"patch_size_um": fit.patch_size_um, "patch_px": fit.patch_px}


def _some_cells(trial: TrialSlide, min_area_um2: float) -> pd.DataFrame:
    """Return the cells to choose the side of the patches by: those of a mask, or of some tiles of a large one."""
    assert trial.mask is not None
    grid = TileGrid(trial.slide.shape_px, (_FIT_TILE_PX, _FIT_TILE_PX))
    numbers = np.random.default_rng(0).permutation(len(grid))[:_FIT_TILES]
    pieces = [find_pieces(trial.slide, trial.mask, None, grid[int(number)]) for number in sorted(numbers)]
    pieces = [piece for piece in pieces if len(piece)]
    if not pieces:
        return pd.DataFrame()
    table = join_pieces(pieces, trial.slide)
    return table[table["area_um2"] >= min_area_um2]
