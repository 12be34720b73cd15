"""TriDeNT: joint embedding with a paired view."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mxsplicer.splicer.objectives.objective import Parts, Terms
from mxsplicer.splicer.objectives.sigma import Sigma
from mxsplicer.splicer.views import ViewInput


class Trident(Sigma):
    """Two views of the whole patch and a paired one: L = L(e, e') + Σ_i w_i [L(e, e*_i) + L(e', e*_i)].

    TriDeNT (Farndale, Insall, Yuan, arXiv 2312.02111) has one paired view, a single component here. Several components
    are all paired with both views of the whole patch. A paired view has the geometry of the second view.
    """

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self.chunk_names = ("whole", *self.chunk_names)

    def view_inputs(self, shown: Tensor, patches: Tensor, regions: Tensor) -> tuple[ViewInput, ...]:
        """Return the whole patch; and, as one view, the whole patch and what the components are cut from."""
        return (ViewInput(shown), ViewInput(torch.cat([shown, patches], dim=1), self.pixels(regions)))

    def embed(
        self,
        *views: Tensor,
        selected: Sequence[int] | None = None,
        known: np.ndarray | None = None,  # noqa: ARG002
    ) -> tuple[Tensor, ...]:
        """Return z of the first view, the embeddings of both (B, N), and those of the components (B, n * N)."""
        n_markers = views[0].shape[1]
        second, paired = views[1].tensor_split([n_markers], dim=1)
        z = self.encoder(torch.cat([views[0], second]))
        e_a, e_b = self.projector(z).chunk(2)
        return z[: len(second)], e_a, e_b, self._embed_components(paired, n_markers, e_a, selected)

    def terms(
        self, z: Tensor, *e: Tensor, selected: Sequence[int] | None = None, known: np.ndarray | None = None
    ) -> Terms:
        """Return each term of the loss for the whole patch and for every component, (1 + n,)."""
        whole = self.whole(e[0], e[1])
        first, second = (super(Trident, self).terms(z, one, e[2], selected=selected, known=known) for one in e[:2])
        none, nones = torch.zeros_like(next(iter(whole.values()))), torch.zeros_like(next(iter(first.values())))
        return {
            name: torch.cat([whole.get(name, none), first.get(name, nones) + second.get(name, nones)])
            for name in dict.fromkeys([*whole, *first])
        }

    def pairs(
        self, z: Tensor, *e: Tensor, selected: Sequence[int] | None = None, known: np.ndarray | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        """Return the two views, and the first of them with each component."""
        return [(e[0], e[1]), *super().pairs(z, e[0], e[2], selected=selected, known=known)]
