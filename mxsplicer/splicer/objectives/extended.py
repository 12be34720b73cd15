"""SpliCER as it is trained: the sum over chunks of ``splicer.py``, all chunks at once, with our extensions.

Each extension is a file of :mod:`mxsplicer.splicer.objectives.extensions` and has a field of the recipe.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mxsplicer.splicer.objectives.extensions.consistency import mean_over_views, weigh_consistency
from mxsplicer.splicer.objectives.extensions.missing_markers import known_components, known_rows
from mxsplicer.splicer.objectives.extensions.redundancy import redundancy_between_chunks
from mxsplicer.splicer.objectives.extensions.selection import fill_unselected, select_components, weigh_selected
from mxsplicer.splicer.objectives.objective import Terms
from mxsplicer.splicer.objectives.splicer import Splicer
from mxsplicer.splicer.views import ViewInput


class ExtendedSplicer(Splicer):
    """SpliCER with extensions: L = Σ_i w_i L(e_i, e*_i) + redundancy + consistency.

    ``selected`` are the components that a step trains, ``known`` (B, n) the components that each cell has the markers
    of: both are arguments, which :meth:`step_arguments` returns, and None means all.
    """

    def view_inputs(self, shown: Tensor, patches: Tensor, regions: Tensor) -> tuple[ViewInput, ...]:
        """Return the whole patch, and what the components are cut from: twice for consistency."""
        whole, cut_from = super().view_inputs(shown, patches, regions)
        return (whole, cut_from, cut_from) if self.parts.consistency_weight else (whole, cut_from)

    def step_arguments(self, step: int, known: np.ndarray | None) -> dict[str, Any]:
        """Return the components that a step trains, and those that each cell has the markers of, where not all."""
        components = self.parts.components
        arguments = {
            "selected": select_components(step, len(components), self.parts.components_per_step),
            "known": known_components(known, components),
        }
        return {name: value for name, value in arguments.items() if value is not None}

    def embed(
        self,
        *views: Tensor,
        selected: Sequence[int] | None = None,
        known: np.ndarray | None = None,  # noqa: ARG002
    ) -> tuple[Tensor, ...]:
        """Return z (B, d), e (B, N), and for each further view the embeddings of all components as columns (B, N)."""
        z = self.encoder(views[0])
        e = self.projector(z)
        return z, e, *(self._embed_components(view, views[0].shape[1], e, selected) for view in views[1:])

    def terms(
        self,
        z: Tensor,  # noqa: ARG002
        *e: Tensor,
        selected: Sequence[int] | None = None,
        known: np.ndarray | None = None,
    ) -> Terms:
        """Return each term of the loss for every chunk, (n,)."""
        of_views = [self._sum_over_chunks(e[0], of_view, selected, known) for of_view in e[1:]]
        terms = mean_over_views(of_views)
        if self.parts.consistency_weight:
            of_components = self._sum_over_chunks(e[1], e[2], selected, known)
            terms |= weigh_consistency(of_components, self.parts.consistency_weight)
        if self.parts.redundancy_weight:
            repeated = redundancy_between_chunks(e[0], self.chunks.widths)
            terms["redundancy"] = self.parts.redundancy_weight * repeated
        return terms

    def pairs(
        self,
        z: Tensor,
        *e: Tensor,
        selected: Sequence[int] | None = None,  # noqa: ARG002
        known: np.ndarray | None = None,
    ) -> list[tuple[Tensor, Tensor]]:
        """Return every chunk with its component, of the cells that have its markers."""
        return known_rows(super().pairs(z, *e), known)

    def _embed_components(self, view: Tensor, n_markers: int, e: Tensor, selected: Sequence[int] | None) -> Tensor:
        """Return the embeddings of all components (B, N); for one that is not selected, its columns of ``e``."""
        components = self.cut_components(view, n_markers=n_markers)
        computed = self.component_encoders(components, selected)  # (B, k, widest)
        every = range(len(self.chunks.widths))
        targets = self.chunks.split(e.detach())
        return torch.cat(fill_unselected(targets, computed, every if selected is None else selected), dim=1)

    def _sum_over_chunks(
        self, e: Tensor, e_components: Tensor, selected: Sequence[int] | None, known: np.ndarray | None
    ) -> Terms:
        """Return the weighted terms of the loss between every chunk and its component, (n,), all chunks at once."""
        return weigh_selected(self.chunks(e, e_components, known), selected, len(self.chunks.widths))
