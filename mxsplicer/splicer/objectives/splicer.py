"""SpliCER: the embedding of the whole is cut into chunks, and each is held to a component of its own.

Farndale, Henderson, Roberts, Yuan, arXiv 2503.07444.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from mxsplicer.splicer.deconstruction import Component, stays_within_cell
from mxsplicer.splicer.encoders import ComponentEncoders
from mxsplicer.splicer.losses.chunks import Chunks, across
from mxsplicer.splicer.objectives.objective import Objective, Parts, Terms
from mxsplicer.splicer.objectives.sources import Source, join_components, sources_of
from mxsplicer.splicer.views import Picture


class Splicer(Objective):
    """Chunk i of the primary embedding is held to the embedding of component i (equation 4): L = Σᵢ wᵢ L(eᵢ, e*ᵢ)."""

    has_chunks = True

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self.chunk_names = tuple(component.name for component in parts.components)
        self.chunks = self._chunks(parts)
        self.sources = self._sources(parts)
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
        self.at_cells(None)

    def _chunks(self, parts: Parts) -> Chunks:
        return parts.chunks

    def _sources(self, parts: Parts) -> list[Source]:
        return sources_of(parts.components, hide=parts.hide, spanning=parts.spanning)

    @property
    def looks_beyond(self) -> bool:
        """Whether a component shows more than the cell itself."""
        return any(self._looks_beyond(component) for component in self.parts.components)

    def _looks_beyond(self, component: Component) -> bool:
        return not (self.parts.hide if component.part is None else stays_within_cell(component.part))

    def pictures(self, shown: Tensor, patches: Tensor, regions: Tensor) -> tuple[Picture, ...]:
        """Return the whole, and what the components are cut from: twice where they are held to themselves, too."""
        cut_from = [source.picture(patches, regions, self.component_encoders.view_px) for source in self.sources]
        return (Picture(shown), *cut_from, *cut_from * bool(self.parts.consistency_weight))

    def at_step(self, step: int) -> None:
        """Give their turn to the next components, round and round: over n steps every one has equally many."""
        n = len(self.parts.components)
        k = min(self.parts.components_per_step or n, n)
        self.turn = sorted((step * k + i) % n for i in range(k))

    def at_cells(self, known: np.ndarray | None) -> None:
        """Leave cells whose slide lacks a marker out of the terms of the components that show it."""
        components = self.parts.components
        self.known = (
            None if known is None else np.stack([known[:, list(c.channels)].all(axis=1) for c in components], axis=1)
        )

    def embed(self, *views: Tensor) -> tuple[Tensor, ...]:
        """Return z, its embedding (B, N), and that of all components of each further view, side by side (B, ΣD_i)."""
        z = self.encoder(views[0])
        e = self.projector(z)
        n = len(self.sources)
        of_components = [views[i : i + n] for i in range(1, len(views), n)]
        return z, e, *(self._components(some, views[0].shape[1], e) for some in of_components)

    def terms(self, z: Tensor, *e: Tensor) -> Terms:  # noqa: ARG002
        """Return each term of the loss for every chunk, (n,)."""
        # Of components that are seen twice, a chunk follows both views: the same network time, and less chance in it.
        of_views = [self._held(e[0], of_view) for of_view in e[1:]]
        terms = {name: torch.stack([one[name] for one in of_views]).mean(dim=0) for name in of_views[0]}
        widths = self.chunks.widths
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
        return self._of_known(zip(self.chunks.split(e[0]), self.chunks.split(e[1]), strict=True))

    def _of_known(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        """Return of every chunk and component the rows of cells whose slide has its markers, where they are two."""
        if self.known is None:
            return list(pairs)
        some = [torch.from_numpy(np.flatnonzero(rows)) for rows in self.known.T]
        return [(a[rows], b[rows]) if len(rows) > 1 else (a, b) for rows, (a, b) in zip(some, pairs, strict=True)]

    def _components(self, views: Sequence[Tensor], n_markers: int, e: Tensor) -> Tensor:
        """Return the embeddings of components; of those whose turn it is not, what they would be held to, in ``e``."""
        device = e.device.type
        if torch.is_autocast_enabled(device):  # there are fewer markers to convert than components
            kind = torch.get_autocast_dtype(device)
            views = [view.to(kind, memory_format=torch.channels_last) for view in views]
        shown = join_components(self.sources, views, n_markers)
        computed = self.component_encoders(shown, self.turn)  # (B, k, widest)
        embeddings = [*self.chunks.split(e.detach())]
        for place, i in enumerate(self.turn):  # all are as wide as the widest chunk; what its own has is kept
            embeddings[i] = computed[:, place, : self.chunks.widths[i]]
        return torch.cat(embeddings, dim=1)

    def _held(self, e: Tensor, e_components: Tensor) -> Terms:
        """Return the terms of every chunk: n / k times those of the k whose turn it is, so that the mean is the sum."""
        n, k = len(self.chunks.widths), len(self.turn)
        terms = self.chunks(e, e_components, self.known)
        if k == n:
            return terms
        share = torch.zeros(n, device=e.device)
        share[self.turn] = n / k
        return {name: share * term for name, term in terms.items()}
