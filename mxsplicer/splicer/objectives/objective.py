"""What an objective is, and what all are built of.

An objective names the pictures that views are made of, takes these views, and returns the terms of its loss, each a
vector with one entry per chunk; the loss is the sum of all of them. It does so in halves, ``embed`` cell by cell and
``terms`` over the batch: between them the cells of several processes are brought together. Only ``encoder`` is kept
after training.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
from torch import Tensor, nn

from mxsplicer.splicer.deconstruction import Component
from mxsplicer.splicer.encoders import Projector
from mxsplicer.splicer.losses import Loss
from mxsplicer.splicer.losses.chunks import Chunks
from mxsplicer.splicer.views import Picture

Terms = dict[str, Tensor]  # of the loss, by name, (n,) each


@dataclass(frozen=True, eq=False)
class Parts:
    """What every objective is built of; the joint one has no use for what is said of chunks and components."""

    encoder: nn.Module  # (B, C, P, P) -> (B, d)
    components: tuple[Component, ...]
    chunks: Chunks  # of the primary embedding, one per component
    loss: Loss  # between whole embeddings
    projector_layers: int
    patch_px: int
    component_encoder: str
    component_width: int
    redundancy_weight: float = 0.0
    consistency_weight: float = 0.0
    covariance_across: bool = False  # VICReg's covariance with the features of all chunks, not of its own alone
    hide: bool = True  # what surrounds a cell, in its components
    spanning: bool = False  # whether components of several markers are turned as the whole is
    components_per_step: int | None = None  # how many have their turn in each step; all, if None

    @property
    def features(self) -> int:
        """Width d of the representation."""
        return cast("int", self.encoder.out_features)


class Objective(nn.Module, ABC):
    """An encoder and a projector, and what they are trained against.

    One of your own sets ``chunk_names``, one name per entry of its terms, and has ``embed``, ``terms`` and ``pairs``.
    """

    chunk_names: tuple[str, ...] = ("whole",)
    has_chunks: ClassVar[bool] = False  # whether runs of columns of the primary embedding belong to components

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.parts, self.encoder = parts, parts.encoder
        self.width = sum(parts.chunks.widths)  # of the primary embedding
        self.projector = Projector(parts.features, self.width, hidden_layers=parts.projector_layers)
        self.whole = Chunks((self.width,), (parts.loss,), (1.0,))

    @property
    def looks_beyond(self) -> bool:
        """Whether what the second view shows reaches beyond the cell itself."""
        return False

    def pictures(self, shown: Tensor, patches: Tensor, regions: Tensor) -> tuple[Picture, ...]:  # noqa: ARG002
        """Return what each of the views is a view of.

        Parameters
        ----------
        shown
            What the encoder sees, (B, C, P, P).
        patches, regions
            The whole patches, (B, C, P, P), and what each of their pixels shows, (B, P, P).
        """
        return (Picture(shown), Picture(shown))

    def at_step(self, step: int) -> None:
        """Give their turn to the components of a step, where not all are trained in each."""

    def at_cells(self, known: np.ndarray | None) -> None:
        """Learn which marker is on the slide of each cell of the batch, (B, C), before its terms; None: all are."""

    @abstractmethod
    def embed(self, *views: Tensor) -> tuple[Tensor, ...]:
        """Return z of the first view (B, d), and the embeddings (B, ·) that the loss is between."""

    @abstractmethod
    def terms(self, z: Tensor, *e: Tensor) -> Terms:
        """Return each term of the loss for every chunk, (n,), of what :meth:`embed` returned."""

    @abstractmethod
    def pairs(self, z: Tensor, *e: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return, chunk by chunk, the two embeddings (B, D_i) that are held to each other."""

    def forward(self, *views: Tensor) -> Terms:
        """Return each term of the loss for every chunk, (n,), of the views."""
        return self.terms(*self.embed(*views))
