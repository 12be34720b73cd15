"""TriDeNT: joint embedding with a paired view."""

import torch
from torch import Tensor

from mxsplicer.splicer.objectives.objective import Parts, Terms
from mxsplicer.splicer.objectives.sigma import Sigma
from mxsplicer.splicer.objectives.sources import Source, sources_of
from mxsplicer.splicer.views import Picture


class Trident(Sigma):
    """Two views of the whole and a paired one, each held to the others: L = L(e, e') + Σᵢ wᵢ [L(e, e*ᵢ) + L(e', e*ᵢ)].

    TriDeNT (Farndale, Insall, Yuan, arXiv 2312.02111) has one paired view. Here that is a single component; several are
    all paired to both views of the whole. A paired view is turned as the second view is.
    """

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self.chunk_names = ("whole", *self.chunk_names)

    def _sources(self, parts: Parts) -> list[Source]:
        return sources_of(parts.components, hide=parts.hide, spanning=False)  # all are turned as a view of the whole

    def pictures(self, shown: Tensor, patches: Tensor, regions: Tensor) -> tuple[Picture, ...]:
        """Return the whole; and it again before what the components are cut from, to be turned as one."""
        return (Picture(shown), Picture(torch.cat([shown, patches], dim=1), self.sources[0].areas(regions)))

    def embed(self, *views: Tensor) -> tuple[Tensor, ...]:
        """Return z of the first view, the embeddings of both (B, N), and those of the components (B, n * N)."""
        n_markers = views[0].shape[1]
        again, paired = views[1].tensor_split([n_markers], dim=1)
        z = self.encoder(torch.cat([views[0], again]))
        e_a, e_b = self.projector(z).chunk(2)
        return z[: len(again)], e_a, e_b, self._components([paired], n_markers, e_a)

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
