"""Deconstructions: which parts of a patch get an encoder of their own.

SpliCER (arXiv 2503.07444, section 3): a deconstruction takes a patch apart into components; chunk i of the primary
embedding is held to component i. It is used in training only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Component:
    """A named part of a patch: some of its channels."""

    name: str
    channels: tuple[int, ...]


def by_marker(markers: Sequence[str]) -> list[Component]:
    """Give every marker a component of its own, as the paper does for multiplex images.

    Examples
    --------
    >>> [component.name for component in by_marker(["DAPI", "CD8a"])]
    ['DAPI', 'CD8a']
    """
    return [Component(marker, (channel,)) for channel, marker in enumerate(markers)]


DECONSTRUCTIONS: dict[str, Callable[[Sequence[str]], list[Component]]] = {"marker": by_marker}


def deconstruct(patches: Tensor, components: Sequence[Component]) -> Tensor:
    """Return the components of every patch, (B, n, C_max, P, P), those with fewer channels filled up with zeros.

    The zeros let components of any number of channels pass through one grouped network.
    """
    widest = max(len(component.channels) for component in components)
    parts = (patches[:, list(component.channels)] for component in components)
    return torch.stack([F.pad(part, (0, 0, 0, 0, 0, widest - part.shape[1])) for part in parts], dim=1)
