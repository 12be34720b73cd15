"""Training: patch stores become a run folder.

Everything random depends on the seed and the number of the step alone, so a run that was interrupted goes on with the
numbers it would have had. A checkpoint is a safetensors file written beside the log under a temporary name and renamed.
"""

import json
import logging
import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mxsplicer.errors import InputError
from mxsplicer.patches.store import PatchStore
from mxsplicer.progress import track
from mxsplicer.splicer.batches import Batch, Batches, measure_normalization
from mxsplicer.splicer.devices import find_device
from mxsplicer.splicer.encoders import make_encoder
from mxsplicer.splicer.objectives import Objective
from mxsplicer.splicer.recipe import Recipe
from mxsplicer.splicer.run import Run, load_run, save_run
from mxsplicer.splicer.views import Views
from mxsplicer.splicer.widths import choose_widths

logger = logging.getLogger(__name__)

DEFAULT_STEPS = 2_000  # where no number of epochs is given; also what CIM-S (arXiv 2512.15410) trains for
_SECONDS_BETWEEN_CHECKPOINTS = 60.0


def train(
    stores: PatchStore | Sequence[PatchStore],
    path: str | Path,
    *,
    recipe: Recipe | None = None,
    device: str = "auto",
    precision: str = "auto",
    overwrite: bool = False,
) -> Run:
    """Train an encoder on the patches of one or more slides, with the SpliCER objective or plain joint embedding.

    Parameters
    ----------
    stores
        Stores of one panel, patch size and pixel size.
    path
        Run folder to create. Until training ends it lies in ``<path>.partial``, and the same call goes on there.
    recipe
        Objective, loss, encoder, views and all else that decides the outcome; by default the default one.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``.
    precision
        ``"auto"`` is bfloat16 autocast where the processor computes it, else float32.

    Raises
    ------
    InputError
        If the stores do not belong together, no marker varies, or the folder exists.
    """
    stores = [stores] if isinstance(stores, PatchStore) else list(stores)
    path = Path(path)
    markers, patch_px, pixel_size_um = _agreement(stores)
    recipe = recipe or Recipe()
    batches = Batches(stores, recipe.batch_size, seed=recipe.seed)
    if batches.n_cells < 2:
        msg = f"{batches.n_cells} cell is too few to train on. Give more slides, or a trained model by --model."
        raise InputError(msg)
    epochs = recipe.epochs or max(1, math.ceil(DEFAULT_STEPS / batches.per_epoch))
    normalization, varies = measure_normalization(stores, seed=recipe.seed)
    components = [c for c in recipe.components(markers) if any(varies[channel] for channel in c.channels)]
    if not components:
        msg = f"no marker of {', '.join(store.slide_name for store in stores)} varies: there is nothing to learn."
        raise InputError(msg)
    constant = [marker for marker, moves in zip(markers, varies, strict=True) if not moves]
    if constant:
        logger.warning("left out as components, for they are constant in every cell: %s", ", ".join(constant))
    fabric = _fabric(device, precision)
    torch.manual_seed(recipe.seed)
    encoder = make_encoder(recipe.encoder, len(markers), patch_px, width=recipe.encoder_width)
    widths = choose_widths(recipe, components, stores, normalization)
    objective = recipe.objective(encoder, components, widths, patch_px=patch_px)
    objective.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    views = recipe.view_plan()
    settings = recipe.to_settings() | {
        "views": asdict(views),
        "components": [component.name for component in components],
        "chunk_widths": widths,
        "epochs": epochs,
        "steps": epochs * batches.per_epoch,
        "batch_size": batches.batch_size,
        "precision": str(fabric._precision.precision),
        "patch_size_um": stores[0].patch_size_um,
        "slides": [store.slide_name for store in stores],
        "n_cells": batches.n_cells,
    }
    run = Run(objective.encoder, normalization, markers, patch_px, pixel_size_um, settings, path)
    folder = _begin(path, run, overwrite=overwrite)
    # AdamW moves every weight by about the learning rate whatever the loss's scale, so the sum over chunks needs none.
    fused = fabric.device.type in ("cpu", "cuda")  # one pass over weights and moments: a seventh of the time
    optimizer = torch.optim.AdamW(
        objective.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=fused
    )
    model, optimizer = fabric.setup(objective, optimizer)
    first = _resume(folder, objective, optimizer, fabric.device)
    _fit(fabric, model, objective, optimizer, batches, run, views, folder=folder, first=first)
    save_run(run, folder)
    for file in ("checkpoint.safetensors", "settings.json"):  # what only an interrupted run needs
        (folder / file).unlink(missing_ok=True)
    if path.exists():
        shutil.rmtree(path)
    folder.replace(path)
    return load_run(path, encoder=recipe.encoder)


