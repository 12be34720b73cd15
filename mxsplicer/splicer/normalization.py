"""Normalisation of patches: raw intensities become what encoders see."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mxsplicer.patches.store import NUCLEUS, THIS_CELL


@dataclass(frozen=True, eq=False)
class Normalization:
    """Normalisation per marker: clip to a range, take log1p, subtract the mean, divide by the standard deviation.

    Never per cell: the intensity of a cell in a marker is biology.
    """

    low: Tensor  # (C,), raw intensity
    high: Tensor
    mean: Tensor  # of log1p of the clipped intensity
    std: Tensor

    def __call__(
        self, patches: np.ndarray, regions: np.ndarray | None = None, *, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Return patches (B, C, P, P) of any dtype as float32 on ``device``, normalised, channels last in memory.

        With ``regions`` (B, P, P), only the cell is shown: other pixels are 0, the mean of the marker. So is NaN, which
        stands for a marker that the slide lacks.
        """
        raw = torch.from_numpy(_transferable(patches)).to(device).movedim(1, -1)  # (B, P, P, C)
        low, high, mean, std = (values.to(device) for values in (self.low, self.high, self.mean, self.std))

        def standardize(pixels: Tensor) -> Tensor:  # (..., C)
            if patches.dtype == np.uint16:
                pixels = pixels.int().bitwise_and_(0xFFFF)
            x = torch.clamp(pixels.float(), low, high)
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
        return {name: getattr(self, name).tolist() for name in ("low", "high", "mean", "std")}

    @classmethod
    def from_dict(cls, values: dict[str, list[float]]) -> "Normalization":
        """Return the normalisation with the values that :meth:`to_dict` returned."""
        return cls(**{name: torch.tensor(values[name], dtype=torch.float32) for name in ("low", "high", "mean", "std")})


def _transferable(patches: np.ndarray) -> np.ndarray:
    # uint16, the type of most slides, is transferred as it is, in half the bytes, disguised as torch's int16.
    if patches.dtype == np.uint16:
        return np.ascontiguousarray(patches).view(np.int16)
    return np.ascontiguousarray(patches, dtype=np.float32)
