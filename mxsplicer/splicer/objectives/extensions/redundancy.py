"""Redundancy: how much the chunks of an embedding repeat each other."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor


def redundancy_between_chunks(e: Tensor, widths: Sequence[int]) -> Tensor:
    """Return how much each chunk of an embedding (B, sum of D_i) repeats the other chunks, (n,).

    The squared correlations of its features with those of all other chunks, summed and divided by its width. VICReg's
    covariance term does so with covariances within one embedding.
    """
    with torch.autocast(e.device.type, enabled=False):
        centred = e.float() - e.float().mean(dim=0)
        scaled = centred / (centred.std(dim=0) + 1e-4)
        squared = (scaled.T @ scaled / (len(e) - 1)).pow(2)  # (N, N)
        member = _membership(tuple(widths), e.device)
        per_pair = member.T @ squared @ member  # (n, n)
        return (per_pair.sum(dim=1) - per_pair.diagonal()) / _widths(tuple(widths), e.device)


# Cached: a tensor that is sent to a GPU in every step makes it wait.
@lru_cache
def _widths(widths: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(widths, device=device, dtype=torch.float32)


@lru_cache
def _membership(widths: tuple[int, ...], device: torch.device) -> Tensor:
    """Return 1 where a feature belongs to a chunk, (N, n), to measure the redundancy between chunks."""
    chunk = torch.arange(len(widths)).repeat_interleave(torch.tensor(widths))
    return torch.nn.functional.one_hot(chunk, len(widths)).float().to(device)
