"""Joint embedding, the baseline: no components."""

import torch
from torch import Tensor

from mxsplicer.splicer.objectives.objective import Objective, Terms


class Joint(Objective):
    """The loss between two views of the whole patch (the paper's Baseline): L = L(e, e')."""

    def embed(self, *views: Tensor) -> tuple[Tensor, ...]:
        """Return z of the first view, and the embeddings of both, (B, N)."""
        # One pass over both views, so that batch norm treats them alike.
        z = self.encoder(torch.cat(views))
        return z[: len(views[0])], *self.projector(z).chunk(2)

    def terms(self, z: Tensor, *e: Tensor) -> Terms:  # noqa: ARG002
        """Return each term of the loss, (1,)."""
        return self.whole(e[0], e[1])

    def pairs(self, z: Tensor, *e: Tensor) -> list[tuple[Tensor, Tensor]]:  # noqa: ARG002
        """Return the two embeddings."""
        return [(e[0], e[1])]
