"""SimCLR: the nearest of all other embeddings in the batch is to be the other view of the same cell.

Chen, Kornblith, Norouzi, Hinton 2020 (arXiv 2002.05709), equation 1 (NT-Xent).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mxsplicer.splicer.losses.loss import Loss


@dataclass(frozen=True)
class SimCLR(Loss):
    """Normalised temperature-scaled cross entropy, among the 2B - 2 other embeddings of both views."""

    temperature: float = 0.5

    def terms(self, e_a: Tensor, e_b: Tensor) -> dict[str, Tensor]:
        """Return the one term."""
        a, b = F.normalize(e_a, dim=1), F.normalize(e_b, dim=1)
        across = a @ b.T / self.temperature  # (B, B); the diagonal holds the pairs
        same = torch.arange(len(across), device=across.device)  # column of each row's pair
        itself = torch.eye(len(across), device=across.device, dtype=torch.bool)
        within_a = (a @ a.T / self.temperature).masked_fill(itself, -torch.inf)
        within_b = (b @ b.T / self.temperature).masked_fill(itself, -torch.inf)
        loss_a = F.cross_entropy(torch.cat([across, within_a], dim=1), same)
        loss_b = F.cross_entropy(torch.cat([across.T, within_b], dim=1), same)
        return {"cross_entropy": (loss_a + loss_b) / 2}
