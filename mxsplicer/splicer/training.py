"""Training: patch stores become a run folder.

Everything random depends on the seed and the number of the step alone, so a run that was interrupted goes on with the
numbers it would have had, also with another number of processes. A checkpoint is a safetensors file written beside the
log under a temporary name and renamed.
"""

import json
import logging
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mxsplicer.errors import InputError
from mxsplicer.patches.store import PatchStore
from mxsplicer.splicer.batches import Batch, Batches, measure_normalization
from mxsplicer.splicer.deconstruction import OF_NUCLEI, Component
from mxsplicer.splicer.encoders import make_encoder
from mxsplicer.splicer.footprint import share_out, step_bytes, trial_views
from mxsplicer.splicer.monitoring import Log, Measures, Watch, cut_log, last_results, measure, measures_at, write_table
from mxsplicer.splicer.objectives import Objective
from mxsplicer.splicer.onlineprobe import OnlineProbe
from mxsplicer.splicer.panels import known_markers, on_one_panel
from mxsplicer.splicer.processes import find_processes, gather, launch, make_fabric, share_batch_norm
from mxsplicer.splicer.recipe import Recipe
from mxsplicer.splicer.run import Run, load_run, save_run
from mxsplicer.splicer.scales import common_scale, on_one_scale
from mxsplicer.splicer.views import Views
from mxsplicer.splicer.widths import choose_widths
from mxsplicer.system.files import atomic_write, check_free, partial_path, remove_partial
from mxsplicer.system.files import replace as replace_path
from mxsplicer.system.fingerprints import fingerprint_code
from mxsplicer.system.memory import Budget
from mxsplicer.system.progress import track

logger = logging.getLogger(__name__)

