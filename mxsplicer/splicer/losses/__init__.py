"""Losses between two batches of embeddings whose rows are the same cells: one module per loss.

A loss is called with (B, D), (B, D) and returns a scalar; ``terms`` returns what it is the sum of, by name.
"""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from mxsplicer.splicer.losses.sigreg import SIGReg
from mxsplicer.splicer.losses.simclr import SimCLR
from mxsplicer.splicer.losses.vicreg import VICReg


class Loss(Protocol):
    """A joint-embedding loss: L_JE of SpliCER's equation 4."""

    def __call__(self, e_a: Tensor, e_b: Tensor) -> Tensor:
        """Return the loss, a scalar, of two batches (B, D) whose rows are the same cells."""
        ...

    def terms(self, e_a: Tensor, e_b: Tensor) -> dict[str, Tensor]:
        """Return the weighted terms whose sum is the loss."""
        ...


LOSSES: dict[str, Callable[[], Loss]] = {"vicreg": VICReg, "simclr": SimCLR, "sigreg": SIGReg}
