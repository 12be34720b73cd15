"""Losses between two batches of embeddings whose rows are the same cells: one module per loss.

A loss is called with (B, D), (B, D) and returns a scalar; ``terms`` returns what it is the sum of, by name.
"""

from collections.abc import Callable
from functools import partial

from mxsplicer.splicer.losses.barlow import BarlowTwins
from mxsplicer.splicer.losses.loss import Loss
from mxsplicer.splicer.losses.sigreg import SIGReg
from mxsplicer.splicer.losses.simclr import SimCLR
from mxsplicer.splicer.losses.vicreg import VICReg

__all__ = ["LOSSES", "Loss"]

LOSSES: dict[str, Callable[[], Loss]] = {
    "vicreg": VICReg,
    "simclr": SimCLR,  # NT-Xent: all 2B - 2 negatives
    "clip": partial(SimCLR, negatives="cross"),  # those of the other view
    "barlow": BarlowTwins,
    "sigreg": SIGReg,
}
