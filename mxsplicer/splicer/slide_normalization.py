"""Normalisation of each slide by itself, for slides whose staining differs.

In training, batches mix cells of all slides and do not know the slide of a cell. So every store is read through
:func:`on_one_scale`, which transforms intensities to a scale on which all slides have the same mean and spread.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from mxsplicer.patches.store import PatchStore, PatchStoreView
from mxsplicer.splicer.normalization import Normalization, measure_normalization
from mxsplicer.splicer.run import Run

# On the common scale a value x stands for log1p(x) - _MIDDLE standard deviations, which is above 0 for any intensity.
_MIDDLE, _MOST = 16.0, 40.0


def has_own_scales(run: Run) -> bool:
    """Return whether a run was trained with normalisation per slide."""
    return bool(run.settings.get("normalization", "common") == "slide")


def run_of_store(run: Run, store: PatchStore, channels: Sequence[int]) -> Run:
    """Return a run with the normalisation of one slide's store, if it was trained with one per slide."""
    if not has_own_scales(run):
        return run
    own = measure_normalization([store], seed=run.settings["seed"])[0]
    return replace(run, normalization=channels_in_order(own, channels))


def common_scale(n_markers: int) -> Normalization:
    """Return the common normalisation of slides whose patches were read through :func:`on_one_scale`."""
    ones = torch.ones(n_markers)
    return Normalization(0 * ones, torch.expm1(_MOST * ones), _MIDDLE * ones, ones)


def channels_in_order(normalization: Normalization, channels: Sequence[int]) -> Normalization:
    """Return the normalisation of some channels of a slide, in this order; those at a channel -1 are meaningless."""
    places = torch.tensor([max(channel, 0) for channel in channels])
    return Normalization(*(getattr(normalization, name)[places] for name in ("low", "high", "mean", "std")))


def on_one_scale(stores: Sequence[PatchStore], *, seed: int) -> list[PatchStore]:
    """Return stores with intensities transformed from the normalisation of each slide to :func:`common_scale`."""
    views = []
    for store in stores:
        normalization = measure_normalization([store], seed=seed)[0]
        views.append(PatchStoreView(store, partial(_to_common_scale, normalization=normalization), dtype=np.float32))
    return [*views]


def _to_common_scale(patches: np.ndarray, normalization: Normalization) -> np.ndarray:
    x = normalization(patches).add_(_MIDDLE).clamp_(0, _MOST)
    return np.ascontiguousarray(torch.expm1(x).numpy())
