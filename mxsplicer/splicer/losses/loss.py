"""The contract of a joint-embedding loss."""

from abc import ABC, abstractmethod

from torch import Tensor


class Loss(ABC):
    """A joint-embedding loss between two embeddings of the same cells: L_JE of the SpliCER paper."""

    def __call__(self, e_a: Tensor, e_b: Tensor) -> Tensor:
        """Return the loss, a scalar, of two batches (B, D) whose rows are the same cells."""
        first, *others = self.terms(e_a, e_b).values()
        return sum(others, start=first)

    @abstractmethod
    def terms(self, e_a: Tensor, e_b: Tensor) -> dict[str, Tensor]:
        """Return the weighted terms whose sum is the loss."""
