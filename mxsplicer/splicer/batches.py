"""From patch stores to shuffled batches of normalised tensors.

Blocks are read in random order and whole; as many as fit the buffer are mixed, and batches drawn from the mixture. A
store that fits the buffer is read once and shuffled exactly, in every epoch anew.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mxsplicer.patches.store import PatchStore

_BUFFER_BYTES = 1 << 30
_SAMPLE_CELLS = 2_000  # enough for the percentiles of a marker: 2,000 patches are two million pixels


@dataclass(frozen=True, eq=False)
class Normalization:
    """Per marker: clip to a range, take log1p, subtract the mean and divide by the standard deviation.

    Never per cell: how bright a cell is in a marker is biology.
    """

    low: Tensor  # (C,), raw intensity
    high: Tensor
    mean: Tensor  # of log1p of the clipped intensity
    std: Tensor

    def __call__(self, patches: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
        """Return patches (B, C, P, P) of any dtype as float32 on ``device``, normalised, channels last in memory."""
        raw = torch.from_numpy(np.ascontiguousarray(patches, dtype=np.float32)).to(device)
        low, high, mean, std = (
            values.to(device)[:, None, None] for values in (self.low, self.high, self.mean, self.std)
        )
        x = torch.log1p(torch.minimum(torch.maximum(raw, low), high) - low.clamp(max=0))
        return ((x - mean) / std).contiguous(memory_format=torch.channels_last)

    def to_dict(self) -> dict[str, list[float]]:
        """Return what :meth:`from_dict` takes."""
        return {name: getattr(self, name).tolist() for name in ("low", "high", "mean", "std")}

    @classmethod
    def from_dict(cls, values: dict[str, list[float]]) -> "Normalization":
        """Return the normalisation that :meth:`to_dict` was called on."""
        return cls(**{name: torch.tensor(values[name], dtype=torch.float32) for name in ("low", "high", "mean", "std")})


def measure_normalization(stores: Sequence[PatchStore], *, seed: int = 0) -> tuple[Normalization, list[bool]]:
    """Measure clip, mean and standard deviation of every marker on a sample of patches.

    The clip is at the 0.1 and 99.9 percentiles of the sampled pixels, so that neither debris nor the black beyond the
    border of a slide sets the scale.

    Returns
    -------
    The normalisation, and per marker whether it varies at all.
    """
    generator = np.random.default_rng(seed)
    per_store = max(1, _SAMPLE_CELLS // len(stores))
    parts = []
    for store in stores:
        rows = np.sort(generator.choice(store.n_cells, min(per_store, store.n_cells), replace=False))
        patches, regions = store.read_rows(rows)
        # A pixel beyond the slide is 0 in every marker and belongs to no cell.
        outside = (regions == 0) & (patches == 0).all(axis=1)
        parts.append(np.moveaxis(patches, 1, 0)[:, ~outside].astype(np.float32))
    pixels = np.concatenate(parts, axis=1)  # (C, pixels)
    low, high = np.percentile(pixels, [0.1, 99.9], axis=1).astype(np.float32)
    high = np.where(high > low, high, pixels.max(axis=1))  # a marker of a few bright spots
    logs = np.log1p(np.clip(pixels, low[:, None], high[:, None]) - np.minimum(low, 0)[:, None])
    std = logs.std(axis=1, dtype=np.float64)
    varies = [bool(s > 1e-6) for s in std]
    columns = (low, high, logs.mean(axis=1, dtype=np.float64), np.where(varies, std, 1.0))
    return Normalization(*(torch.tensor(column, dtype=torch.float32) for column in columns)), varies


class Batches:
    """Shuffled batches of raw patches, the same for the same seed and epoch.

    Parameters
    ----------
    stores
        Stores of one panel and patch size.
    batch_size
        Cells per batch; lowered to the number of cells where there are fewer. The rest of an epoch that fills no batch
        is left out; other cells are left out in the next epoch.
    """

    def __init__(self, stores: Sequence[PatchStore], batch_size: int, *, seed: int = 0) -> None:
        self.n_cells = sum(store.n_cells for store in stores)
        self.batch_size = min(batch_size, self.n_cells)
        self.per_epoch = self.n_cells // self.batch_size
        self._seed = seed
        self._blocks = [(store, number) for store in stores for number in range(store.n_blocks)]
        cell_bytes = max(np.dtype(s.patches.dtype).itemsize * int(np.prod(s.patches.shape[1:])) for s in stores)
        largest = max(store.block_size for store in stores)
        self._blocks_at_once = max(1, _BUFFER_BYTES // (cell_bytes * largest))
        self._whole: np.ndarray | None = None

    def epoch(self, number: int) -> Iterator[np.ndarray]:
        """Yield the batches (B, C, P, P) of one epoch, raw, in random order."""
        generator = np.random.default_rng([self._seed, number])
        rest: np.ndarray | None = None
        n_left = self.per_epoch
        for patches in self._buffers(generator):
            order = generator.permutation(len(patches) + (0 if rest is None else len(rest)))
            pool = patches if rest is None else np.concatenate([rest, patches])
            whole = len(pool) // self.batch_size * self.batch_size
            for start in range(0, whole, self.batch_size):
                if n_left:
                    n_left -= 1
                    yield pool[order[start : start + self.batch_size]]
            rest = pool[order[whole:]]

    def _buffers(self, generator: np.random.Generator) -> Iterator[np.ndarray]:
        """Yield mixtures of blocks; the next one is read while one is used."""
        if len(self._blocks) <= self._blocks_at_once:
            if self._whole is None:
                self._whole = self._read(self._blocks)
            yield self._whole
            return
        order = generator.permutation(len(self._blocks))
        groups = [
            [self._blocks[i] for i in order[start : start + self._blocks_at_once]]
            for start in range(0, len(order), self._blocks_at_once)
        ]
        with ThreadPoolExecutor(1) as reader:
            upcoming = reader.submit(self._read, groups[0])
            for group in [*groups[1:], None]:
                buffer = upcoming.result()
                if group is not None:
                    upcoming = reader.submit(self._read, group)
                yield buffer

    @staticmethod
    def _read(blocks: Sequence[tuple[PatchStore, int]]) -> np.ndarray:
        parts: list[Any] = [store.patches[_rows(store, number)] for store, number in blocks]
        return np.concatenate(parts)


def _rows(store: PatchStore, number: int) -> slice:
    return slice(number * store.block_size, min((number + 1) * store.block_size, store.n_cells))