DEFAULT_STEPS = 2_000  # where no number of epochs is given; also what CIM-S (arXiv 2512.15410) trains for
_SECONDS_BETWEEN_CHECKPOINTS = 60.0
_PROBES = 20  # per training, at most one an epoch


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
    """Train an encoder on the patches of one or more slides, with the SpliCER objective or plain joint embedding.

    On several devices every process takes its part of the same batch, and loss and batch norm are those of the whole
    batch: their number changes the time and not the result. One of them writes; the folder has to be visible to all.

    Parameters
    ----------
    stores
        Stores of one patch size and pixel size.
    path
        Run folder to create. Until training ends it lies in ``<path>.partial``, and the same call goes on there.
    recipe
        Objective, loss, encoder, views and all else that decides the outcome; by default the default one.
    panel
        Where slides differ in their markers, ``"shared"`` trains on those of all, and ``"union"`` on those of any: a
        cell is left out of the loss of a component that shows a marker its slide lacks, and the encoder sees that
        marker's mean. ``"same"`` refuses them.
    labels
        For each store one label per cell, None where there is none: a linear probe of them goes to the log, a few times
        in the training. Nothing is learned from them.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``.
    devices, nodes
        Devices on each machine, and machines; by default what ``torchrun`` or ``srun`` started, else one.
    precision
        ``"auto"`` is bfloat16 autocast where the processor computes it, else float32.
    tensorboard
        Folder to write events for TensorBoard to.
    max_bytes
        Limit for the memory of each process. Less is mixed at a time where it is tight, and so other cells meet in a
        batch; where not even a step fits, training is refused.

    Raises
    ------
    InputError
        If the stores do not belong together, no marker varies, or the folder exists.
    """
    stores = [stores] if isinstance(stores, PatchStore) else list(stores)
    path = Path(path)
    recipe = recipe or Recipe()
    given, stores = _brought_together(stores, recipe, panel)
    markers, patch_px, pixel_size_um = _agreement(given)
    processes = find_processes(devices, nodes)
    batches = _batches(stores, recipe, processes.total)
    probe = OnlineProbe(stores, labels, seed=recipe.seed) if labels is not None else None
    check_free(path, overwrite=overwrite)
    fabric = make_fabric(
        device, precision, processes, weights_rest=recipe.components_per_step is not None or panel == "union"
    )
    with launch(fabric, processes):
        epochs = recipe.epochs or max(1, math.ceil(DEFAULT_STEPS / batches.per_epoch))
        common, varies = measure_normalization(given, seed=recipe.seed)
        normalization = common_scale(len(markers)) if recipe.normalization == "slide" else common
        components = [c for c in recipe.components(markers) if any(varies[channel] for channel in c.channels)]
        if not components:
            msg = f"no marker of {', '.join(store.slide_name for store in stores)} varies: there is nothing to learn."
            raise InputError(msg)
        _check_nuclei(recipe, components, stores)
        constant = [marker for marker, moves in zip(markers, varies, strict=True) if not moves]
        if constant:
            logger.warning("left out as components, for they are constant in every cell: %s", ", ".join(constant))
        torch.manual_seed(recipe.seed)
        encoder = make_encoder(recipe.encoder, len(markers), patch_px, width=recipe.encoder_width)
        widths = choose_widths(recipe, components, stores, normalization)
        objective = recipe.objective(encoder, components, widths, patch_px=patch_px)
        objective.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if max_bytes is not None:
            at_once = batches.batch_size // (processes.total * recipe.accumulate)
            seen = trial_views(objective, (len(markers), patch_px, patch_px))
            step = step_bytes(objective, seen, at_once)
            step = step if fabric.device.type == "cpu" else 0
            buffer_bytes = share_out(Budget.of(max_bytes), batches, step_bytes=step)
            batches = _batches(stores, recipe, processes.total, buffer_bytes=buffer_bytes)
        if fabric.world_size > 1:
            share_batch_norm(objective, fabric.device)
        views = recipe.view_plan()
        settings = recipe.to_settings() | {
            "views": asdict(views),
            "components": [component.name for component in components],
            "chunk_widths": widths,
            "has_chunks": objective.has_chunks,
            "epochs": epochs,
            "steps": epochs * batches.per_epoch,
            "batch_size": batches.batch_size,
            "precision": str(fabric._precision.precision),
            "patch_size_um": stores[0].patch_size_um,
            "slides": [store.slide_name for store in stores],
            "n_cells": batches.n_cells,
            **({} if panel == "same" else {"panel": panel}),
            # So that a run which was interrupted does not go on with other code.
            **({"own_code": {name: fingerprint_code(name) for name in own}} if (own := recipe.own_code()) else {}),
        }
        run = Run(objective.encoder, normalization, markers, patch_px, pixel_size_um, settings, path)
        folder = _begin(fabric, path, run, overwrite=overwrite)
        # AdamW moves every weight by about the learning rate whatever the loss's scale, so the sum needs none.
        fused = fabric.device.type in ("cpu", "cuda")  # one pass over weights and moments: a seventh of the time
        optimizer = torch.optim.AdamW(
            objective.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=fused
        )
        model, optimizer = fabric.setup(_Embed(objective), optimizer)
        first = _resume(fabric, folder, objective, optimizer)
        fit = _Fit(fabric, model, objective, optimizer, batches, run, views, folder)
        fit.train(first, probe, Path(tensorboard) if tensorboard else None)
        if fabric.is_global_zero:
            _finish(replace(run, normalization=common, projector=objective.projector.state_dict()), folder, path)
        fabric.barrier()
    return load_run(path, encoder=recipe.encoder)


