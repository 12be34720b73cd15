"""Barlow Twins: make the cross-correlation matrix of two embeddings the identity.

Zbontar, Jing, Misra, LeCun, Deny 2021 (arXiv 2103.03230), equations 1 and 2.
"""

from dataclasses import dataclass

from torch import Tensor

from mxsplicer.splicer.losses.loss import Loss


@dataclass(frozen=True)
class BarlowTwins(Loss):
    """Redundancy reduction: a feature correlates with itself in the other view and with no other feature there."""

    off_diagonal_weight: float = 5e-3  # lambda in the paper

    def terms(self, e_a: Tensor, e_b: Tensor) -> dict[str, Tensor]:
        """Return the two weighted terms, whose sum is the loss."""
        correlation = _standardize(e_a).T @ _standardize(e_b) / len(e_a)  # (D, D)
        diagonal = correlation.diagonal()
        off_diagonal = correlation.pow(2).sum() - diagonal.pow(2).sum()
        return {"invariance": (1 - diagonal).pow(2).sum(), "off_diagonal": self.off_diagonal_weight * off_diagonal}


def _standardize(e: Tensor) -> Tensor:
    # Over the batch, not the features: the loss is about features agreeing across cells.
    return (e - e.mean(dim=0)) / e.std(dim=0, unbiased=False).clamp_min(1e-6)
