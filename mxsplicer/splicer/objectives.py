"""The method on one page: what is held to what.

SpliCER (Farndale, Henderson, Roberts, Yuan, arXiv 2503.07444) and the objectives that it is compared with, on the same
parts. An objective takes two views of a batch and returns the terms of its loss, each a vector with one entry per
chunk; the loss is the sum of all of them. It does so in halves, ``embed`` cell by cell and ``terms`` over the batch:
between them the cells of several processes are brought together. Only ``encoder`` is kept after training.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from mxsplicer.splicer.deconstruction import WITHIN_CELL, Component, cut, separate
from mxsplicer.splicer.encoders import ComponentEncoders, Projector
from mxsplicer.splicer.losses import Loss
from mxsplicer.splicer.losses.chunks import Chunks, across

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
    components_per_step: int | None = None  # how many have their turn in each step; all, if None

    @property
    def features(self) -> int:
        """Width d of the representation."""
        return cast("int", self.encoder.out_features)


class Objective(nn.Module):
    """An encoder and a projector, and what they are trained against."""

    chunk_names: tuple[str, ...]

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

    def second(self, shown: Tensor, patches: Tensor, regions: Tensor) -> Tensor:  # noqa: ARG002
        """Return what the second view is a view of, (B, ·, P, P).

        Parameters
        ----------
        shown
            What the encoder sees and the first view is of, (B, C, P, P).
        patches, regions
            The whole patches, (B, C, P, P), and what each of their pixels shows, (B, P, P).
        """
        return shown

    def at_step(self, step: int) -> None:
        """Give their turn to the components of a step, where not all are trained in each."""

    @property
    def views(self) -> int:
        """How many views an embedding takes: one of what the encoder sees, the others of what ``second`` returns."""
        return 2

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


class Joint(Objective):
    """Two views of the whole patch are held to each other (the paper's Baseline): L = L(e, e')."""

    chunk_names = ("whole",)

    def embed(self, *views: Tensor) -> tuple[Tensor, ...]:
        """Return z of the first view, and the embeddings of both, (B, N)."""
        # One pass over both views, so that batch norm sees them alike.
        z = self.encoder(torch.cat(views))
        return z[: len(views[0])], *self.projector(z).chunk(2)

    def terms(self, z: Tensor, *e: Tensor) -> Terms:  # noqa: ARG002
        """Return each term of the loss, (1,)."""
        return self.whole(*e)

    def pairs(self, z: Tensor, *e: Tensor) -> list[tuple[Tensor, Tensor]]:  # noqa: ARG002
        """Return the two embeddings."""
        return [(e[0], e[1])]


class Splicer(Objective):
    """Chunk i of the primary embedding is held to the embedding of component i (equation 4): L = Σᵢ wᵢ L(eᵢ, e*ᵢ)."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self.chunk_names = tuple(component.name for component in parts.components)
        self.chunks = self._chunks(parts)
        self.component_encoders = ComponentEncoders(
            len(parts.components),
            max(len(component.channels) for component in parts.components),
            parts.patch_px,
            max(self.chunks.widths),
            kind=parts.component_encoder,
            width=parts.component_width,
            one_by_one=parts.components_per_step is not None,
        )
        self.at_step(0)

    def _chunks(self, parts: Parts) -> Chunks:
        return parts.chunks

    @property
    def looks_beyond(self) -> bool:
        """Whether a component shows more than the cell itself."""
        within = (None, *WITHIN_CELL) if self.parts.hide else WITHIN_CELL
        return any(component.part not in within for component in self.parts.components)

    def second(self, shown: Tensor, patches: Tensor, regions: Tensor) -> Tensor:  # noqa: ARG002
        """Return the components of the patches, one after the other."""
        return cut(patches, regions, self.parts.components, hide=self.parts.hide)

    def at_step(self, step: int) -> None:
        """Give their turn to the next components, round and round: over n steps every one has equally many."""
        n = len(self.parts.components)
        k = min(self.parts.components_per_step or n, n)
        self.turn = sorted((step * k + i) % n for i in range(k))

    @property
    def views(self) -> int:
        """Two views of the components where they are held to themselves, too."""
        return 3 if self.parts.consistency_weight else 2

    def embed(self, *views: Tensor) -> tuple[Tensor, ...]:
        """Return z, its embedding (B, N), and that of all components of each further view, side by side (B, ΣD_i)."""
        z = self.encoder(views[0])
        e = self.projector(z)
        return z, e, *(self._components(view, e) for view in views[1:])

    def terms(self, z: Tensor, *e: Tensor) -> Terms:  # noqa: ARG002
        """Return each term of the loss for every chunk, (n,)."""
        terms, widths = self._held(e[0], e[1]), self.chunks.widths
        if self.parts.covariance_across:
            repeated = across(e[0], widths, correlation=False)
            terms["covariance"] = terms["covariance"] + self.chunks.covariance_weights(e[0].device) * repeated
        if self.parts.consistency_weight:
            # Two views of a component agree, too. What only it shows then stays in its embedding even while the chunk
            # does not follow yet; without this term a faint marker could be given up by both for what is easy.
            of_components = self._held(e[1], e[2])
            terms |= {f"component {name}": self.parts.consistency_weight * t for name, t in of_components.items()}
        if self.parts.redundancy_weight:
            terms["redundancy"] = self.parts.redundancy_weight * across(e[0], widths, correlation=True)
        return terms

    def pairs(self, z: Tensor, *e: Tensor) -> list[tuple[Tensor, Tensor]]:  # noqa: ARG002
        """Return every chunk with its component."""
        return list(zip(self.chunks.split(e[0]), self.chunks.split(e[1]), strict=True))

    def _components(self, view: Tensor, e: Tensor) -> Tensor:
        """Return the embeddings of components; of those whose turn it is not, what they would be held to, in ``e``."""
        computed = self.component_encoders(separate(view, self.parts.components), self.turn)  # (B, k, widest)
        embeddings = [*self.chunks.split(e.detach())]
        for place, i in enumerate(self.turn):  # all are as wide as the widest chunk; what its own has is kept
            embeddings[i] = computed[:, place, : self.chunks.widths[i]]
        return torch.cat(embeddings, dim=1)

    def _held(self, e: Tensor, e_components: Tensor) -> Terms:
        """Return the terms of every chunk: n / k times those of the k whose turn it is, so that the mean is the sum."""
        n, k = len(self.chunks.widths), len(self.turn)
        terms = self.chunks(e, e_components)
        if k == n:
            return terms
        share = torch.zeros(n, device=e.device)
        share[self.turn] = n / k
        return {name: share * term for name, term in terms.items()}