class _Embed(nn.Module):
    """The half of an objective that works on each cell: Fabric minds the precision, and the gradients, of a forward."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, *views: Tensor) -> tuple[Tensor, ...]:
        return self.objective.embed(*views)


@dataclass
class _Fit:
    """The loop: every process makes the same steps, each on its part of the cells."""

    fabric: Fabric
    model: Any  # what makes embeddings of views, as Fabric wraps it
    objective: Objective
    optimizer: Any
    batches: Batches
    run: Run
    views: Views
    folder: Path

    def train(self, first: int, probe: OnlineProbe | None, tensorboard: Path | None) -> None:
        """Make the steps from number ``first`` on, and log them."""
        names, steps = self.objective.chunk_names, self.run.settings["steps"]
        numbered = _numbered(self.batches, first, steps)
        if not self.fabric.is_global_zero:
            for step, batch in numbered:
                self._step(step, batch, measured=measures_at(step, steps))
            return
        saved = time.monotonic()
        probe_every = max(self.batches.per_epoch, steps // _PROBES)
        watch = Watch(names, steps, has_components=names != ("whole",))
        description = f"Training ({self.run.method}, {self.run.settings['loss']})"
        with Log(self.folder, names, first=first, tensorboard=tensorboard) as log:
            for step, batch in track(numbered, description, total=steps, start=first):
                terms, measures = self._step(step, batch, measured=measures_at(step, steps))
                loss = {"loss": [sum(values) for values in zip(*terms.values(), strict=True)]}
                probed = probe is not None and ((step + 1) % probe_every == 0 or step == steps - 1)
                log.write(
                    step,
                    step // self.batches.per_epoch,
                    loss | terms,
                    learning_rate=self._learning_rate(step),
                    n_cells=self.batches.batch_size,
                    measures=measures,
                    probe=probe.score(self._encode) if probe is not None and probed else None,
                    warnings=watch.look(step, measures, loss["loss"]) if measures else (),
                )
                if time.monotonic() - saved > _SECONDS_BETWEEN_CHECKPOINTS:
                    _checkpoint(self.folder, self.objective, self.optimizer, step + 1)
                    saved = time.monotonic()

    def _step(self, step: int, batch: Batch, *, measured: bool) -> tuple[dict[str, list[float]], Measures | None]:
        """Make one step on a batch, and return each term of the loss for every chunk, and measures if wanted."""
        self.model.train()
        accumulate = self.run.settings["accumulate"]
        seed = self.run.settings["seed"] * 1_000_003 + step
        torch.manual_seed(seed)  # for a loss that draws at random
        self.objective.at_step(step)
        sums: dict[str, Tensor] = {}
        for part in range(accumulate):
            # Each process knows the whole batch, and so which markers the cells of the others have.
            n = len(batch[0]) // accumulate
            self.objective.at_cells(known_markers(batch[0][part * n : (part + 1) * n]))
            with self.fabric.no_backward_sync(self.model, enabled=part < accumulate - 1):
                embedded = self.model(*self._views(batch, part, seed))
                # Over the cells of all processes; of z no gradient is wanted, and only to be looked at.
                z, others = embedded[0].detach(), [gather(self.fabric, one) for one in embedded[1:]]
                terms = self.objective.terms(z, *others)
                self.fabric.backward(torch.stack(list(terms.values())).sum() / accumulate)
            for name, term in terms.items():
                sums[name] = sums.get(name, 0) + term.detach() / accumulate
        values = dict(zip(sums, torch.stack(list(sums.values())).tolist(), strict=True))
        _check_finite(values, self.objective.chunk_names, step)
        self.fabric.clip_gradients(self.model, self.optimizer, max_norm=1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate(step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if not measured:
            return values, None
        with torch.no_grad():  # of the last part, which is all of the batch unless gradients are accumulated
            return values, measure(gather(self.fabric, z), self.objective.pairs(z, *others))

    def _views(self, batch: Batch, part: int, seed: int) -> tuple[Tensor, ...]:
        """Return the views of this process's cells of a part of a batch: those they have in the whole batch."""
        n_parts = self.run.settings["accumulate"] * self.fabric.world_size
        n = len(batch[0]) // n_parts
        start = (part * self.fabric.world_size + self.fabric.global_rank) * n
        patches, regions = batch[0][start : start + n], batch[1][start : start + n]
        run, objective, device = self.run, self.objective, self.fabric.device
        shown = run.normalize(patches, regions, device=device)
        beyond = objective.looks_beyond and run.hides_surroundings
        whole = run.normalization(patches, device=device) if beyond else shown
        pictures = objective.pictures(shown, whole, torch.from_numpy(regions).to(device))
        generator = torch.Generator(device).manual_seed(seed)
        return self.views(*pictures, generator=generator, first=start, of=len(batch[0]))

    def _learning_rate(self, step: int) -> float:
        settings = self.run.settings
        return float(settings["learning_rate"]) * _warm_up_and_cosine(step, settings["steps"])

    @torch.no_grad()
    def _encode(self, patches: np.ndarray, regions: np.ndarray) -> np.ndarray:
        self.objective.eval()
        with self.fabric.autocast():
            z: Tensor = self.objective.encoder(self.run.normalize(patches, regions, device=self.fabric.device))
        return z.float().cpu().numpy()


