"""Missing markers: a cell whose slide lacks a marker has no part in the loss of the components that show it."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from mxsplicer.splicer.deconstruction import Component


def known_components(known: np.ndarray | None, components: Sequence[Component]) -> np.ndarray | None:
    """Return which components each cell has all markers of, (B, n), given its markers (B, C). None: all.

    Examples
    --------
    >>> pair = Component("pair", (0, 1))
    >>> known_components(np.array([[True, True], [True, False]]), [Component("first", (0,)), pair]).tolist()
    [[True, True], [True, False]]
    """
    if known is None:
        return None
    return np.stack([known[:, list(component.channels)].all(axis=1) for component in components], axis=1)


def known_rows(pairs: Iterable[tuple[Tensor, Tensor]], known: np.ndarray | None) -> list[tuple[Tensor, Tensor]]:
    """Return of every chunk and component the rows of cells that have its markers, where there are at least two."""
    if known is None:
        return list(pairs)
    of_chunks = [torch.from_numpy(np.flatnonzero(cells)) for cells in known.T]
    return [(a[rows], b[rows]) if len(rows) > 1 else (a, b) for rows, (a, b) in zip(of_chunks, pairs, strict=True)]
