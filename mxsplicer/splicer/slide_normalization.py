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
from mxsplicer.splicer.normalization import gain_of
from mxsplicer.splicer.run import Run


def corrects_gains(run: Run) -> bool:
    """Return whether a run was trained on slides that were brought to one gain."""
    return bool(run.settings.get("normalization", "common") == "gain")


def run_at_gain(run: Run, spread: np.ndarray, channels: Sequence[int]) -> Run:
    """Return a run that normalises a slide at its gain, if it was trained on slides of one gain.

    Parameters
    ----------
    spread
        The slide's spread of each marker between cells (C,).
    channels
        The channel of each marker of the run; -1 for a marker that the slide lacks, whose gain is meaningless.
    """
    if not corrects_gains(run):
        return run
    of_run = torch.tensor(spread, dtype=torch.float32)[[max(channel, 0) for channel in channels]]
    return replace(run, normalization=run.normalization.on_slide(of_run))


def at_one_gain(stores: Sequence[PatchStore]) -> tuple[list[PatchStore], Tensor]:
    """Return stores whose intensities are divided by the gain of each, and the spread (C,) that they have then.

    Gains are relative to the geometric mean over the stores that have the marker. A single store is returned as it is.
    """
    spreads = torch.stack([torch.tensor(store.spread, dtype=torch.float32) for store in stores])
    if len(stores) == 1:
        return [*stores], spreads[0]
    known = spreads > 0
    logs = torch.where(known, spreads, 1.0).log()
    common = (logs.sum(dim=0) / known.sum(dim=0).clamp_min(1)).exp() * known.any(dim=0)
    views = []
    for store, spread in zip(stores, spreads, strict=True):
        gain = gain_of(spread, common).numpy()[:, None, None]
        views.append(PatchStoreView(store, partial(_divide, gain=gain), dtype=np.float32))
    return [*views], common


def _divide(patches: np.ndarray, gain: np.ndarray) -> np.ndarray:
    divided: np.ndarray = np.divide(patches, gain, dtype=np.float32)
    return divided