def _numbered(batches: Batches, first: int, steps: int) -> Iterator[tuple[int, Batch]]:
    step = first
    while step < steps:
        epoch, done = divmod(step, batches.per_epoch)
        for place, batch in enumerate(batches.epoch(epoch)):
            if place >= done:
                yield step, batch
                step += 1


def _brought_together(
    stores: Sequence[PatchStore], recipe: Recipe, panel: str
) -> tuple[list[PatchStore], list[PatchStore]]:
    """Return the stores on one panel, and again with their slides on one scale, where that is wanted."""
    given = on_one_panel(stores, panel)
    if panel == "union" and recipe.width_rule != "equal":
        rule = recipe.width_rule
        msg = f"widths by {rule} need slides of one panel: leave out --chunk-width {rule}, or give --panel shared."
        raise InputError(msg)
    if recipe.normalization == "common":
        return given, given
    return given, on_one_panel(on_one_scale(stores, seed=recipe.seed), panel)


def _agreement(stores: Sequence[PatchStore]) -> tuple[tuple[str, ...], int, float]:
    first = stores[0]
    for store in stores[1:]:
        if store.markers != first.markers:
            differ = sorted(set(store.markers) ^ set(first.markers))
            msg = (
                f"slides {first.slide_name!r} and {store.slide_name!r} differ in their markers"
                f"{': ' + ', '.join(differ) if differ else ' in their order'}. One model needs one panel: to train on "
                "the markers that all have, give --panel shared, on those of any, --panel union."
            )
            raise InputError(msg)
        if store.patch_px != first.patch_px or abs(store.pixel_size_um / first.pixel_size_um - 1) > 0.05:
            msg = (
                f"slides {first.slide_name!r} and {store.slide_name!r} differ in scale: {first.patch_px} px of "
                f"{first.pixel_size_um:g} µm and {store.patch_px} px of {store.pixel_size_um:g} µm."
            )
            raise InputError(msg)
    return first.markers, first.patch_px, first.pixel_size_um


