"""The contract of an objective, and what all objectives are built of.

An objective says what its views show, takes these views, and returns the terms of its loss, each a vector with one
entry per chunk; the loss is the sum of all of them. It does so in two steps: ``embed`` works on each cell, ``terms`` on
the batch, and between them the embeddings of several processes are gathered. Only ``encoder`` is kept after training.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
from torch import Tensor, nn

from mxsplicer.splicer.deconstruction import Component
from mxsplicer.splicer.losses import Loss
from mxsplicer.splicer.losses.chunks import Chunks
from mxsplicer.splicer.projector import Projector
from mxsplicer.splicer.views import ViewInput

Terms = dict[str, Tensor]  # the terms of the loss by name, (n,) each


@dataclass(frozen=True, eq=False)
class Parts:
    """What every objective is built of; it ignores what it does not need, as joint embedding does the components."""

    encoder: nn.Module  # f: (B, C, P, P) -> (B, d)
    components: tuple[Component, ...]
    chunks: Chunks  # of the primary embedding, one per component
    loss: Loss  # between whole embeddings
    projector_layers: int
    patch_px: int
    component_encoder: str
    component_width: int
    redundancy_weight: float = 0.0
    consistency_weight: float = 0.0
    hide: bool = True  # whether components show only the cell, unless they define their pixels
    components_per_step: int | None = None  # number of components trained in each step; None: all

    @property
    def features(self) -> int:
        """Width d of the representation."""
        return cast("int", self.encoder.out_features)


class Objective(nn.Module, ABC):
    """An encoder and a projector, and the loss that trains them.

    A subclass sets ``chunk_names``, one name per entry of its terms, and defines ``embed``, ``terms`` and ``pairs``.
    """

    chunk_names: tuple[str, ...] = ("whole",)
    has_chunks: ClassVar[bool] = False  # whether each component has its own columns of the primary embedding

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.parts, self.encoder = parts, parts.encoder
        self.width = sum(parts.chunks.widths)  # N, of the primary embedding
        self.projector = Projector(parts.features, self.width, hidden_layers=parts.projector_layers)
        self.whole = Chunks((self.width,), (parts.loss,), (1.0,))

    @property
    def looks_beyond(self) -> bool:
        """Whether a view shows pixels outside the cell."""
        return False

    def view_inputs(self, shown: Tensor, patches: Tensor, regions: Tensor) -> tuple[ViewInput, ...]:  # noqa: ARG002
        """Return what each view is made from; by default two views show what the encoder sees.

        Parameters
        ----------
        shown
            What the encoder sees, (B, C, P, P).
        patches, regions
            The whole patches, (B, C, P, P), and what each of their pixels shows, (B, P, P).
        """
        return (ViewInput(shown), ViewInput(shown))

    def step_arguments(self, step: int, known: np.ndarray | None) -> dict[str, Any]:  # noqa: ARG002
        """Return the keyword arguments that a step passes to ``embed``, ``terms`` and ``pairs``; by default none.

        Parameters
        ----------
        step
            Number of the training step.
        known
            Which markers the slide of each cell has, (B, C); None where every slide has all.
        """
        return {}

    @abstractmethod
    def embed(self, *views: Tensor) -> tuple[Tensor, ...]:
        """Return z of the first view (B, d), and the embeddings (B, ·) that the loss compares."""

    @abstractmethod
    def terms(self, z: Tensor, *e: Tensor) -> Terms:
        """Return each term of the loss for every chunk, (n,), from what :meth:`embed` returned."""

    @abstractmethod
    def pairs(self, z: Tensor, *e: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return, for every chunk, the two embeddings (B, D_i) that the loss compares."""

    def forward(self, *views: Tensor, **step_arguments: Any) -> Terms:
        """Return each term of the loss for every chunk, (n,), of the views."""
        return self.terms(*self.embed(*views, **step_arguments), **step_arguments)
