"""VICReg: embeddings of the same cell agree, every feature keeps its spread, no two features say the same.

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
            "invariance": self.invariance_weight * (e_a - e_b).pow(2).mean(),
            "variance": self.variance_weight * (_hinge(e_a) + _hinge(e_b)) / 2,
            "covariance": self.covariance_weight * (_redundancy(e_a) + _redundancy(e_b)),
        }


def _hinge(e: Tensor) -> Tensor:
    return torch.relu(1 - torch.sqrt(e.var(dim=0) + 1e-4)).mean()


def _redundancy(e: Tensor) -> Tensor:
    centred = e - e.mean(dim=0)
    covariance = centred.T @ centred / (e.shape[0] - 1)  # (D, D)
    return (covariance.pow(2).sum() - covariance.diagonal().pow(2).sum()) / e.shape[1]
