"""Training: patch stores become a run folder.

:func:`train` reads top to bottom: what is trained on, what is trained, and the loop (``loop.py``). What can be wrong in
its arguments is in ``checks.py``, how a run is interrupted, continued and finished in ``checkpoints.py``.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from mxsplicer.errors import InputError
from mxsplicer.patches.store import PatchStore
from mxsplicer.splicer.batches import SAMPLE_CELLS, Batches, measure_normalization, sample_inputs
from mxsplicer.splicer.checkpoints import begin, finish, resume
from mxsplicer.splicer.checks import check_agreement, find_components, make_batches
from mxsplicer.splicer.deconstruction import Component
from mxsplicer.splicer.encoders import make_encoder
from mxsplicer.splicer.footprint import choose_buffer_bytes, step_bytes, trial_views
from mxsplicer.splicer.loop import EmbedStep, Loop
from mxsplicer.splicer.moments import WithMoments
from mxsplicer.splicer.normalization import Normalization
from mxsplicer.splicer.objectives import Objective
from mxsplicer.splicer.onlineprobe import OnlineProbe
from mxsplicer.splicer.panels import on_one_panel
from mxsplicer.splicer.processes import find_processes, launch, make_fabric, share_batch_norm
from mxsplicer.splicer.recipe import Recipe
from mxsplicer.splicer.run import Run, load_run
from mxsplicer.splicer.scales import common_scale, on_one_scale
from mxsplicer.splicer.widths import choose_widths
from mxsplicer.system.files import check_free
from mxsplicer.system.fingerprints import fingerprint_code
from mxsplicer.system.memory import Budget

_SAMPLE_BYTES = 256 << 20


def train(
    stores: PatchStore | Sequence[PatchStore],
    path: str | Path,
    *,
    recipe: Recipe | None = None,
    panel: str = "same",
    labels: Sequence[Sequence[object]] | None = None,
    device: str = "auto",
    devices: int | None = None,
    nodes: int | None = None,
    precision: str = "auto",
    tensorboard: str | Path | None = None,
    max_bytes: int | None = None,
    overwrite: bool = False,
) -> Run:
    """Train an encoder on the patches of one or more slides, with SpliCER or one of the methods it is compared with.

    On several devices every process takes its share of the same batch, and loss and batch norm are those of the whole
    batch. So the number of devices changes the time and not the result. One process writes; all must see the folder.

    Parameters
    ----------
    stores
        Stores of one patch size and pixel size.
    path
        Run folder to create. Until training ends it is ``<path>.partial``; the same call continues an interrupted
        training there.
    recipe
        Objective, loss, encoder, views and every other setting that decides the result; by default ``Recipe()``.
    panel
        If slides differ in their markers, ``"shared"`` trains on the markers of all slides, and ``"union"`` on those of
        any: a cell is left out of the loss of components that show a marker its slide lacks, and the encoder sees the
        mean of that marker. ``"same"`` raises.
    labels
        For each store one label per cell, None for an unlabelled cell: a linear probe is scored on them and logged, a
        few times during training. Nothing is learned from them.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``.
    devices, nodes
        Devices on each machine, and machines; by default what ``torchrun`` or ``srun`` started, else one.
    precision
        ``"auto"`` is bfloat16 autocast if the processor computes it, else float32.
    tensorboard
        Folder to write events for TensorBoard to.
    max_bytes
        Limit for the memory of each process. If it is tight, fewer patches are mixed at a time, which changes which
        cells share a batch; if a single step does not fit, training raises.
    overwrite
        Whether to replace an existing folder.

    Raises
    ------
    InputError
        If the stores do not fit together, no marker varies, or the folder exists.
    """
    stores = [stores] if isinstance(stores, PatchStore) else list(stores)
    path = Path(path)
    recipe = recipe or Recipe()
    given, stores = _align(stores, recipe, panel)
    markers, patch_px, pixel_size_um = check_agreement(given)
    processes = find_processes(devices, nodes)
    batches = make_batches(stores, recipe, processes.total)
    probe = OnlineProbe(stores, labels, seed=recipe.seed) if labels is not None else None
    check_free(path, overwrite=overwrite)
    fabric = make_fabric(
        device, precision, processes, unused_weights=recipe.components_per_step is not None or panel == "union"
    )
    with launch(fabric, processes):
        common, varies = measure_normalization(given, seed=recipe.seed)
        normalization = common_scale(len(markers)) if recipe.normalization == "slide" else common
        components = find_components(recipe, markers, varies, stores)
        torch.manual_seed(recipe.seed)
        encoder = make_encoder(recipe.encoder, len(markers), patch_px, width=recipe.encoder_width)
        if isinstance(encoder, WithMoments):
            encoder.prepare(_sample(stores, normalization, recipe), common)
        widths = choose_widths(recipe, components, stores, normalization)
        objective = recipe.objective(encoder, components, widths, patch_px=patch_px)
        objective.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if max_bytes is not None:
            cells = batches.batch_size // (processes.total * recipe.accumulate)
            views, arguments = (
                trial_views(objective, (len(markers), patch_px, patch_px)),
                objective.step_arguments(0, None),
            )
            step = step_bytes(objective, views, cells, arguments) if fabric.device.type == "cpu" else 0
            buffer_bytes = choose_buffer_bytes(Budget.of(max_bytes), batches, step_bytes=step)
            batches = make_batches(stores, recipe, processes.total, buffer_bytes=buffer_bytes)
        if fabric.world_size > 1:
            share_batch_norm(objective, fabric.device)
        settings = _settings(recipe, objective, components, widths, batches, stores, panel, fabric)
        run = Run(objective.encoder, normalization, markers, patch_px, pixel_size_um, settings, path)
        folder = begin(fabric, path, run, overwrite=overwrite)
        # AdamW moves every weight by about the learning rate whatever the scale of the loss, so the sum needs none.
        fused = fabric.device.type in ("cpu", "cuda")  # one pass over weights and moments: a seventh of the time
        optimizer = torch.optim.AdamW(
            objective.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=fused
        )
        model, optimizer = fabric.setup(EmbedStep(objective), optimizer)
        first = resume(fabric, folder, objective, optimizer)
        loop = Loop(fabric, model, objective, optimizer, batches, run, recipe.view_plan(), folder)
        loop.train(first, probe, Path(tensorboard) if tensorboard else None)
        if fabric.is_global_zero:
            if isinstance(encoder, WithMoments):
                sample = _sample(stores, normalization, recipe).to(fabric.device)
                objective.projector.follow(*encoder.calibrate(sample))
            finish(replace(run, normalization=common, projector=objective.projector.state_dict()), folder, path)
        fabric.barrier()
    return load_run(path, encoder=recipe.encoder)


def _sample(stores: Sequence[PatchStore], normalization: Normalization, recipe: Recipe) -> Tensor:
    """Return patches of training cells as the encoder sees them, of at most 256 MB, (n, C, P, P)."""
    shape = stores[0].patches.shape[1:]
    n_cells = min(SAMPLE_CELLS, _SAMPLE_BYTES // (4 * math.prod(shape)))
    hide = recipe.surroundings == "hide"
    return sample_inputs(stores, normalization, hide=hide, n_cells=n_cells, seed=recipe.seed)


def _align(stores: Sequence[PatchStore], recipe: Recipe, panel: str) -> tuple[list[PatchStore], list[PatchStore]]:
    """Return the stores on one panel; and the same, on one intensity scale if each slide is normalised by itself."""
    given = on_one_panel(stores, panel)
    if panel == "union" and recipe.width_rule != "equal":
        msg = f"`width_rule={recipe.width_rule!r}` needs slides of one panel."
        raise InputError(msg, "Use equal widths, or `panel='shared'`.")
    if recipe.normalization == "common":
        return given, given
    return given, on_one_panel(on_one_scale(stores, seed=recipe.seed), panel)


def _settings(
    recipe: Recipe,
    objective: Objective,
    components: Sequence[Component],
    widths: Sequence[int],
    batches: Batches,
    stores: Sequence[PatchStore],
    panel: str,
    fabric: Fabric,
) -> dict[str, Any]:
    """Return the settings of a run: those of the recipe, and what they resolved to."""
    steps = recipe.count_steps(batches.per_epoch)
    return recipe.to_settings() | {
        "views": asdict(recipe.view_plan()),
        "components": [component.name for component in components],
        "chunk_widths": list(widths),
        "has_chunks": objective.has_chunks,
        "epochs": math.ceil(steps / batches.per_epoch),
        "steps": steps,
        "batch_size": batches.batch_size,
        "precision": str(fabric._precision.precision),
        "patch_size_um": stores[0].patch_size_um,
        "slides": [store.slide_name for store in stores],
        "n_cells": batches.n_cells,
        **({} if panel == "same" else {"panel": panel}),
        # So that an interrupted run does not continue with other code.
        **({"own_code": {name: fingerprint_code(name) for name in own}} if (own := recipe.own_code()) else {}),
    }
