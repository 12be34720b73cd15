"""Devices by name. The same names are used in every stage."""

import torch

from mxsplicer.errors import InputError


def find_device(name: str) -> torch.device:
    """Return a device by its name: ``"cpu"``, ``"cuda"``, ``"cuda:N"``, ``"mps"``, or ``"auto"`` for the best one.

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
        reason = "it cannot compute"
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
    msg = f"device {name!r} cannot be used here ({reason})."
    raise InputError(msg, "Choose `device` from auto, cpu, cuda, cuda:N and mps.")
