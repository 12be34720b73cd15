"""The method on one page: what is held to what.

SpliCER (Farndale, Henderson, Roberts, Yuan, arXiv 2503.07444) and the objective that it is compared with, on the same
parts. An objective takes two views of a batch and returns the terms of its loss, each a vector with one entry per
chunk; the loss is the sum of all of them. Only ``encoder`` is kept after training.
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
    """What every objective is built of; the joint objective has no use for the last two."""

    encoder: nn.Module  # (B, C, P, P) -> (B, d)
    components: tuple[Component, ...]
    loss: Loss
    chunk_width: int
    patch_px: int
    component_width: int

    @property
    def features(self) -> int:
        """Width d of the representation."""
        return cast("int", self.encoder.out_features)


class Splicer(nn.Module):
    """Chunk i of the primary embedding is held to the embedding of component i: L = Σᵢ L_JE(eᵢ, e*ᵢ) (equation 4)."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.encoder, self.components, self.loss = parts.encoder, parts.components, parts.loss
        self.chunk_names = tuple(component.name for component in parts.components)
        self.projector = Projector(parts.features, len(parts.components) * parts.chunk_width)
        self.component_encoders = ComponentEncoders(
            len(parts.components),
            max(len(component.channels) for component in parts.components),
            parts.patch_px,
            parts.chunk_width,
            width=parts.component_width,
        )

    def forward(self, view_a: Tensor, view_b: Tensor) -> dict[str, Tensor]:
        """Return each term of the loss for every chunk, (n,)."""
        e = self.projector(self.encoder(view_a)).view(len(view_a), len(self.components), -1)  # (B, n, D)
        e_components = self.component_encoders(deconstruct(view_b, self.components))  # (B, n, D)
        return per_chunk(self.loss, e, e_components)


class Joint(nn.Module):
    """Two views of the whole patch are held to each other (the paper's Baseline): L = L_JE(e, e')."""

    chunk_names = ("whole",)

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.encoder, self.loss = parts.encoder, parts.loss
        self.projector = Projector(parts.features, len(parts.components) * parts.chunk_width)

    def forward(self, view_a: Tensor, view_b: Tensor) -> dict[str, Tensor]:
        """Return each term of the loss, (1,)."""
        # One pass over both views, so that batch norm sees them alike.
        e_a, e_b = self.projector(self.encoder(torch.cat([view_a, view_b]))).chunk(2)
        return per_chunk(self.loss, e_a[:, None], e_b[:, None])


def per_chunk(loss: Loss, e_a: Tensor, e_b: Tensor) -> dict[str, Tensor]:
    """Return the terms of a loss on every pair of chunks, (n,), of two embeddings (B, n, D), all chunks at once."""
    with torch.autocast(e_a.device.type, enabled=False):  # sums of squares need float32
        return torch.func.vmap(loss.terms, in_dims=1)(e_a.float(), e_b.float())


OBJECTIVES: dict[str, Callable[[Parts], Splicer | Joint]] = {"splicer": Splicer, "joint": Joint}
