"""Devices: what a user calls them, and what PyTorch makes of it. The same words mean the same in every stage."""

import torch

from mxsplicer.errors import InputError


def find_device(name: str) -> torch.device:
    """Return a device by its name: ``"cpu"``, ``"cuda"``, ``"cuda:N"``, ``"mps"``, or ``"auto"`` for the best there is.

    Raises
    ------
    InputError
        If PyTorch cannot use it here.

    Examples
    --------
    >>> find_device("cpu")
    device(type='cpu')
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.empty(0, device=name).device
        if device.type in ("cpu", "cuda", "mps"):
            return device
        said = "it is no processor to compute on"
    except (RuntimeError, AssertionError) as error:
        said = str(error).partition("\n")[0].rstrip(".")
    msg = f"device {name!r} cannot be used here ({said}). Give auto, cpu, cuda, cuda:N or mps."
    raise InputError(msg)
