"""The loss of all chunks of an embedding at once; each chunk has a width, a loss and a weight of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from mxsplicer.splicer.losses.loss import Loss


@dataclass(frozen=True)
class Chunks:
    """The widths, losses and weights of the chunks of an embedding (B, sum of D_i), whose columns they share in order.

    Calling it gives the same numbers as one loss after the other (``objectives/splicer.py``), in less time.
    """

    widths: tuple[int, ...]
    losses: tuple[Loss, ...]
    weights: tuple[float, ...]

    def __call__(self, e_a: Tensor, e_b: Tensor, known: np.ndarray | None = None) -> dict[str, Tensor]:
        """Return the weighted terms of all losses for every chunk, (n,), of two embeddings (B, sum of D_i).

        Chunks of one loss and width are computed together; a term that a chunk's loss does not have is 0. ``known``
        (B, n) says which rows count for which chunk. The terms of a chunk are then those of its rows, times their share
        of the batch, so that a cell weighs the same in all its chunks; those of fewer than two rows are 0.
        """
        groups: dict[tuple[int, int, bytes], list[int]] = {}  # (loss, width, rows that count): its chunks
        for chunk, (loss, width) in enumerate(zip(self.losses, self.widths, strict=True)):
            rows = b"" if known is None or known[:, chunk].all() else known[:, chunk].tobytes()
            groups.setdefault((self.losses.index(loss), width, rows), []).append(chunk)
        terms: dict[str, Tensor] = {}
        for (first, width, rows), members in groups.items():
            some_a, some_b = self._some(e_a, members, width), self._some(e_b, members, width)
            share = 1.0
            if rows:
                counted = np.flatnonzero(np.frombuffer(rows, dtype=bool))
                if len(counted) < 2:
                    continue
                share = len(counted) / len(e_a)
                places = torch.from_numpy(counted).to(e_a.device)
                some_a, some_b = some_a[places], some_b[places]
            of_group = per_chunk(self.losses[first], some_a, some_b)
            if rows:
                of_group = {name: share * term for name, term in of_group.items()}
            if len(members) == len(self.widths):
                terms = of_group
                break
            for name, term in of_group.items():
                before = terms.get(name, torch.zeros(len(self.widths), device=e_a.device))
                terms[name] = before.index_copy(0, _places(tuple(members), e_a.device), term)
        if set(self.weights) == {1.0}:
            return terms
        return {name: _vector(self.weights, e_a.device) * term for name, term in terms.items()}

    def split(self, e: Tensor) -> tuple[Tensor, ...]:
        """Return every chunk of an embedding, (B, D_i)."""
        return torch.split(e, list(self.widths), dim=1)

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


# Cached: a tensor that is sent to a GPU in every step makes it wait.
@lru_cache
def _vector(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device, dtype=torch.float32)


@lru_cache
def _places(members: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(members, device=device)
