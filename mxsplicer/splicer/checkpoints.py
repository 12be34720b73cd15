"""The folder of a training in progress: begin or continue it, save checkpoints, and finish it.

A checkpoint is a safetensors file, written next to the log under a temporary name and then renamed.
"""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mxsplicer.errors import InputError
from mxsplicer.splicer.monitoring import cut_log, last_results, write_table
from mxsplicer.splicer.run import Run, save_run
from mxsplicer.system.files import atomic_write, partial_path, remove_partial
from mxsplicer.system.files import replace as replace_path

logger = logging.getLogger(__name__)


def begin(fabric: Fabric, path: Path, run: Run, *, overwrite: bool) -> Path:
    """Return the folder for checkpoints: a new one, or that of an interrupted training with equal settings."""
    folder = partial_path(path)
    settings = json.dumps([run.settings, run.normalization.to_dict()], sort_keys=True)
    marker = folder / "settings.json"
    other = folder.exists() and (not marker.is_file() or marker.read_text(encoding="utf-8") != settings)
    if other and not overwrite:
        msg = f"{folder} holds an unfinished run with other settings, or with other code of yours."
        raise InputError(msg, "Finish it with those, remove it, or replace it with `overwrite=True`.")
    fabric.barrier()  # every process has looked
    if fabric.is_global_zero:
        if other:
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        marker.write_text(settings, encoding="utf-8")
    fabric.barrier()
    return folder


def finish(run: Run, folder: Path, path: Path) -> None:
    """Write the run next to the checkpoints, and rename the folder to its final name."""
    write_table(folder / "log.jsonl", folder / "log.csv")
    save_run(replace(run, results=last_results(folder / "log.jsonl")), folder)
    for file in ("checkpoint.safetensors", "settings.json"):  # only an interrupted run needs them
        (folder / file).unlink(missing_ok=True)
    remove_partial(folder)
    replace_path(folder, path)


def save_checkpoint(folder: Path, objective: nn.Module, optimizer: Any, step: int) -> None:
    """Save the weights and the state of the optimizer; training will continue with ``step``."""
    tensors = {f"model.{name}": tensor for name, tensor in objective.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors.update({f"optimizer.{number}.{name}": value for name, value in state.items()})
    tensors["step"] = torch.tensor(step)
    with atomic_write(folder / "checkpoint.safetensors") as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)


def resume(fabric: Fabric, folder: Path, objective: nn.Module, optimizer: Any) -> int:
    """Load the last checkpoint, if any, and return the step to continue with."""
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
        # A fused optimizer assumes that the moments have the memory layout of their weight.
        for weight, moments in optimizer.state.items():
            moments.update(
                {n: torch.empty_like(weight).copy_(m) for n, m in moments.items() if m.shape == weight.shape}
            )
        step = int(tensors["step"])
        logger.info("continuing with step %d", step)
    if fabric.is_global_zero:
        cut_log(folder / "log.jsonl", step)
    fabric.barrier()  # before the first process writes the next checkpoint
    return step
