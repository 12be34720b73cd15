"""VICReg: embeddings of the same cell agree, every feature keeps its variance, and features are uncorrelated.

Bardes, Ponce, LeCun 2022 (arXiv 2105.04906), equations 1 to 6, with the constants of section 4.2.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mxsplicer.splicer.losses.loss import Loss


@dataclass(frozen=True)
class VICReg(Loss):
    """Variance-invariance-covariance regularisation.

    Scaled as in the code that the authors published, which differs from the equations: invariance is the mean over
    cells and features of the squared difference (equation 5 sums over features); the hinge on the standard deviation is
    averaged over features and over the two branches (equation 6 adds the branches). Squared off-diagonal covariances
    are summed over both branches and divided by the width, as there.
    """

    invariance_weight: float = 25.0
    variance_weight: float = 25.0
    covariance_weight: float = 1.0

    def terms(self, e_a: Tensor, e_b: Tensor) -> dict[str, Tensor]:
        """Return the three weighted terms, whose sum is the loss."""
        return {
            "invariance": self.invariance_weight * invariance_term(e_a, e_b),
            "variance": self.variance_weight * (variance_term(e_a) + variance_term(e_b)) / 2,
            "covariance": self.covariance_weight * (covariance_term(e_a) + covariance_term(e_b)),
        }


def invariance_term(e_a: Tensor, e_b: Tensor) -> Tensor:
    """Return VICReg's invariance, the mean squared difference of two embeddings (B, D), a scalar."""
    return (e_a - e_b).pow(2).mean()


def variance_term(e: Tensor) -> Tensor:
    """Return VICReg's mean over features of max(0, 1 - standard deviation) of an embedding (B, D), a scalar."""
    return torch.relu(1 - torch.sqrt(e.var(dim=0) + 1e-4)).mean()


def covariance_term(e: Tensor) -> Tensor:
    """Return VICReg's sum of squared off-diagonal covariances of an embedding (B, D), divided by D, a scalar."""
    centred = e - e.mean(dim=0)
    covariance = centred.T @ centred / (e.shape[0] - 1)  # (D, D)
    return (covariance.pow(2).sum() - covariance.diagonal().pow(2).sum()) / e.shape[1]
