"""Monitoring of a training: measures of the embeddings, early warnings, and the log of every step.

Nothing here affects the training: with or without it, a run has the same weights.
"""

import csv
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mxsplicer.errors import InputError

logger = logging.getLogger(__name__)

_MEASURES = 100  # per training: of 2,000 steps every 20th, which costs less than a hundredth of the time
# Thresholds far outside the range of trainings on real tissue; docs/training.md has the numbers.
_COLLAPSED = 0.02  # of the spread at the start; or of the length of the embeddings
_DEAD = 0.05  # mean correlation of a chunk with its component
_NEWEST = 0.2  # weight of the newest measure in its running mean
_EXPLODED = 20.0  # times the spread or the loss at the start
_LEARNED_BY = 200  # steps, and half of all steps: by then even the chunk of a faint marker correlates with it
_OF_STEP = ("loss", "learning_rate", "cells_per_second", "rank", "probe")


@dataclass(frozen=True)
class Measures:
    """What is monitored of the two embeddings of a batch, chunk by chunk."""

    spread: Tensor  # (n,) standard deviation over cells, root mean square over features
    component_spread: Tensor  # (n,) the same of the other embedding
    correlation: Tensor  # (n,) of each feature with that of the other embedding, mean over features
    chunk_rank: Tensor  # (n,) effective rank of the chunk, at most its width
    length: Tensor  # (n,) root mean square of the embedding itself
    trained: Tensor  # (n,) bool: whether this step trained the chunk
    rank: float  # effective rank of z: RankMe on this batch, at most B

    def by_name(self) -> dict[str, list[float | None]]:
        """Return the measures to log for every chunk, None for one that was not trained."""
        names, trained = ("correlation", "spread", "component_spread", "chunk_rank"), self.trained.tolist()
        return {
            name: [round(v, 5) if was else None for v, was in zip(getattr(self, name).tolist(), trained, strict=True)]
            for name in names
        }


@torch.no_grad()
def measure(z: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]) -> Measures:
    """Return what is monitored of representations (B, d), and of the two embeddings (B, D_i) of every chunk.

    A chunk whose two embeddings are equal was not trained: its component was not selected.
    """
    chunks = [_measure_chunk(e.float(), e_other.float()) for e, e_other in pairs]
    columns = [torch.stack(column) for column in zip(*chunks, strict=True)]
    return Measures(
        spread=columns[0],
        component_spread=columns[1],
        correlation=columns[2],
        chunk_rank=columns[3],
        length=columns[4],
        trained=columns[5],
        rank=float(effective_rank(z.float())),
    )


def _measure_chunk(e: Tensor, e_other: Tensor) -> tuple[Tensor, ...]:
    centred, other = e - e.mean(dim=0), e_other - e_other.mean(dim=0)
    norms = centred.norm(dim=0) * other.norm(dim=0)  # (D,)
    correlation = (centred * other).sum(dim=0) / norms.clamp_min(1e-12)
    sizes = [x.pow(2).mean().sqrt() for x in (centred, other, e)]
    return sizes[0], sizes[1], correlation.mean(), effective_rank(centred), sizes[2], (e != e_other).any()


def effective_rank(rows: Tensor) -> Tensor:
    """Return the rank that is monitored, RankMe (arXiv 2210.02885) of embeddings (..., B, D): exp of spectral entropy.

    Examples
    --------
    >>> round(float(effective_rank(torch.eye(4))), 3)
    4.0
    """
    values = torch.linalg.svdvals(rows.double() if rows.device.type == "cpu" else rows)
    share = values / values.sum(dim=-1, keepdim=True).clamp_min(1e-12) + 1e-7
    return torch.exp(-(share * share.log()).sum(dim=-1))


