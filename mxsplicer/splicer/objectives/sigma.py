"""Σ-JE: components, and no chunks."""

from collections.abc import Sequence

from torch import Tensor

from mxsplicer.splicer.losses.chunks import Chunks
from mxsplicer.splicer.objectives.objective import Parts, Terms
from mxsplicer.splicer.objectives.splicer import Splicer
from mxsplicer.splicer.views import Picture


class Sigma(Splicer):
    """Every component is held to the whole primary embedding (the paper's Σ-JE): L = Σᵢ wᵢ L(e, e*ᵢ)."""

    has_chunks = False

    def _chunks(self, parts: Parts) -> Chunks:
        n = len(parts.components)
        return Chunks((self.width,) * n, parts.chunks.losses, parts.chunks.weights)

    def pictures(self, shown: Tensor, patches: Tensor, regions: Tensor) -> tuple[Picture, ...]:
        """Return the whole, and what the components are cut from: only chunks are held to components of two views."""
        return super().pictures(shown, patches, regions)[: 1 + len(self.sources)]

    def terms(self, z: Tensor, *e: Tensor) -> Terms:  # noqa: ARG002
        """Return each term of the loss for every component, (n,)."""
        return self._held(self._repeated(e[0]), e[1])

    def pairs(self, z: Tensor, *e: Tensor) -> list[tuple[Tensor, Tensor]]:  # noqa: ARG002
        """Return the whole embedding with each component."""
        return self._of_known((e[0], component) for component in self.chunks.split(e[1]))

    def _components(self, views: Sequence[Tensor], n_markers: int, e: Tensor) -> Tensor:
        return super()._components(views, n_markers, self._repeated(e))

    def _repeated(self, e: Tensor) -> Tensor:
        return e.repeat(1, len(self.chunks.widths))
