"""Planning an embedding: what it will do and cost, whether it fits into memory, and how many steps a budget allows."""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from mxsplicer.cells.estimate import estimate_cells
from mxsplicer.errors import InputError
from mxsplicer.patches.extraction_plan import format_seconds
from mxsplicer.result.job import Job, open_job
from mxsplicer.result.options import Options, Running
from mxsplicer.result.patch_size import fit_trials
from mxsplicer.result.slides import SlideRecord
from mxsplicer.result.trials import (
    count_features,
    plan_extractions,
    seconds_to_embed,
    seconds_to_step,
    trial_shape,
    try_slide,
)
from mxsplicer.splicer.normalization import SAMPLE_CELLS
from mxsplicer.system.durations import format_duration
from mxsplicer.system.memory import format_bytes

logger = logging.getLogger(__name__)

FEWEST_STEPS = 20  # of a training
_PLANNED_SHARE = 0.85  # of a budget: steps are timed on a few, and other programs come and go

# Seconds of the stages after the embedding on an idle core of the machine on which _REFERENCE_S was measured, and how
# they grow: fitted to runs of 400 to 9,000 cells and, beyond, to tests/benchmarks/bench_embedding.py.
_TO_CLUSTER, _PER_CLUSTERED, _PER_PLACED, _CLUSTERED = 11.0, 2.0e-3, 2.5e-4, 50_000
_PER_VALUE = 6e-8  # a cell, a feature and a marker whose correlation is measured
_TO_REPORT, _PER_REPORTED, _REPORTED = 6.5, 4e-4, 50_000
_WHILE_COMPILING = {"scales": 7.5, "embedding": 10.0}  # longer, while umap is compiled: not after a training
_PER_SCALED = 2.3  # the seconds of encoding a cell of the sample on which scales are measured
_PER_SCORED, _FEATURES_OF_BASELINES = 4e-7, 300  # a cell, a label, and a feature of each description
_REFERENCE_S = 0.11
_WRITING_SPEED = 30e6  # bytes of z per second, compressed by gzip and written in two orders
_BYTES_TO_REPORT, _BYTES_TO_CORRELATE = 1_100_000_000, 870_000_000  # with all libraries and a sample of the cells
_BYTES_PER_CELL = 240  # of the table and the names of the cells


@dataclass(frozen=True)
class EmbeddingPlan:
    """What an embedding will do and cost; all figures are estimates."""

    n_cells: int
    n_features: int
    patch_px: int
    steps: int  # of training; 0 without one
    disk_bytes: int  # at most at a time, in the result folder, without the mask and the training sample
    memory_bytes: int  # at most
    seconds: dict[str, float]  # by stage, under the names that a result records
    dominated_by: str  # the stage that takes longest
    not_counted: tuple[str, ...]  # stages that are not in ``seconds``

    def __str__(self) -> str:
        """Return the plan as a table for people."""
        training = [f"steps   {self.steps:,} of training"] if self.steps else []
        return "\n".join(
            [
                f"cells   about {self.n_cells:,}, {self.n_features} features each",
                f"patch   {self.patch_px} px",
                *training,
                f"disk    at most {format_bytes(self.disk_bytes)}",
                f"memory  at most {format_bytes(self.memory_bytes)}",
                *format_seconds(self.seconds, self.dominated_by),
                *[f"  {stage:<22}on top" for stage in self.not_counted],
            ]
        )


def plan_slides(
    slides: str | Path | Sequence[str | Path | SlideRecord] = (),
    out: str | Path | None = None,
    *,
    options: Options | None = None,
    device: str = "auto",
    workers: int | None = None,
    executor: str = "threads",
    max_bytes: int | None = None,
) -> EmbeddingPlan:
    """Return what :func:`~mxsplicer.embed_slides` would do and cost, writing nothing.

    A few tiles of each slide are decoded, measured and cut; a square is segmented where a mask is missing; and a few
    steps of training and passes of the encoder are made on patches of noise. That takes seconds, or a minute for wide
    encoders. The arguments are those of ``embed_slides``.
    """
    job = open_job(slides, out, options or Options(), Running(device, workers, executor, max_bytes))
    with TemporaryDirectory() as folder:
        trials = [try_slide(job, one, Path(folder)) for one in job.slides]
        fit_trials(job, trials)
        seconds, n_cells, memory_bytes = plan_extractions(job, trials)
    steps = _plan_training(job, n_cells, seconds)
    shape, n_features = trial_shape(job), count_features(job)
    if not job.options.only_cells:
        n_labels = max(1, len(job.options.label)) if job.has_labels else 0
        of_later = seconds_after_encoder(
            n_cells, n_features, len(shape.markers), n_labels=n_labels, n_encoders=job.n_encoders
        )
        slowness = _machine_slowness()
        if not (steps or max_bytes):
            for stage in _WHILE_COMPILING.keys() & seconds.keys():
                seconds[stage] += _WHILE_COMPILING[stage] * slowness
        seconds |= {stage: value * slowness for stage, value in of_later.items()}
    is_complete = all(trial.seconds_to_segment is not None or trial.one.mask is not None for trial in trials)
    return EmbeddingPlan(
        n_cells=n_cells,
        n_features=n_features,
        patch_px=shape.patch_px,
        steps=steps,
        disk_bytes=3 * 4 * n_cells * n_features,  # the journal of blocks, cells.h5ad and features.zarr
        memory_bytes=max(memory_bytes, _bytes_after_encoder(n_cells, len(shape.markers), len(job.options.measure))),
        seconds={stage: float(f"{value:.3g}") for stage, value in seconds.items()},
        dominated_by=max(seconds, key=lambda stage: seconds[stage]),
        not_counted=() if is_complete else ("segmentation and cells",),
    )