@dataclass
class Watch:
    """Monitor chunks, and warn about one that is collapsed, dead or exploding, once and by name."""

    chunk_names: Sequence[str]
    steps: int
    has_components: bool  # else the one chunk is compared with another view of the same patch
    _first: Tensor | None = None  # (4, n): spread, that of the component, loss and correlation when first trained
    _mean_correlation: Tensor | None = None  # running mean
    _warned: set[str] = field(default_factory=set)

    def look(self, step: int, measures: Measures, losses: Sequence[float]) -> list[str]:
        """Return the warnings that are new at a step; ``losses`` are those of the chunks."""
        loss, trained = torch.tensor(losses, device=measures.spread.device), measures.trained
        now = torch.stack([measures.spread, measures.component_spread, loss, measures.correlation])
        first = torch.full_like(now, torch.nan) if self._first is None else self._first
        self._first = torch.where(first.isnan() & trained, now, first)  # comparisons with NaN are false
        spread, component_spread, first_loss, correlation = self._first
        # A running mean, since the correlation in a single batch is noisy.
        before = self._mean_correlation
        mean = correlation if before is None else torch.where(before.isnan(), correlation, before)
        self._mean_correlation = torch.where(trained, mean.lerp(measures.correlation, _NEWEST), mean)
        found = {
            "collapsed": (measures.spread < _COLLAPSED * spread)
            | (measures.spread < _COLLAPSED * measures.length)
            | (measures.component_spread < _COLLAPSED * component_spread),
            "dead": (self._mean_correlation < _DEAD) & (step >= max(_LEARNED_BY, self.steps // 2)),
            "exploding": (measures.spread > _EXPLODED * spread.clamp_min(1.0))
            | (loss > _EXPLODED * first_loss.abs().clamp_min(1.0)),
        }
        return [
            self._words(kind, index, step, measures)
            for kind, where in found.items()
            for index in torch.where(where & trained)[0].tolist()
            if self.chunk_names[index] not in self._warned
        ]

    def _words(self, kind: str, index: int, step: int, measures: Measures) -> str:
        name = self.chunk_names[index]
        self._warned.add(name)
        spread = float(measures.spread[index])
        if kind == "exploding":
            return (
                f"chunk {name} is exploding at step {step}: its embedding has a spread of {spread:.3g}. "
                "Use a lower learning rate."
            )
        if kind == "collapsed":
            return (
                f"chunk {name} is collapsed at step {step}: all cells get the same embedding (spread {spread:.2g}). "
                "Use another loss, a lower learning rate or a larger batch size."
            )
        other = f"its component {name}" if self.has_components else "the other view"
        return (
            f"chunk {name} is dead at step {step}: it does not correlate with {other} (below {_DEAD}). "
            f"Check whether {name} distinguishes cells; a channel of noise is better omitted."
        )


class Log:
    """The log of a training: every step in ``log.jsonl``, and measures for TensorBoard if wanted.

    Parameters
    ----------
    path
        Run folder; an existing log is continued.
    first
        The step to continue with.
    tensorboard
        Folder of event files.
    """

    def __init__(self, path: Path, chunk_names: Sequence[str], *, first: int, tensorboard: Path | None = None) -> None:
        self._chunk_names = chunk_names
        self._began = self._last = time.monotonic()
        self._cells = 0
        self._board = _open_board(tensorboard, first) if tensorboard else None
        self._file = (path / "log.jsonl").open("a", buffering=1, encoding="utf-8")

    def __enter__(self) -> "Log":
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the files."""
        self._file.close()
        if self._board:
            self._board.close()

    def write(
        self,
        step: int,
        epoch: int,
        losses: Mapping[str, Sequence[float]],
        *,
        learning_rate: float,
        n_cells: int,
        measures: Measures | None = None,
        probe: float | None = None,
        warnings: Sequence[str] = (),
    ) -> None:
        """Write the line of a step; ``losses`` has the loss and its terms for every chunk."""
        now = time.monotonic()
        self._cells += n_cells
        line: dict[str, Any] = {
            "step": step,
            "epoch": epoch,
            "seconds": round(now - self._began, 3),
            "loss": sum(losses["loss"]),
            "learning_rate": learning_rate,
        }
        of_chunks: dict[str, Sequence[float | None]] = dict(losses)
        if measures is not None:
            line["cells_per_second"] = round(self._cells / max(now - self._last, 1e-9), 1)
            line["rank"] = round(measures.rank, 3)
            of_chunks |= measures.by_name()
            self._last, self._cells = now, 0
        if probe is not None:
            line["probe"] = round(probe, 4)
        if warnings:
            line["warnings"] = list(warnings)
        for warning in warnings:
            logger.warning("%s", warning)
        line["chunks"] = {
            chunk: {name: values[index] for name, values in of_chunks.items()}
            for index, chunk in enumerate(self._chunk_names)
        }
        self._file.write(json.dumps(line) + "\n")
        if self._board and measures is not None:
            _show(self._board, line)


def measures_at(step: int, steps: int) -> bool:
    """Return whether the embeddings are measured at a step."""
    return step % max(1, steps // _MEASURES) == 0 or step == steps - 1


def cut_log(path: Path, step: int) -> None:
    """Keep the first ``step`` lines of a training's log; the steps after the checkpoint are repeated."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    path.write_text("".join(lines[:step]), encoding="utf-8")


def last_results(log: Path) -> dict[str, float]:
    """Return the results of a training from its log: loss (mean of the last twentieth), rank of z, probe."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    last = lines[-max(1, len(lines) // 20) :]
    results = {"loss": sum(line["loss"] for line in last) / len(last)}
    names = {"rank": "effective rank of z, on a batch", "probe": "online probe of labels, balanced accuracy"}
    return results | {words: lines[-1][name] for name, words in names.items() if name in lines[-1]}


def write_table(log: Path, path: Path) -> None:
    """Write the monitored steps of ``log.jsonl`` as a CSV table, one row per step and chunk."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    rows = [
        {name: line.get(name) for name in ("step", "epoch", "seconds", *_OF_STEP[1:])} | {"chunk": chunk} | values
        for line in lines
        if "rank" in line
        for chunk, values in line["chunks"].items()
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def _open_board(folder: Path, first: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        msg = "`tensorboard` needs the package tensorboard."
        raise InputError(msg, "Install it: pip install 'mxsplicer[tensorboard]'.") from error
    return SummaryWriter(str(folder), purge_step=first)


def _show(board: Any, line: dict[str, Any]) -> None:
    step = line["step"]
    for name in _OF_STEP:
        if name in line:
            board.add_scalar(name, line[name], step)
    for chunk, values in line["chunks"].items():
        for name, value in values.items():
            if value is not None:
                board.add_scalar(f"{name}/{chunk}", value, step)
