"""The loss of every chunk of an embedding at once, each with a width, a loss and a weight of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from mxsplicer.splicer.losses.loss import Loss


@dataclass(frozen=True)
class Chunks:
    """How an embedding (B, sum of D_i) is cut, and what each chunk costs: chunk i is the i-th run of its columns."""

    widths: tuple[int, ...]
    losses: tuple[Loss, ...]
    weights: tuple[float, ...]

    def __call__(self, e_a: Tensor, e_b: Tensor, known: np.ndarray | None = None) -> dict[str, Tensor]:
        """Return the weighted terms of all losses for every chunk, (n,), of two embeddings (B, sum of D_i).

        Chunks of one loss and width are computed together; a term that a chunk's loss does not have is 0. Where
        ``known`` (B, n) tells that not every row counts for each chunk, its terms are those of the rows that do, times
        their share of the batch, so that a cell counts alike in all its chunks; those of fewer than two rows are 0.
        """
        alike: dict[tuple[int, int, bytes], list[int]] = {}
        for chunk, (loss, width) in enumerate(zip(self.losses, self.widths, strict=True)):
            rows = b"" if known is None or known[:, chunk].all() else known[:, chunk].tobytes()
            alike.setdefault((self.losses.index(loss), width, rows), []).append(chunk)
        terms: dict[str, Tensor] = {}
        for (first, width, rows), members in alike.items():
            some_a, some_b = self._some(e_a, members, width), self._some(e_b, members, width)
            share = 1.0
            if rows:
                counted = np.flatnonzero(np.frombuffer(rows, dtype=bool))
                if len(counted) < 2:
                    continue
                share = len(counted) / len(e_a)
                places = torch.from_numpy(counted).to(e_a.device)
                some_a, some_b = some_a[places], some_b[places]
            of_these = per_chunk(self.losses[first], some_a, some_b)
            if rows:
                of_these = {name: share * term for name, term in of_these.items()}
            if len(members) == len(self.widths):
                terms = of_these
                break
            for name, term in of_these.items():
                before = terms.get(name, torch.zeros(len(self.widths), device=e_a.device))
                terms[name] = before.index_copy(0, _places(tuple(members), e_a.device), term)
        if set(self.weights) == {1.0}:
            return terms
        return {name: _vector(self.weights, e_a.device) * term for name, term in terms.items()}

    def split(self, e: Tensor) -> tuple[Tensor, ...]:
        """Return every chunk of an embedding, (B, D_i)."""
        return torch.split(e, list(self.widths), dim=1)

    def covariance_weights(self, device: torch.device) -> Tensor:
        """Return the weight of VICReg's covariance in each chunk, (n,), 0 where its loss has none."""
        of_each = (getattr(loss, "covariance_weight", 0.0) for loss in self.losses)
        return _vector(tuple(a * b for a, b in zip(of_each, self.weights, strict=True)), device)

    def _some(self, e: Tensor, members: Sequence[int], width: int) -> Tensor:
        """Return chunks of one width, (B, m, D)."""
        if len(members) == len(self.widths):
            return e.view(len(e), len(members), width)
        chunks = self.split(e)
        return torch.stack([chunks[member] for member in members], dim=1)


def per_chunk(loss: Loss, e_a: Tensor, e_b: Tensor) -> dict[str, Tensor]:
    """Return the terms of a loss on every pair of chunks, (n,), of two embeddings (B, n, D), all chunks at once."""
    with torch.autocast(e_a.device.type, enabled=False):  # sums of squares need float32
        return torch.func.vmap(loss.terms, in_dims=1, randomness="same")(e_a.float(), e_b.float())


def across(e: Tensor, widths: Sequence[int], *, correlation: bool) -> Tensor:
    """Return how much each chunk of an embedding (B, sum of D_i) repeats the others, (n,).

    The squared covariances, or correlations, of its features with those of all other chunks, summed and divided by its
    width, as VICReg does within one embedding.
    """
    with torch.autocast(e.device.type, enabled=False):
        centred = e.float() - e.float().mean(dim=0)
        if correlation:
            centred = centred / (centred.std(dim=0) + 1e-4)
        squared = (centred.T @ centred / (len(e) - 1)).pow(2)  # (N, N)
        member = _membership(tuple(widths), e.device)
        per_pair = member.T @ squared @ member  # (n, n)
        return (per_pair.sum(dim=1) - per_pair.diagonal()) / _vector(tuple(widths), e.device)


# Made once: a tensor that is sent to a GPU in every step keeps it waiting.
@lru_cache
def _vector(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device, dtype=torch.float32)


@lru_cache
def _places(members: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(members, device=device)


@lru_cache
def _membership(widths: tuple[int, ...], device: torch.device) -> Tensor:
    """Return 1 where a feature belongs to a chunk, (N, n)."""
    chunk = torch.arange(len(widths)).repeat_interleave(torch.tensor(widths))
    return torch.nn.functional.one_hot(chunk, len(widths)).float().to(device)