def check_memory(job: Job) -> None:
    """Raise if the planned memory of the stages after the encoder exceeds the limit, which would show after hours.

    Cells that were not measured yet are estimated for slides without a mask, and not counted for those with one.
    """
    limit, marker = job.running.max_bytes, job.options.nuclear_marker
    if limit is None:
        return
    counted = [len(one.cells) for one in job.slides if one.cells is not None]
    unmasked = [one.slide for one in job.slides if one.mask is None]
    n_cells = sum(counted or (estimate_cells(slide, nuclear_marker=marker).n_cells for slide in unmasked))
    n_markers = len(job.model.markers if job.model else job.images[0].markers)
    needed = _bytes_after_encoder(n_cells, n_markers, len(job.options.measure))
    if needed > limit:
        of_cells = f" and of {n_cells:,} cells in {n_markers} markers" if n_cells else ""
        msg = (
            f"{format_bytes(limit)} of memory is too little: correlations and clusters take "
            f"{format_bytes(needed)}, including all libraries{of_cells}."
        )
        raise InputError(msg, f"Raise `max_bytes` to at least {format_bytes(needed)}.")


def seconds_after_encoder(
    n_cells: int, n_features: int, n_markers: int, *, n_labels: int, n_encoders: int
) -> dict[str, float]:
    """Return the planned seconds of the stages after the embedding on the machine of reference, by stage.

    Examples
    --------
    >>> list(seconds_after_encoder(9_000, 300, 17, n_labels=0, n_encoders=1))
    ['correlation and clusters', 'report']
    """
    clustered, placed = min(n_cells, _CLUSTERED), max(0, n_cells - _CLUSTERED)
    seconds = {
        "correlation and clusters": _TO_CLUSTER
        + _PER_CLUSTERED * clustered
        + _PER_PLACED * placed
        + _PER_VALUE * n_cells * n_features * n_markers
    }
    if n_labels:
        seconds["scores"] = _PER_SCORED * n_cells * n_labels * (n_features * n_encoders + _FEATURES_OF_BASELINES)
    return seconds | {"report": _TO_REPORT + _PER_REPORTED * min(n_cells, _REPORTED)}


def _plan_training(job: Job, n_cells: int, seconds: dict[str, float]) -> int:
    """Add the planned seconds of training, of its baseline and of encoding all cells; return the number of steps."""
    shape = trial_shape(job)
    to_embed = seconds_to_embed(job, shape) * n_cells
    steps = 0
    if job.trains or job.trains_joint:
        per_step = seconds_to_step(job, shape)
        steps = steps_by_default(job, n_cells)
        if job.options.budget_s is not None:
            steps = min(steps, steps_within(job.options.budget_s, to_embed=to_embed, per_step=sum(per_step.values())))
        seconds |= {stage: steps * each for stage, each in per_step.items()}
    if job.options.is_builtin:
        seconds["scales"] = _PER_SCALED * min(n_cells, SAMPLE_CELLS) * to_embed / max(n_cells, 1)
    z_bytes = 4 * n_cells * count_features(job) * job.n_encoders
    seconds["embedding"] = seconds.pop("embedding") + to_embed + z_bytes / _WRITING_SPEED  # after training
    return steps if job.trains else 0


def _machine_slowness() -> float:
    """Return how much slower than the machine of reference, on which a plan's seconds were measured, this one is."""
    values = np.random.default_rng(0).normal(size=(700, 700))
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        np.linalg.eigvalsh(values @ values.T)
        np.sort(values, axis=None)
        best = min(best, time.perf_counter() - began)
    return best / _REFERENCE_S


def _bytes_after_encoder(n_cells: int, n_markers: int, n_measures: int) -> int:
    table = n_cells * (_BYTES_PER_CELL + 4 * n_markers * (1 + n_measures))
    reporting = _BYTES_TO_REPORT + n_cells * 105  # clusters take less
    # A few features at a time; for each marker its ranks, and the neighbourhood intensity around each cell.
    correlating = _BYTES_TO_CORRELATE + n_cells * (40 + 6 * n_markers)
    return table + max(reporting, correlating)


def choose_steps(job: Job) -> None:
    """Plan how many steps of training a budget allows, if there is one, after the time that embedding takes.

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
    """Plan how many steps fit into a budget next to the embedding, with a reserve.

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
    """Plan the number of steps of a training on a sample of so many cells, without a budget."""
    n_trained = n_cells if job.options.keep_patches else min(n_cells, job.training_cells)
    recipe = job.recipe
    return recipe.count_steps(max(1, n_trained // min(recipe.batch_size, n_trained)))