def _fit(
    fabric: Fabric,
    model: Any,
    objective: Objective,
    optimizer: Any,
    batches: Batches,
    run: Run,
    views: Views,
    *,
    folder: Path,
    first: int,
) -> None:
    model.train()
    steps, seed = run.settings["steps"], run.settings["seed"]
    began = saved = time.monotonic()
    description = f"Training ({run.method}, {run.settings['loss']})"
    with (folder / "log.jsonl").open("a", buffering=1, encoding="utf-8") as log:
        numbered = track(_numbered(batches, first, steps), description, total=steps, start=first)
        for step, (patches, regions) in numbered:
            generator = torch.Generator(fabric.device).manual_seed(seed * 1_000_003 + step)
            torch.manual_seed(seed * 1_000_003 + step)  # for a loss that draws at random
            shown = run.normalize(patches, regions, device=fabric.device)
            beyond = objective.looks_beyond and run.hides_surroundings
            whole = run.normalization(patches, device=fabric.device) if beyond else shown
            other = objective.second(shown, whole, torch.from_numpy(regions).to(fabric.device))
            view_a, view_b = views(shown, other, generator)
            terms = model(view_a, view_b)
            total = torch.stack(list(terms.values())).sum()
            _check_finite(total, terms, objective.chunk_names, step)
            fabric.backward(total)
            fabric.clip_gradients(model, optimizer, max_norm=1.0)
            for group in optimizer.param_groups:
                group["lr"] = run.settings["learning_rate"] * _warm_up_and_cosine(step, steps)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            log.write(_log_line(step, batches, total, terms, objective.chunk_names, time.monotonic() - began) + "\n")
            if time.monotonic() - saved > _SECONDS_BETWEEN_CHECKPOINTS:
                _checkpoint(folder, objective, optimizer, step + 1)
                saved = time.monotonic()


def _numbered(batches: Batches, first: int, steps: int) -> Iterator[tuple[int, Batch]]:
    step = first
    while step < steps:
        epoch, done = divmod(step, batches.per_epoch)
        for place, batch in enumerate(batches.epoch(epoch)):
            if place >= done:
                yield step, batch
                step += 1


def _agreement(stores: Sequence[PatchStore]) -> tuple[tuple[str, ...], int, float]:
    first = stores[0]
    for store in stores[1:]:
        if store.markers != first.markers:
            differ = sorted(set(store.markers) ^ set(first.markers))
            msg = (
                f"slides {first.slide_name!r} and {store.slide_name!r} differ in their markers"
                f"{': ' + ', '.join(differ) if differ else ' in their order'}. One model needs one panel."
            )
            raise InputError(msg)
        if store.patch_px != first.patch_px or abs(store.pixel_size_um / first.pixel_size_um - 1) > 0.05:
            msg = (
                f"slides {first.slide_name!r} and {store.slide_name!r} differ in scale: {first.patch_px} px of "
                f"{first.pixel_size_um:g} µm and {store.patch_px} px of {store.pixel_size_um:g} µm."
            )
            raise InputError(msg)
    return first.markers, first.patch_px, first.pixel_size_um


