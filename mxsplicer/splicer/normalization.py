"""Normalisation of patches: raw intensities become what encoders see."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
from torch import Tensor

from mxsplicer.patches.store import BACKGROUND, NUCLEUS, THIS_CELL, PatchStore

SAMPLE_CELLS = 2_000  # enough for the percentiles of a marker: 2,000 patches are two million pixels

MOST_GAIN = 3.0


@dataclass(frozen=True, eq=False)
class Normalization:
    """Normalisation per marker: clip to a range, take log1p, subtract the mean, divide by the standard deviation.

    Intensities are divided by ``gain`` before, so that slides of different staining are on one scale
    (:meth:`on_slide`). Never per cell: the intensity of a cell in a marker is biology.
    """

    low: Tensor  # (C,), raw intensity
    high: Tensor
    mean: Tensor  # of log1p of the clipped intensity
    std: Tensor
    # Standard deviation of mean intensity between the cells of the training slides; 0 if it is not known.
    spread: Tensor = field(default_factory=lambda: torch.zeros(()))
    gain: Tensor = field(default_factory=lambda: torch.ones(()))

    def __call__(
        self, patches: np.ndarray, regions: np.ndarray | None = None, *, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Return patches (B, C, P, P) of any dtype as float32 on ``device``, normalised, channels last in memory.

        With ``regions`` (B, P, P), only the cell is shown: other pixels are 0, the mean of the marker. So is NaN, which
        stands for a marker that the slide lacks.
        """
        raw = torch.from_numpy(_transferable(patches)).to(device).movedim(1, -1)  # (B, P, P, C)
        low, high, mean, std, gain = (
            values.to(device) for values in (self.low, self.high, self.mean, self.std, self.gain)
        )
        as_they_are = bool((self.gain == 1).all())

        def standardize(pixels: Tensor) -> Tensor:  # (..., C)
            if patches.dtype == np.uint16:
                pixels = pixels.int().bitwise_and_(0xFFFF)
            x = pixels.float()
            x = torch.clamp(x if as_they_are else x / gain, low, high)
            x = x.sub_(low.clamp(max=0)).log1p_().sub_(mean).div_(std)
            return x.nan_to_num_(nan=0.0) if patches.dtype.kind == "f" else x

        if regions is None:
            return standardize(raw.contiguous()).movedim(-1, 1)
        inside = torch.from_numpy((regions == THIS_CELL) | (regions == NUCLEUS)).to(device)
        x = torch.zeros(raw.shape, device=device)
        x[inside] = standardize(raw[inside])  # most pixels of a patch are not of its cell
        return x.movedim(-1, 1)

    def to_dict(self) -> dict[str, list[float]]:
        """Return the values as lists, by name; :meth:`from_dict` reads them."""
        return {name: getattr(self, name).expand_as(self.low).tolist() for name in _FIELDS}

    @classmethod
    def from_dict(cls, values: dict[str, list[float]]) -> "Normalization":
        """Return the normalisation with the values that :meth:`to_dict` returned; gains are 1 if there are none."""
        known = {"spread": [0.0] * len(values["low"]), "gain": [1.0] * len(values["low"])} | values
        return cls(**{name: torch.tensor(known[name], dtype=torch.float32) for name in _FIELDS})

    def on_slide(self, spread: Tensor) -> "Normalization":
        """Return this normalisation at the gain of a slide, whose markers have this spread between cells (C,)."""
        return replace(self, gain=gain_of(spread, self.spread))


_FIELDS = tuple(one.name for one in fields(Normalization))


def gain_of(spread: Tensor, reference: Tensor) -> Tensor:
    """Return by how much a slide is brighter than another in each marker (C,), by its spreads, at most threefold.

    Bounded, since a marker that no cell of a slide expresses has the spread of noise.
    """
    known = (spread > 0) & (reference > 0)
    return torch.where(known, spread / reference.clamp_min(1e-12), 1.0).clamp(1 / MOST_GAIN, MOST_GAIN)


def _transferable(patches: np.ndarray) -> np.ndarray:
    # uint16, the type of most slides, is transferred as it is, in half the bytes, disguised as torch's int16.
    if patches.dtype == np.uint16:
        return np.ascontiguousarray(patches).view(np.int16)
    return np.ascontiguousarray(patches, dtype=np.float32)


def measure_normalization(stores: Sequence[PatchStore], *, seed: int = 0) -> tuple[Normalization, list[bool]]:
    """Measure clip, mean and standard deviation of every marker on a sample of patches.

    The clip is at the 0.1 and 99.9 percentiles of the sampled pixels, so that neither debris nor the black border of a
    slide sets the scale.

    Returns
    -------
    The normalisation, and for each marker whether it varies.
    """
    sample = []
    for patches, regions in _read_sample(stores, SAMPLE_CELLS, seed):
        # A pixel beyond the slide is 0 in every marker and belongs to no cell.
        lit = (np.nan_to_num(patches) if patches.dtype.kind == "f" else patches).any(axis=1)
        sample.append((patches, (regions != BACKGROUND) | lit))
    columns = []
    for channel in range(sample[0][0].shape[1]):  # one at a time: all as floats would be half a gigabyte
        pixels = np.concatenate([patches[:, channel][inside] for patches, inside in sample]).astype(np.float32)
        pixels = pixels[~np.isnan(pixels)]  # of slides that lack the marker
        low, high = np.percentile(pixels, [0.1, 99.9]).astype(np.float32)
        high = high if high > low else pixels.max()  # a marker of a few bright spots
        logs = np.log1p(np.clip(pixels, low, high, out=pixels) - min(low, np.float32(0)))
        columns.append((low, high, logs.mean(dtype=np.float64), logs.std(dtype=np.float64)))
    low, high, mean, std = np.array(columns, dtype=np.float64).T
    varies = [bool(s > 1e-6) for s in std]
    of_markers = (low, high, mean, np.where(varies, std, 1.0))
    return Normalization(*(torch.tensor(column, dtype=torch.float32) for column in of_markers)), varies


def sample_inputs(
    stores: Sequence[PatchStore],
    normalization: Normalization,
    *,
    hide: bool,
    n_cells: int = SAMPLE_CELLS,
    seed: int = 0,
) -> Tensor:
    """Return normalised patches (n, C, P, P) of some cells of every store, only the cell itself with ``hide``."""
    sample = _read_sample(stores, n_cells, seed)
    return torch.cat([normalization(patches, regions if hide else None) for patches, regions in sample])


def _read_sample(stores: Sequence[PatchStore], n_cells: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the patches and regions on which normalisation is measured, ``n_cells`` in all from all stores."""
    generator = np.random.default_rng(seed)
    per_store = max(1, n_cells // len(stores))
    for store in stores:
        yield store.read_rows(np.sort(generator.choice(store.n_cells, min(per_store, store.n_cells), replace=False)))
