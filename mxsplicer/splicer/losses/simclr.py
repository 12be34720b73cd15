"""SimCLR: the nearest of all other embeddings in the batch is to be the other view of the same cell.

Chen, Kornblith, Norouzi, Hinton 2020 (arXiv 2002.05709), equation 1 (NT-Xent).
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mxsplicer.splicer.losses.loss import Loss


@dataclass(frozen=True)
class SimCLR(Loss):
    """Normalised temperature-scaled cross entropy.

    ``negatives="all"`` compares with the 2B - 2 other embeddings of both views (the paper's); ``"cross"`` only with
    those of the other view (the form known from CLIP, arXiv 2103.00020).
    """

    temperature: float = 0.5
    negatives: Literal["all", "cross"] = "all"

    def terms(self, e_a: Tensor, e_b: Tensor) -> dict[str, Tensor]:
        """Return the one term."""
        a, b = F.normalize(e_a, dim=1), F.normalize(e_b, dim=1)
        across = a @ b.T / self.temperature  # (B, B); the diagonal holds the pairs
        same = torch.arange(len(across), device=across.device)  # column of each row's pair
        if self.negatives == "cross":
            loss = (F.cross_entropy(across, same) + F.cross_entropy(across.T, same)) / 2
        else:
            itself = torch.eye(len(across), device=across.device, dtype=torch.bool)
            within_a = (a @ a.T / self.temperature).masked_fill(itself, -torch.inf)
            within_b = (b @ b.T / self.temperature).masked_fill(itself, -torch.inf)
            loss_a = F.cross_entropy(torch.cat([across, within_a], dim=1), same)
            loss_b = F.cross_entropy(torch.cat([across.T, within_b], dim=1), same)
            loss = (loss_a + loss_b) / 2
        return {"cross_entropy": loss}
