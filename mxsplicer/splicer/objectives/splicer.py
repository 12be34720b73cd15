"""SpliCER, as in the paper: one joint-embedding loss between each chunk of an embedding and one component of the patch.

Farndale, Henderson, Roberts, Yuan, arXiv 2503.07444, section 3. One view of a patch shows the whole, x; another is
split into components x*_1 ... x*_n. The encoder f and the projector g embed the whole; every component has an encoder
with a projector of its own, f*_i:

    z = f(x)    e = g(z) = e_1 | ... | e_n    e*_i = f*_i(x*_i)    L = Σ_i w_i L_JE(e_i, e*_i)

The sum has no number in the paper: its (1) states the objective as mutual information, its (4) to (6) are gradients of
the sum. Training uses ``extended.py``, which computes all chunks at once and adds our own terms (``extensions/``).
"""

import torch
from torch import Tensor

from mxsplicer.splicer.objectives.components import ComponentObjective
from mxsplicer.splicer.objectives.objective import Terms


class Splicer(ComponentObjective):
    """SpliCER without extensions: the sum over chunks of the joint-embedding loss, one chunk after the other."""

    has_chunks = True

    def embed(self, *views: Tensor) -> tuple[Tensor, ...]:
        """Return z (B, d), e (B, N) and the embeddings of all components as columns (B, N)."""
        whole, view_b = views
        z = self.encoder(whole)  # z = f(x), (B, d)
        e = self.projector(z)  # e = g(z), (B, N)
        components = self.cut_components(view_b, n_markers=whole.shape[1])  # x*_1 ... x*_n, (B, n, C, P, P)
        e_components = self.component_encoders(components).unbind(dim=1)  # e*_1 ... e*_n, (B, widest chunk) each
        each = zip(e_components, self.chunks.widths, strict=True)
        return z, e, torch.cat([e_component[:, :width] for e_component, width in each], dim=1)

    def terms(self, z: Tensor, *e: Tensor) -> Terms:
        """Return the loss of every chunk, (n,); training minimises their sum."""
        each = zip(self.chunks.weights, self.chunks.losses, self.pairs(z, *e), strict=True)
        return {"loss": torch.stack([weight * loss(e_i, e_component) for weight, loss, (e_i, e_component) in each])}

    def pairs(self, z: Tensor, *e: Tensor) -> list[tuple[Tensor, Tensor]]:  # noqa: ARG002
        """Return every chunk e_i with the embedding e*_i of its component, (B, D_i) each."""
        return list(zip(self.chunks.split(e[0]), self.chunks.split(e[1]), strict=True))
