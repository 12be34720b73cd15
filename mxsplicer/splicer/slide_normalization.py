"""Gains of slides whose staining differs.

In training, batches mix cells of all slides and do not know the slide of a cell. So every store is read through
:func:`at_one_gain`, which divides intensities by the gain of its slide.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from mxsplicer.patches.store import PatchStore, PatchStoreView
from mxsplicer.splicer.normalization import gain_of, measure_normalization
from mxsplicer.splicer.run import Run


def corrects_gains(run: Run) -> bool:
    """Return whether a run was trained on slides that were brought to one gain."""
    return bool(run.settings.get("normalization", "common") == "gain")


def run_for_store(run: Run, store: PatchStore, channels: Sequence[int]) -> Run:
    """Return a run that normalises a store at its gain, if it was trained on slides of one gain."""
    if not corrects_gains(run):
        return run
    own = measure_normalization([store], seed=run.settings["seed"])[0]
    return replace(run, normalization=run.normalization.on_slide(own.of_channels(channels)))


def at_one_gain(stores: Sequence[PatchStore], *, seed: int) -> tuple[list[PatchStore], Tensor]:
    """Return stores whose intensities are divided by the gain of each, and the spread (C,) that they have then.

    Gains are relative to the geometric mean over the stores. A single store is returned as it is.
    """
    spreads = torch.stack([measure_normalization([store], seed=seed)[0].spread for store in stores])
    if len(stores) == 1:
        return [*stores], spreads[0]
    common = spreads.clamp_min(1e-12).log().mean(dim=0).exp() * (spreads > 0).all(dim=0)
    views = []
    for store, spread in zip(stores, spreads, strict=True):
        gain = gain_of(spread, common).numpy()[:, None, None]
        views.append(PatchStoreView(store, partial(_divide, gain=gain), dtype=np.float32))
    return [*views], common


def _divide(patches: np.ndarray, gain: np.ndarray) -> np.ndarray:
    divided: np.ndarray = np.divide(patches, gain, dtype=np.float32)
    return divided
