"""Losses between two batches of embeddings whose rows are the same cells: one module per loss.

A loss is called with (B, D), (B, D) and returns a scalar; ``terms`` returns what it is the sum of, by name.
"""

from collections.abc import Callable
from functools import partial

import torch

from mxsplicer.errors import InputError
from mxsplicer.splicer.losses.barlow import BarlowTwins
from mxsplicer.splicer.losses.chunks import per_chunk
from mxsplicer.splicer.losses.loss import Loss
from mxsplicer.splicer.losses.sigreg import SIGReg
from mxsplicer.splicer.losses.simclr import SimCLR
from mxsplicer.splicer.losses.vicreg import VICReg
from mxsplicer.system.imports import describe_error, import_by_name

__all__ = ["LOSSES", "Loss", "find_loss"]

LOSSES: dict[str, Callable[[], Loss]] = {
    "vicreg": VICReg,
    "simclr": SimCLR,  # NT-Xent: all 2B - 2 negatives
    "clip": partial(SimCLR, negatives="cross"),  # those of the other view
    "barlow": BarlowTwins,
    "sigreg": SIGReg,
}


def find_loss(name: str) -> Loss:
    """Return a loss by its name: one of the table, or a class of the user's own, ``module:Class``.

    Raises
    ------
    InputError
        If it cannot be imported, or is no loss that works on all chunks at once.
    """
    if name in LOSSES:
        return LOSSES[name]()
    must = "no arguments; what it makes has a method terms((B, D), (B, D)) that returns scalars by name"
    make = import_by_name(name, "a loss", must)
    e = torch.randn(2, 8, 3, 4, generator=torch.Generator().manual_seed(0))
    try:
        loss: Loss = make()
        terms = per_chunk(loss, *e)
        shapes = {term: tuple(values.shape) for term, values in terms.items()}
    except Exception as error:  # whatever is wrong in the user's class
        msg = f"loss {name!r} fails on embeddings (8, 4) of 3 chunks: {describe_error(error)}. It takes {must}."
        raise InputError(msg) from error
    if set(shapes.values()) != {(3,)}:
        msg = f"the terms of loss {name!r} are {shapes} for 3 chunks, not one number each. It takes {must}."
        raise InputError(msg)
    return loss