def _batches(
    stores: Sequence[PatchStore], recipe: Recipe, processes: int, *, buffer_bytes: int | None = None
) -> Batches:
    """Return the batches, each of as many cells as processes and micro-batches can share alike."""
    parts = processes * recipe.accumulate
    n_cells = sum(store.n_cells for store in stores)
    if n_cells < 2 * parts:
        msg = (
            f"{n_cells} cell{'s are' if n_cells > 1 else ' is'} too few to train on"
            f"{f' in {parts} parts' if parts > 1 else ''}. Give more slides, or a trained model by --model."
        )
        raise InputError(msg)
    if recipe.batch_size % parts or recipe.batch_size < 2 * parts:
        shared = (
            f"{processes} process{'es' * (processes > 1)} and {recipe.accumulate} part{'s' * (recipe.accumulate > 1)}"
        )
        msg = (
            f"a batch of {recipe.batch_size} cells cannot be shared among {shared}, two cells or more to each: "
            f"give a multiple of {parts} for --batch-size."
        )
        raise InputError(msg)
    batch_size = min(recipe.batch_size, n_cells // parts * parts)
    return Batches(stores, batch_size, seed=recipe.seed, buffer_bytes=buffer_bytes)


def _check_nuclei(recipe: Recipe, components: Sequence[Component], stores: Sequence[PatchStore]) -> None:
    unknown = [store.slide_name for store in stores if not store.knows_nuclei]
    shown = [component.name for component in components if component.part in OF_NUCLEI]
    if unknown and shown and recipe.method != "joint":
        msg = (
            f"component {shown[0]} shows a part of the cell that only a mask of nuclei tells, and the patches of slide "
            f"{unknown[0]!r} were cut without one. Give it by --nuclei where patches are cut."
        )
        raise InputError(msg)


def _begin(fabric: Fabric, path: Path, run: Run, *, overwrite: bool) -> Path:
    """Return the folder that training writes to: a new one, or an interrupted one with the same settings."""
    folder = partial_path(path)
    settings = json.dumps([run.settings, run.normalization.to_dict()], sort_keys=True)
    marker = folder / "settings.json"
    other = folder.exists() and (not marker.is_file() or marker.read_text(encoding="utf-8") != settings)
    if other and not overwrite:
        msg = (
            f"{folder} holds an unfinished run with other settings, or with other code of yours. Finish it with those, "
            "remove it, or --overwrite to begin anew."
        )
        raise InputError(msg)
    fabric.barrier()  # every process has looked
    if fabric.is_global_zero:
        if other:
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        marker.write_text(settings, encoding="utf-8")
    fabric.barrier()
    return folder


def _finish(run: Run, folder: Path, path: Path) -> None:
    """Write the run, and give its folder its name."""
    write_table(folder / "log.jsonl", folder / "log.csv")
    save_run(replace(run, results=last_results(folder / "log.jsonl")), folder)
    for file in ("checkpoint.safetensors", "settings.json"):  # what only an interrupted run needs
        (folder / file).unlink(missing_ok=True)
    remove_partial(folder)
    replace_path(folder, path)


def _checkpoint(folder: Path, objective: nn.Module, optimizer: Any, step: int) -> None:
    tensors = {f"model.{name}": tensor for name, tensor in objective.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors.update({f"optimizer.{number}.{name}": value for name, value in state.items()})
    tensors["step"] = torch.tensor(step)
    with atomic_write(folder / "checkpoint.safetensors") as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)


def _resume(fabric: Fabric, folder: Path, objective: nn.Module, optimizer: Any) -> int:
    """Load the last checkpoint, if there is one, and return the step to go on with."""
    file = folder / "checkpoint.safetensors"
    step = 0
    if file.is_file():
        tensors = load_file(file, device=str(fabric.device))
        objective.load_state_dict({n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")})
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            if key.startswith("optimizer."):
                _, number, name = key.split(".", 2)
                state.setdefault(int(number), {})[name] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        for (
            weight,
            moments,
        ) in optimizer.state.items():  # a fused optimiser takes them to lie in memory as the weight does
            moments.update(
                {n: torch.empty_like(weight).copy_(m) for n, m in moments.items() if m.shape == weight.shape}
            )
        step = int(tensors["step"])
        logger.info("going on with step %d", step)
    if fabric.is_global_zero:
        cut_log(folder / "log.jsonl", step)
    fabric.barrier()  # before the first of them writes the next checkpoint
    return step


def _warm_up_and_cosine(step: int, steps: int) -> float:
    warm_up = max(1, steps // 10)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def _check_finite(terms: dict[str, list[float]], names: Sequence[str], step: int) -> None:
    bad = sorted(
        {name for of in terms.values() for name, value in zip(names, of, strict=True) if not math.isfinite(value)}
    )
    if bad:
        advice = "Lower --learning-rate" if step else "Nothing was learned yet, so it is the loss itself, or the input"
        msg = f"the loss of chunk {', '.join(bad)} is not finite at step {step}. {advice}."
        raise InputError(msg)
