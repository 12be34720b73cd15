"""SIGReg: embeddings of the same cell agree, and those of all cells have a standard normal distribution.

Balestriero, LeCun 2025 (LeJEPA, arXiv 2511.08544): sketched isotropic Gaussian regularisation with the test of Epps and
Pulley (1983). VICReg requires features to be uncorrelated, SIGReg to be independent: the square of a feature is
uncorrelated with it, but not normal, so a chunk cannot be filled with functions of one feature that is easy to predict.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mxsplicer.splicer.losses.loss import Loss
from mxsplicer.splicer.losses.vicreg import invariance_term

_LARGEST_T, _POINTS = 5.0, 9  # the integral runs from -5 to 5 in 17 points; its integrand is even, so 9 suffice


@dataclass(frozen=True)
class SIGReg(Loss):
    """Invariance, and normality of every one-dimensional projection of the embedding.

    A projection is along a random direction; every call draws new directions from PyTorch's generator. The statistic of
    a projection x_1 .. x_B is B ∫ |mean of exp(itx) - exp(-t²/2)|² exp(-t²/2) dt, averaged over projections and over
    the two branches. Invariance is the mean squared difference, weighted as in VICReg. Both weights, the number of
    projections and the range of the integral are ours.
    """

    invariance_weight: float = 25.0
    normality_weight: float = 0.5
    slices: int = 64

    def terms(self, e_a: Tensor, e_b: Tensor) -> dict[str, Tensor]:
        """Return the two weighted terms, whose sum is the loss."""
        directions = F.normalize(torch.randn(e_a.shape[1], self.slices, device=e_a.device), dim=0)
        return {
            "invariance": self.invariance_weight * invariance_term(e_a, e_b),
            "normality": self.normality_weight
            * (normality_term(e_a @ directions) + normality_term(e_b @ directions))
            / 2,
        }


def normality_term(x: Tensor) -> Tensor:
    """Return SIGReg's mean over columns of the statistic of Epps and Pulley for projections (B, slices), a scalar."""
    t = torch.linspace(0, _LARGEST_T, _POINTS, device=x.device)
    normal = torch.exp(-t.pow(2) / 2)
    tx = x[..., None] * t  # (B, slices, points)
    error = (tx.cos().mean(dim=0) - normal).pow(2) + tx.sin().mean(dim=0).pow(2)
    integral = 2 * torch.trapezoid(error * normal, dx=_LARGEST_T / (_POINTS - 1))
    return len(x) * integral.mean()
