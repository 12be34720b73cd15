"""The training loop: steps of views, embeddings, loss and optimizer, with a log and checkpoints.

Everything random depends only on the seed and the number of the step. So an interrupted run continues with the numbers
it would have had, also with another number of processes.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from mxsplicer.errors import InputError
from mxsplicer.splicer.batches import Batch, Batches
from mxsplicer.splicer.checkpoints import save_checkpoint
from mxsplicer.splicer.monitoring import Log, Measures, Watch, measure, measures_at
from mxsplicer.splicer.objectives import Objective
from mxsplicer.splicer.onlineprobe import OnlineProbe
from mxsplicer.splicer.panels import known_markers
from mxsplicer.splicer.processes import gather
from mxsplicer.splicer.run import Run
from mxsplicer.splicer.views import Views
from mxsplicer.system.progress import track

_SECONDS_BETWEEN_CHECKPOINTS = 60.0
_PROBES = 20  # per training, at most one per epoch


class EmbedStep(nn.Module):
    """What the loop calls in each step to embed cells: Fabric handles precision and gradients of a module's forward."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, *views: Tensor, **step_arguments: Any) -> tuple[Tensor, ...]:
        """Return what the objective's ``embed`` returns."""
        return self.objective.embed(*views, **step_arguments)


@dataclass
class Loop:
    """The training loop. Every process makes the same steps, each on its share of the cells."""

    fabric: Fabric
    model: Any  # the :class:`EmbedStep` of the objective, wrapped by Fabric
    objective: Objective
    optimizer: Any
    batches: Batches
    run: Run
    views: Views
    folder: Path

    def train(self, first: int, probe: OnlineProbe | None, tensorboard: Path | None) -> None:
        """Make the steps from number ``first`` on, and log them."""
        names, steps = self.objective.chunk_names, self.run.settings["steps"]
        numbered = _number_batches(self.batches, first, steps)
        if not self.fabric.is_global_zero:
            for step, batch in numbered:
                self.make_step(step, batch, measured=measures_at(step, steps))
            return
        saved = time.monotonic()
        probe_every = max(self.batches.per_epoch, steps // _PROBES)
        watch = Watch(names, steps, has_components=names != ("whole",))
        description = f"Training ({self.run.method}, {self.run.settings['loss']})"
        with Log(self.folder, names, first=first, tensorboard=tensorboard) as log:
            for step, batch in track(numbered, description, total=steps, start=first):
                terms, measures = self.make_step(step, batch, measured=measures_at(step, steps))
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
                    save_checkpoint(self.folder, self.objective, self.optimizer, step + 1)
                    saved = time.monotonic()

    def make_step(
        self, step: int, batch: Batch, *, measured: bool = False
    ) -> tuple[dict[str, list[float]], Measures | None]:
        """Make one step on a batch, and return each term of the loss for every chunk, and measures if wanted."""
        self.model.train()
        accumulate = self.run.settings["accumulate"]
        seed = self.run.settings["seed"] * 1_000_003 + step
        torch.manual_seed(seed)  # for a loss that draws at random
        sums: dict[str, Tensor] = {}
        for number in range(accumulate):
            # Each process has the whole batch, and so knows which markers the cells of the other processes have.
            n = len(batch[0]) // accumulate
            known = known_markers(batch[0][number * n : (number + 1) * n])
            arguments = self.objective.step_arguments(step, known)
            with self.fabric.no_backward_sync(self.model, enabled=number < accumulate - 1):
                embedded = self.model(*self._views(batch, number, seed), **arguments)
                # The loss is that of the cells of all processes. z is only measured and needs no gradient.
                z, e = embedded[0].detach(), [gather(self.fabric, one) for one in embedded[1:]]
                terms = self.objective.terms(z, *e, **arguments)
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
        with torch.no_grad():  # of the last micro-batch, which is the whole batch unless gradients are accumulated
            return values, measure(gather(self.fabric, z), self.objective.pairs(z, *e, **arguments))

    def _views(self, batch: Batch, number: int, seed: int) -> tuple[Tensor, ...]:
        """Return the views of this process's cells of a micro-batch: the same as in the whole batch."""
        n_shares = self.run.settings["accumulate"] * self.fabric.world_size
        n = len(batch[0]) // n_shares
        start = (number * self.fabric.world_size + self.fabric.global_rank) * n
        patches, regions = batch[0][start : start + n], batch[1][start : start + n]
        run, objective, device = self.run, self.objective, self.fabric.device
        shown = run.normalize(patches, regions, device=device)
        beyond = objective.looks_beyond and run.hides_surroundings
        whole = run.normalization(patches, device=device) if beyond else shown
        inputs = objective.view_inputs(shown, whole, torch.from_numpy(regions).to(device))
        generator = torch.Generator(device).manual_seed(seed)
        return self.views(*inputs, generator=generator, first=start, of=len(batch[0]))

    def _learning_rate(self, step: int) -> float:
        settings = self.run.settings
        return float(settings["learning_rate"]) * _warm_up_and_cosine(step, settings["steps"])

    @torch.no_grad()
    def _encode(self, patches: np.ndarray, regions: np.ndarray) -> np.ndarray:
        self.objective.eval()
        with self.fabric.autocast():
            z: Tensor = self.objective.encoder(self.run.normalize(patches, regions, device=self.fabric.device))
        return z.float().cpu().numpy()


def _number_batches(batches: Batches, first: int, steps: int) -> Iterator[tuple[int, Batch]]:
    """Yield the batches of all epochs with the numbers of the loop's steps, from step ``first`` on."""
    step = first
    while step < steps:
        epoch, done = divmod(step, batches.per_epoch)
        for place, batch in enumerate(batches.epoch(epoch)):
            if step == steps:  # the last epoch may be a part of one
                return
            if place >= done:
                yield step, batch
                step += 1


def _warm_up_and_cosine(step: int, steps: int) -> float:
    """Return the learning rate of a step of the loop, as a share of its peak."""
    warm_up = max(1, steps // 10)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def _check_finite(terms: dict[str, list[float]], names: Sequence[str], step: int) -> None:
    bad = sorted(
        {name for of in terms.values() for name, value in zip(names, of, strict=True) if not math.isfinite(value)}
    )
    if bad:
        msg = f"the loss of chunk {', '.join(bad)} is not finite at step {step}."
        remedy = "Lower `learning_rate`." if step else "Check the loss and the input: no weight has changed yet."
        raise InputError(msg, remedy)