def _fabric(device: str, precision: str) -> Fabric:
    where = find_device(device)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it says twice what the settings say
    if precision == "auto":
        precision = "bf16-mixed" if _computes_bf16(where.type) else "32-true"
    devices = 1 if where.index is None else [where.index]
    return Fabric(accelerator=where.type, devices=devices, precision=precision)


def _computes_bf16(accelerator: str) -> bool:
    if accelerator == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    capabilities: Mapping[str, Any] = torch.cpu.get_capabilities()
    return accelerator == "cpu" and bool(capabilities.get("avx512_bf16", False))


def _begin(path: Path, run: Run, *, overwrite: bool) -> Path:
    """Return the folder that training writes to: a new one, or an interrupted one with the same settings."""
    if path.exists() and not overwrite:
        msg = f"{path} exists. Choose another folder, or --overwrite to replace it."
        raise InputError(msg)
    folder = path.with_name(path.name + ".partial")
    settings = json.dumps([run.settings, run.normalization.to_dict()], sort_keys=True)
    marker = folder / "settings.json"
    if folder.exists() and (not marker.is_file() or marker.read_text(encoding="utf-8") != settings):
        if not overwrite:
            msg = (
                f"{folder} holds an unfinished run with other settings. Finish it with those, remove it, "
                "or --overwrite to begin anew."
            )
            raise InputError(msg)
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    marker.write_text(settings, encoding="utf-8")
    return folder


def _checkpoint(folder: Path, objective: nn.Module, optimizer: Any, step: int) -> None:
    tensors = {f"model.{name}": tensor for name, tensor in objective.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors.update({f"optimizer.{number}.{name}": value for name, value in state.items()})
    tensors["step"] = torch.tensor(step)
    temporary = folder / "checkpoint.tmp"
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)
    temporary.replace(folder / "checkpoint.safetensors")


def _resume(folder: Path, objective: nn.Module, optimizer: Any, device: torch.device) -> int:
    """Load the last checkpoint, if there is one, and return the step to go on with."""
    file, log = folder / "checkpoint.safetensors", folder / "log.jsonl"
    if not file.is_file():
        log.unlink(missing_ok=True)
        return 0
    tensors = load_file(file, device=str(device))
    objective.load_state_dict({n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")})
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith("optimizer."):
            _, number, name = key.split(".", 2)
            state.setdefault(int(number), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for weight, moments in optimizer.state.items():  # a fused optimiser takes them to lie in memory as the weight does
        moments.update({n: torch.empty_like(weight).copy_(m) for n, m in moments.items() if m.shape == weight.shape})
    step = int(tensors["step"])
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
    log.write_text("".join(lines[:step]), encoding="utf-8")
    logger.info("going on with step %d", step)
    return step


def _warm_up_and_cosine(step: int, steps: int) -> float:
    warm_up = max(1, steps // 10)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def _check_finite(total: Tensor, terms: dict[str, Tensor], names: Sequence[str], step: int) -> None:
    if not torch.isfinite(total):
        bad = sorted({names[i] for term in terms.values() for i in torch.where(~torch.isfinite(term))[0].tolist()})
        msg = f"the loss of chunk {', '.join(bad)} is not finite at step {step}. Lower --learning-rate."
        raise InputError(msg)


def _log_line(
    step: int, batches: Batches, total: Tensor, terms: dict[str, Tensor], names: Sequence[str], seconds: float
) -> str:
    values = {name: term.tolist() for name, term in terms.items()}
    chunks = {
        chunk: {"loss": sum(values[name][i] for name in values)} | {name: values[name][i] for name in values}
        for i, chunk in enumerate(names)
    }
    line = {"step": step, "epoch": step // batches.per_epoch, "seconds": seconds, "loss": float(total.detach())}
    return json.dumps(line | {"chunks": chunks})
