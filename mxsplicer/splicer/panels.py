"""Slides of different panels are brought to one: the markers that all have, or all that any has.

In a batch cells of all slides are mixed. A marker that a cell's slide lacks is NaN in all pixels of its patch: the
encoder is shown the marker's mean there, and the loss of its components leaves the cell out.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mxsplicer.errors import InputError
from mxsplicer.patches.store import Block, PatchStore

PANELS = ("same", "shared", "union")


def on_one_panel(stores: Sequence[PatchStore], panel: str) -> list[PatchStore]:
    """Return stores with the markers of one panel, in the order of the first.

    Parameters
    ----------
    panel
        ``"same"`` leaves them as they are, ``"shared"`` has the markers of all, and ``"union"`` those of any, of which
        patches of a slide that lacks one hold NaN.

    Raises
    ------
    InputError
        If there is no such panel, or no marker is on all slides.
    """
    if panel not in PANELS:
        msg = f"there is no panel {panel!r}; there are {', '.join(PANELS)}."
        raise InputError(msg)
    panels = [store.markers for store in stores]
    if panel == "same" or len(set(panels)) == 1:
        return list(stores)
    every = list(dict.fromkeys(marker for markers in panels for marker in markers))
    shared = [marker for marker in every if all(marker in markers for markers in panels)]
    if not shared:
        msg = f"no marker is on all {len(stores)} slides. Rename those that are the same where patches are cut."
        raise InputError(msg)
    return [OnPanel(store, shared if panel == "shared" else every) for store in stores]


def known_markers(patches: np.ndarray) -> np.ndarray | None:
    """Return which marker is on the slide of each cell, (B, C), of patches (B, C, P, P); None where all are."""
    if patches.dtype.kind != "f":
        return None
    known = ~np.isnan(patches[:, :, 0, 0])
    return None if known.all() else known


class OnPanel(PatchStore):
    """A patch store whose patches have the markers of a panel, in its order; all else is the store's."""

    def __init__(self, store: PatchStore, panel: Sequence[str]) -> None:
        self.__dict__.update(store.__dict__)
        self._store, self.markers = store, tuple(panel)
        places = {marker: place for place, marker in enumerate(store.markers)}
        self._places = [places.get(marker, -1) for marker in panel]
        lacks = -1 in self._places
        dtype = np.result_type(store.patches.dtype, np.float32) if lacks else store.patches.dtype
        n_cells, _, *sides = store.patches.shape
        self.patches = _Shaped((n_cells, len(panel), *sides), dtype, store.patches.shards)

    def read_block(self, number: int) -> Block:
        """Return a block of the store."""
        block = self._store.read_block(number)
        return replace(block, patches=self._chosen(block.patches))

    def read_rows(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return patches (n, C, P, P) and regions (n, P, P) of some cells of the store."""
        patches, regions = self._store.read_rows(rows)
        return self._chosen(patches), regions

    def _chosen(self, patches: np.ndarray) -> np.ndarray:
        chosen = patches[:, self._places].astype(self.patches.dtype, copy=False)
        if -1 in self._places:
            chosen[:, np.array(self._places) < 0] = np.nan
        return chosen


class _Shaped:
    """What is asked of an array before it is read."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, shards: Any) -> None:
        self.shape, self.dtype, self.shards = shape, np.dtype(dtype), shards
