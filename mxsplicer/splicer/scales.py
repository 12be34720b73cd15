"""A scale of its own for each slide: where staining differs from slide to slide, each is normalised by its own numbers.

In training the slides are mixed in a batch, which knows of no slides. So every store is seen through
:class:`OnOneScale`, which brings intensities to a scale on which all slides have the same mean and spread.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from mxsplicer.patches.store import Block, PatchStore
from mxsplicer.splicer.batches import Normalization, measure_normalization
from mxsplicer.splicer.run import Run

# On the common scale a value x stands for log1p(x) - _MIDDLE standard deviations, which is above 0 for any intensity.
_MIDDLE, _MOST = 16.0, 40.0


def has_own_scales(run: Run) -> bool:
    """Return whether a run was trained on slides that were each normalised by their own numbers."""
    return bool(run.settings.get("normalization", "common") == "slide")


def of_store(run: Run, store: PatchStore, channels: Sequence[int]) -> Run:
    """Return a run as it takes patches of one store: with the store's own normalisation, where the run asks for it."""
    if not has_own_scales(run):
        return run
    own = measure_normalization([store], seed=run.settings["seed"])[0]
    return replace(run, normalization=in_order(own, channels))


def common_scale(n_markers: int) -> Normalization:
    """Return the normalisation of patches that were read through :class:`OnOneScale`."""
    ones = torch.ones(n_markers)
    return Normalization(0 * ones, torch.expm1(_MOST * ones), _MIDDLE * ones, ones)


def in_order(normalization: Normalization, channels: Sequence[int]) -> Normalization:
    """Return the normalisation of some channels of a slide, in this order; what stands at a channel -1 says nothing."""
    places = torch.tensor([max(channel, 0) for channel in channels])
    return Normalization(*(getattr(normalization, name)[places] for name in ("low", "high", "mean", "std")))


def on_one_scale(stores: Sequence[PatchStore], *, seed: int) -> list[PatchStore]:
    """Return stores whose intensities are each brought from the store's own scale to :func:`common_scale`."""
    return [OnOneScale(store, measure_normalization([store], seed=seed)[0]) for store in stores]


class OnOneScale(PatchStore):
    """A patch store whose patches are brought to a common scale, as float32; all else is the store's."""

    def __init__(self, store: PatchStore, normalization: Normalization) -> None:
        self.__dict__.update(store.__dict__)
        self._store, self._normalization = store, normalization
        self.patches = _Shaped(store.patches)

    def read_block(self, number: int) -> Block:
        """Return a block of the store."""
        block = self._store.read_block(number)
        return replace(block, patches=self._scaled(block.patches))

    def read_rows(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return patches (n, C, P, P) and regions (n, P, P) of some cells of the store."""
        patches, regions = self._store.read_rows(rows)
        return self._scaled(patches), regions

    def _scaled(self, patches: np.ndarray) -> np.ndarray:
        x = self._normalization(patches).add_(_MIDDLE).clamp_(0, _MOST)
        return np.ascontiguousarray(torch.expm1(x).numpy())


class _Shaped:
    """What is asked of an array before it is read."""

    dtype = np.dtype(np.float32)

    def __init__(self, array: Any) -> None:
        self.shape, self.shards = array.shape, array.shards
