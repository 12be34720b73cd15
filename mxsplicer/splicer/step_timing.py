"""The timing of steps: a few real ones on random patches, to learn how long a training will take on this machine."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import torch

from mxsplicer.patches.store import BACKGROUND, NUCLEUS, THIS_CELL
from mxsplicer.splicer.batches import Batch
from mxsplicer.splicer.encoders import make_encoder
from mxsplicer.splicer.normalization import Normalization
from mxsplicer.splicer.recipe import Recipe
from mxsplicer.splicer.run import Run

if TYPE_CHECKING:
    from mxsplicer.splicer.loop import Loop

_MOST_STEPS, _MOST_SECONDS = 5, 8.0  # of a trial, after the first step, which sets things up
_FIRST_ENOUGH = 10.0  # seconds: a step that takes longer is not repeated
_RADIUS = 0.28  # in sides of the patch that fits 99 %; a round cell of it takes as long as cells of a slide in the mean
_BRIGHTEST = 1_000


@dataclass(frozen=True)
class TrialShape:
    """The patches on which steps are timed: markers, side and pixel size."""

    markers: Sequence[str]
    patch_px: int
    pixel_size_um: float = 0.5


def untrained_run(recipe: Recipe, shape: TrialShape) -> Run:
    """Return a run with a new encoder, which embeds the random patches on which steps are timed."""
    n_markers = len(shape.markers)
    level = torch.full((n_markers,), float(np.log1p(_BRIGHTEST / 2)))
    low, high = torch.zeros(n_markers), torch.full((n_markers,), float(_BRIGHTEST))
    encoder = make_encoder(recipe.encoder, n_markers, shape.patch_px, width=recipe.encoder_width)
    return Run(
        encoder.eval(),
        Normalization(low, high, level, torch.ones(n_markers)),
        tuple(shape.markers),
        shape.patch_px,
        shape.pixel_size_um,
        recipe.to_settings() | {"steps": 1_000, "patch_size_um": shape.patch_px * shape.pixel_size_um},
    )


def random_patches(n_cells: int, shape: TrialShape, *, seed: int = 0) -> Batch:
    """Return noise to time steps on: patches (n, C, P, P), each with a round cell, and their regions (n, P, P)."""
    generator = np.random.default_rng(seed)
    from_centre = np.arange(shape.patch_px) - (shape.patch_px - 1) / 2
    distance = np.hypot(from_centre[:, None], from_centre) / shape.patch_px
    region = np.where(distance < _RADIUS / 2, NUCLEUS, np.where(distance < _RADIUS, THIS_CELL, BACKGROUND))
    patches = generator.integers(
        0, _BRIGHTEST, (n_cells, len(shape.markers), shape.patch_px, shape.patch_px), dtype=np.uint16
    )
    return patches, np.repeat(region.astype(np.uint8)[None], n_cells, axis=0)


def seconds_per_step(recipe: Recipe, shape: TrialShape, *, n_cells: int | None = None, device: str = "auto") -> float:
    """Measure the timing of a step of training: how long it takes on one device.

    Parameters
    ----------
    recipe
        How to train.
    shape
        The patches.
    n_cells
        Cells to train on, where there may be fewer than a batch.
    device
        As for :func:`~mxsplicer.splicer.training.train`.
    """
    batch_size = min(recipe.batch_size, n_cells or recipe.batch_size)
    batch = random_patches(max(2, batch_size), shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        loop = _make_loop(recipe, shape, device)
        seconds = [_time_step(loop, 0, batch)]
        if seconds[0] < _FIRST_ENOUGH:
            seconds = []
            while len(seconds) < _MOST_STEPS and sum(seconds) < _MOST_SECONDS:
                seconds.append(_time_step(loop, len(seconds) + 1, batch))
    return median(seconds)


def _time_step(loop: "Loop", step: int, batch: Batch) -> float:
    began = time.perf_counter()
    loop.make_step(step, batch)  # its losses are numbers, which waits for the device
    return time.perf_counter() - began


def _make_loop(recipe: Recipe, shape: TrialShape, device: str) -> "Loop":
    # Fabric takes a second to load, which calls that train nothing save.
    from mxsplicer.splicer.loop import EmbedStep, Loop
    from mxsplicer.splicer.processes import alone, make_fabric

    run = untrained_run(recipe, shape)
    components = recipe.components(shape.markers)
    objective = recipe.objective(run.encoder.train(), components, patch_px=shape.patch_px)
    objective.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fabric = make_fabric(device, processes=alone(), unused_weights=recipe.components_per_step is not None)
    # No learning: only the time matters, and nothing may diverge.
    run.settings["learning_rate"] = 0.0
    fused = fabric.device.type in ("cpu", "cuda")
    optimizer = torch.optim.AdamW(objective.parameters(), lr=0.0, weight_decay=0.0, fused=fused)
    model, optimizer = fabric.setup(EmbedStep(objective), optimizer)
    return Loop(fabric, model, objective, optimizer, None, run, recipe.view_plan(), Path())  # type: ignore[arg-type]
