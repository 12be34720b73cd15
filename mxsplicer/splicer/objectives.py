"""The method on one page: what is held to what.

SpliCER (Farndale, Henderson, Roberts, Yuan, arXiv 2503.07444) and the objective that it is compared with, on the same
parts. An objective takes two views of a batch and returns the terms of its loss, each a vector with one entry per
chunk; the loss is the sum of all of them. It does so in halves, ``embed`` cell by cell and ``terms`` over the batch:
between them the cells of several processes are brought together. Only ``encoder`` is kept after training.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from mxsplicer.splicer.deconstruction import Component, deconstruct
from mxsplicer.splicer.encoders import ComponentEncoders, Projector
from mxsplicer.splicer.losses import Loss


@dataclass(frozen=True, eq=False)
class Parts:
    """What every objective is built of; the joint objective has no use for the last three."""

    encoder: nn.Module  # (B, C, P, P) -> (B, d)
    components: tuple[Component, ...]
    loss: Loss
    chunk_width: int
    projector_layers: int
    patch_px: int
    component_width: int
    redundancy_weight: float

    @property
    def features(self) -> int:
        """Width d of the representation."""
        return cast("int", self.encoder.out_features)


class Splicer(nn.Module):
    """Chunk i of the primary embedding is held to the embedding of component i: L = Σᵢ L_JE(eᵢ, e*ᵢ) (equation 4)."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.encoder, self.components, self.loss = parts.encoder, parts.components, parts.loss
        self.redundancy_weight = parts.redundancy_weight
        self.chunk_names = tuple(component.name for component in parts.components)
        self.projector = Projector(
            parts.features, len(parts.components) * parts.chunk_width, hidden_layers=parts.projector_layers
        )
        self.component_encoders = ComponentEncoders(
            len(parts.components),
            max(len(component.channels) for component in parts.components),
            parts.patch_px,
            parts.chunk_width,
            width=parts.component_width,
        )

    def embed(self, view_a: Tensor, view_b: Tensor) -> tuple[Tensor, ...]:
        """Return z (B, d), its embedding in chunks (B, n, D), and the embeddings of the components (B, n, D)."""
        z = self.encoder(view_a)
        e = self.projector(z).view(len(z), len(self.components), -1)
        return z, e, self.component_encoders(deconstruct(view_b, self.components))

    def terms(self, _: Tensor, e: Tensor, e_components: Tensor) -> dict[str, Tensor]:
        """Return each term of the loss for every chunk, (n,)."""
        terms = per_chunk(self.loss, e, e_components)
        if self.redundancy_weight:
            terms["redundancy"] = self.redundancy_weight * redundancy(e)
        return terms

    def forward(self, view_a: Tensor, view_b: Tensor) -> dict[str, Tensor]:
        """Return each term of the loss for every chunk, (n,), of two views."""
        return self.terms(*self.embed(view_a, view_b))


class Joint(nn.Module):
    """Two views of the whole patch are held to each other (the paper's Baseline): L = L_JE(e, e')."""

    chunk_names = ("whole",)

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.encoder, self.loss = parts.encoder, parts.loss
        self.projector = Projector(
            parts.features, len(parts.components) * parts.chunk_width, hidden_layers=parts.projector_layers
        )

    def embed(self, view_a: Tensor, view_b: Tensor) -> tuple[Tensor, ...]:
        """Return z of the first view (B, d), and the embeddings of both as their only chunk (B, 1, D)."""
        # One pass over both views, so that batch norm sees them alike.
        z = self.encoder(torch.cat([view_a, view_b]))
        e_a, e_b = self.projector(z)[:, None].chunk(2)
        return z[: len(view_a)], e_a, e_b

    def terms(self, _: Tensor, e_a: Tensor, e_b: Tensor) -> dict[str, Tensor]:
        """Return each term of the loss, (1,)."""
        return per_chunk(self.loss, e_a, e_b)

    def forward(self, view_a: Tensor, view_b: Tensor) -> dict[str, Tensor]:
        """Return each term of the loss, (1,), of two views."""
        return self.terms(*self.embed(view_a, view_b))


def per_chunk(loss: Loss, e_a: Tensor, e_b: Tensor) -> dict[str, Tensor]:
    """Return the terms of a loss on every pair of chunks, (n,), of two embeddings (B, n, D), all chunks at once."""
    with torch.autocast(e_a.device.type, enabled=False):  # sums of squares need float32
        return torch.func.vmap(loss.terms, in_dims=1, randomness="same")(e_a.float(), e_b.float())


def redundancy(e: Tensor) -> Tensor:
    """Return how much each chunk of an embedding (B, n, D) repeats the others, (n,).

    The squared correlations of its features with those of all other chunks, summed and divided by the width, as VICReg
    does within one embedding. Without this term what every component shows (the outline of the cell) fills all chunks,
    and a small encoder has no room left for what only one of them shows.
    """
    with torch.autocast(e.device.type, enabled=False):
        n_cells, n, width = e.shape
        flat = e.float().flatten(1)
        standard = (flat - flat.mean(dim=0)) / (flat.std(dim=0) + 1e-4)
        correlation = standard.T @ standard / (n_cells - 1)  # (n * D, n * D)
        per_pair = correlation.pow(2).view(n, width, n, width).sum(dim=(1, 3))  # (n, n)
        return (per_pair.sum(dim=1) - per_pair.diagonal()) / width


OBJECTIVES: dict[str, Callable[[Parts], Splicer | Joint]] = {"splicer": Splicer, "joint": Joint}
