"""Covariance scope: VICReg's covariance term over the whole primary embedding instead of within each chunk."""

from torch import Tensor

from mxsplicer.splicer.losses.chunks import Chunks
from mxsplicer.splicer.objectives.extensions.redundancy import redundancy_between_chunks


def covariance_between_chunks(e: Tensor, chunks: Chunks) -> Tensor:
    """Return what each chunk's covariance term grows by, (n,), if features of all chunks count; 0 without VICReg."""
    repeated = redundancy_between_chunks(e, chunks.widths, correlation=False)
    return chunks.covariance_weights(e.device) * repeated
