"""The table of losses: their names, and a user's own class by ``module:Class``."""

from collections.abc import Callable

import torch

from mxsplicer.errors import InputError, describe_error
from mxsplicer.splicer.losses.chunks import per_chunk
from mxsplicer.splicer.losses.loss import Loss
from mxsplicer.splicer.losses.sigreg import SIGReg
from mxsplicer.splicer.losses.simclr import SimCLR
from mxsplicer.splicer.losses.vicreg import VICReg
from mxsplicer.system.imports import import_by_name

LOSSES: dict[str, Callable[[], Loss]] = {
    "vicreg": VICReg,
    "simclr": SimCLR,
    "sigreg": SIGReg,
}


def find_loss(name: str) -> Loss:
    """Return a loss by its name in the table, or of a user's class by ``module:Class``.

    Raises
    ------
    InputError
        If it cannot be imported, or does not work on all chunks at once.
    """
    if name in LOSSES:
        return LOSSES[name]()
    must = "no arguments and return an object whose method terms((B, D), (B, D)) returns scalars by name"
    make = import_by_name(name, "a loss", must)
    e = torch.randn(2, 8, 3, 4, generator=torch.Generator().manual_seed(0))
    try:
        loss: Loss = make()
        terms = per_chunk(loss, *e)
        shapes = {term: tuple(values.shape) for term, values in terms.items()}
    except Exception as error:  # the user's class may raise anything
        msg = f"loss {name!r} fails on embeddings (8, 4) of 3 chunks: {describe_error(error)}."
        raise InputError(msg, f"It must take {must}.") from error
    if set(shapes.values()) != {(3,)}:
        msg = f"the terms of loss {name!r} have the shapes {shapes} for 3 chunks; each should have one number a chunk."
        raise InputError(msg, f"It must take {must}.")
    return loss