class Sigma(Splicer):
    """Every component is held to the whole primary embedding (the paper's Σ-JE): L = Σᵢ wᵢ L(e, e*ᵢ)."""

    def _chunks(self, parts: Parts) -> Chunks:
        n = len(parts.components)
        return Chunks((self.width,) * n, parts.chunks.losses, parts.chunks.weights)

    @property
    def views(self) -> int:
        """Two: only chunks are held to components of two views."""
        return 2

    def terms(self, z: Tensor, *e: Tensor) -> Terms:  # noqa: ARG002
        """Return each term of the loss for every component, (n,)."""
        return self._held(self._repeated(e[0]), e[1])

    def pairs(self, z: Tensor, *e: Tensor) -> list[tuple[Tensor, Tensor]]:  # noqa: ARG002
        """Return the whole embedding with each component."""
        return [(e[0], component) for component in self.chunks.split(e[1])]

    def _components(self, view: Tensor, e: Tensor) -> Tensor:
        return super()._components(view, self._repeated(e))

    def _repeated(self, e: Tensor) -> Tensor:
        return e.repeat(1, len(self.chunks.widths))


class Trident(Sigma):
    """Two views of the whole and a paired one, each held to the others: L = L(e, e') + Σᵢ wᵢ [L(e, e*ᵢ) + L(e', e*ᵢ)].

    TriDeNT (Farndale, Insall, Yuan, arXiv 2312.02111) has one paired view. Here that is a single component; several are
    all paired to both views of the whole. A paired view is turned as the second view is.
    """

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self.chunk_names = ("whole", *self.chunk_names)

    def second(self, shown: Tensor, patches: Tensor, regions: Tensor) -> Tensor:
        """Return the channels that the encoder sees, then those of the components."""
        return torch.cat([shown, super().second(shown, patches, regions)], dim=1)

    def embed(self, *views: Tensor) -> tuple[Tensor, ...]:
        """Return z of the first view, the embeddings of both (B, N), and those of the components (B, n * N)."""
        again, paired = views[1].tensor_split([views[0].shape[1]], dim=1)
        z = self.encoder(torch.cat([views[0], again]))
        e_a, e_b = self.projector(z).chunk(2)
        return z[: len(again)], e_a, e_b, self._components(paired, e_a)

    def terms(self, z: Tensor, *e: Tensor) -> Terms:
        """Return each term of the loss for the whole and for every component, (1 + n,)."""
        whole = self.whole(e[0], e[1])
        first, second = super().terms(z, e[0], e[2]), super().terms(z, e[1], e[2])
        none, nones = torch.zeros_like(next(iter(whole.values()))), torch.zeros_like(next(iter(first.values())))
        return {
            name: torch.cat([whole.get(name, none), first.get(name, nones) + second.get(name, nones)])
            for name in dict.fromkeys([*whole, *first])
        }

    def pairs(self, z: Tensor, *e: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return the two views, and the first of them with each component."""
        return [(e[0], e[1]), *super().pairs(z, e[0], e[2])]


OBJECTIVES: dict[str, Callable[[Parts], Objective]] = {
    "splicer": Splicer,
    "joint": Joint,
    "sigma": Sigma,
    "trident": Trident,
}
