"""Σ-JE: components without chunks."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from mxsplicer.splicer.losses.chunks import Chunks
from mxsplicer.splicer.objectives.extended import ExtendedSplicer
from mxsplicer.splicer.objectives.extensions.missing_markers import known_rows
from mxsplicer.splicer.objectives.objective import Parts, Terms
from mxsplicer.splicer.views import ViewInput


class Sigma(ExtendedSplicer):
    """The loss between the whole primary embedding and every component (the paper's Σ-JE): L = Σ_i w_i L(e, e*_i)."""

    has_chunks = False

    def _chunks(self, parts: Parts) -> Chunks:
        n = len(parts.components)
        return Chunks((self.width,) * n, parts.chunks.losses, parts.chunks.weights)

    def view_inputs(self, shown: Tensor, patches: Tensor, regions: Tensor) -> tuple[ViewInput, ...]:
        """Return the whole patch, and what the components are cut from, once: consistency is for chunks alone."""
        return super().view_inputs(shown, patches, regions)[:2]

    def terms(
        self,
        z: Tensor,  # noqa: ARG002
        *e: Tensor,
        selected: Sequence[int] | None = None,
        known: np.ndarray | None = None,
    ) -> Terms:
        """Return each term of the loss for every component, (n,)."""
        return self._sum_over_chunks(self._repeated(e[0]), e[1], selected, known)

    def pairs(
        self,
        z: Tensor,  # noqa: ARG002
        *e: Tensor,
        selected: Sequence[int] | None = None,  # noqa: ARG002
        known: np.ndarray | None = None,
    ) -> list[tuple[Tensor, Tensor]]:
        """Return the whole embedding with each component."""
        return known_rows(((e[0], component) for component in self.chunks.split(e[1])), known)

    def _embed_components(self, view: Tensor, n_markers: int, e: Tensor, selected: Sequence[int] | None) -> Tensor:
        return super()._embed_components(view, n_markers, self._repeated(e), selected)

    def _repeated(self, e: Tensor) -> Tensor:
        return e.repeat(1, len(self.chunks.widths))
