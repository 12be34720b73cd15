"""Joint-embedding losses between two batches of embeddings whose rows are the same cells: one module per loss.

A loss is called with (B, D), (B, D) and returns a scalar; ``terms`` returns its terms by name.
"""

from mxsplicer.splicer.losses.loss import Loss
from mxsplicer.splicer.losses.table import LOSSES, find_loss

__all__ = ["LOSSES", "Loss", "find_loss"]
