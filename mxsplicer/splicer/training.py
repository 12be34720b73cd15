"""Training: patch stores become a run folder.

:func:`train` reads top to bottom: what is trained on, what is trained, and the loop (``loop.py``). What can be wrong in
its arguments is below, how a run is interrupted, continued and finished in ``checkpoints.py``.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from mxsplicer.errors import InputError
from mxsplicer.patches.store import PatchStore
from mxsplicer.splicer.batches import Batches
from mxsplicer.splicer.built_in import about_stores, align, measure_moments, measure_scales, training_sample
from mxsplicer.splicer.checkpoints import begin, finish, resume
from mxsplicer.splicer.deconstruction import OF_NUCLEI, Component
from mxsplicer.splicer.encoders import make_encoder
from mxsplicer.splicer.loop import EmbedStep, Loop
from mxsplicer.splicer.moments import WithMoments
from mxsplicer.splicer.objectives import Objective
from mxsplicer.splicer.onlineprobe import OnlineProbe
from mxsplicer.splicer.panels import check_agreement
from mxsplicer.splicer.processes import alone as only_this_process
from mxsplicer.splicer.processes import find_processes, launch, make_fabric, share_batch_norm
from mxsplicer.splicer.recipe import Recipe
from mxsplicer.splicer.run import Run, load_run
from mxsplicer.splicer.training_memory import choose_buffer_bytes, step_bytes, trial_views
from mxsplicer.system.files import check_free
from mxsplicer.system.fingerprints import fingerprint_code
from mxsplicer.system.memory import Budget

logger = logging.getLogger(__name__)


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
    alone: bool = False,
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
    alone
        Train in this process, whatever ``torchrun`` or ``srun`` started.
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
    if not recipe.trains:
        return measure_moments(stores, path, recipe=recipe, panel=panel, overwrite=overwrite)
    stores, spread = align(stores, recipe, panel)
    markers, patch_px, pixel_size_um = check_agreement(stores)
    processes = only_this_process() if alone else find_processes(devices, nodes)
    batches = training_batches(stores, recipe, processes.total)
    probe = OnlineProbe(stores, labels, seed=recipe.seed) if labels is not None else None
    check_free(path, overwrite=overwrite)
    fabric = make_fabric(
        device, precision, processes, unused_weights=recipe.components_per_step is not None or panel == "union"
    )
    with launch(fabric, processes):
        normalization, varies = measure_scales(stores, recipe, spread)
        components = components_to_train(recipe, markers, varies, stores)
        torch.manual_seed(recipe.seed)
        encoder = make_encoder(recipe.encoder, len(markers), patch_px, width=recipe.encoder_width)
        if isinstance(encoder, WithMoments):
            encoder.prepare(training_sample(stores, normalization, recipe), normalization, markers)
        objective = recipe.objective(encoder, components, patch_px=patch_px)
        objective.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if max_bytes is not None:
            cells = batches.batch_size // (processes.total * recipe.accumulate)
            views, arguments = (
                trial_views(objective, (len(markers), patch_px, patch_px)),
                objective.step_arguments(0, None),
            )
            step = step_bytes(objective, views, cells, arguments) if fabric.device.type == "cpu" else 0
            buffer_bytes = choose_buffer_bytes(Budget.of(max_bytes), batches, step_bytes=step)
            batches = training_batches(stores, recipe, processes.total, buffer_bytes=buffer_bytes)
        if fabric.world_size > 1:
            share_batch_norm(objective, fabric.device)
        settings = _settings(recipe, objective, components, batches, stores, panel, fabric)
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
                sample = training_sample(stores, normalization, recipe).to(fabric.device)
                objective.projector.follow(*encoder.calibrate(sample))
            finish(replace(run, projector=objective.projector.state_dict()), folder, path)
        fabric.barrier()
    return load_run(path, encoder=recipe.encoder)


def _settings(
    recipe: Recipe,
    objective: Objective,
    components: Sequence[Component],
    batches: Batches,
    stores: Sequence[PatchStore],
    panel: str,
    fabric: Fabric,
) -> dict[str, Any]:
    """Return the settings of a training: those of the recipe, and what they resolved to."""
    steps = recipe.count_steps(batches.per_epoch)
    return recipe.to_settings() | {
        "views": asdict(recipe.view_plan()),
        "components": [component.name for component in components],
        "chunk_widths": list(objective.parts.chunks.widths),
        "has_chunks": objective.has_chunks,
        "epochs": math.ceil(steps / batches.per_epoch),
        "steps": steps,
        "batch_size": batches.batch_size,
        "precision": str(fabric._precision.precision),
        **about_stores(stores, panel),
        # So that an interrupted run does not continue with other code.
        **({"own_code": {name: fingerprint_code(name) for name in own}} if (own := recipe.own_code()) else {}),
    }


def training_batches(
    stores: Sequence[PatchStore], recipe: Recipe, processes: int, *, buffer_bytes: int | None = None
) -> Batches:
    """Return the batches that a training takes, of a size that processes and micro-batches divide equally, or raise."""
    shares = processes * recipe.accumulate
    n_cells = sum(store.n_cells for store in stores)
    if n_cells < 2 * shares:
        msg = (
            f"{n_cells} cell{'s are' if n_cells > 1 else ' is'} too few to train on"
            f"{f' in {shares} shares' if shares > 1 else ''}."
        )
        raise InputError(msg, "Use more slides, or a trained `model`.")
    if recipe.batch_size % shares or recipe.batch_size < 2 * shares:
        divided = (
            f"{processes} process{'es' * (processes > 1)} and "
            f"{recipe.accumulate} micro-batch{'es' * (recipe.accumulate > 1)}"
        )
        msg = f"a batch of {recipe.batch_size} cells cannot be divided among {divided}, at least two cells to each."
        raise InputError(msg, f"Use a multiple of {shares} as `batch_size`.")
    batch_size = min(recipe.batch_size, n_cells // shares * shares)
    return Batches(stores, batch_size, seed=recipe.seed, buffer_bytes=buffer_bytes)


def components_to_train(
    recipe: Recipe, markers: Sequence[str], varies: Sequence[bool], stores: Sequence[PatchStore]
) -> list[Component]:
    """Return the components of a training, in which something varies; raise if none does or nuclei are missing."""
    components = [c for c in recipe.components(markers) if any(varies[channel] for channel in c.channels)]
    if not components:
        names = ", ".join(store.slide_name for store in stores)
        msg = f"every marker of {names} has one value in all cells, so nothing can be learned."
        raise InputError(msg)
    _check_nuclei(recipe, components, stores)
    constant = [marker for marker, moves in zip(markers, varies, strict=True) if not moves]
    if constant:
        logger.warning("left out as components, for they are constant in every cell: %s", ", ".join(constant))
    return components


def _check_nuclei(recipe: Recipe, components: Sequence[Component], stores: Sequence[PatchStore]) -> None:
    without = [store.slide_name for store in stores if not store.knows_nuclei]
    shown = [component.name for component in components if component.pixels in OF_NUCLEI]
    if without and shown and recipe.method != "joint":
        msg = f"component {shown[0]} needs a mask of nuclei, and the patches of slide {without[0]!r} were cut without."
        raise InputError(msg, "Cut them again with `nuclei`.")
