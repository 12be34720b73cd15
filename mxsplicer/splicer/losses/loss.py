"""What a loss is."""

from typing import Protocol

from torch import Tensor


class Loss(Protocol):
    """A joint-embedding loss: L_JE of SpliCER's equation 4."""

    def __call__(self, e_a: Tensor, e_b: Tensor) -> Tensor:
        """Return the loss, a scalar, of two batches (B, D) whose rows are the same cells."""
        ...

    def terms(self, e_a: Tensor, e_b: Tensor) -> dict[str, Tensor]:
        """Return the weighted terms whose sum is the loss."""
        ...
