"""Encode patches: the passes of an encoder that turn patches into z.

z of a cell depends on its patch and on the weights alone: patches pass the encoder in batches of one fixed size, padded
at the end, in float32. So the result does not depend on the block, the number of workers or the other cells.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mxsplicer.splicer.convolutions import fold_batch_norm
from mxsplicer.splicer.devices import find_device
from mxsplicer.splicer.run import Run

# Patches per pass; fixed for a kind of processor, because another number may round differently.
PATCHES_PER_PASS = {"cpu": 64, "cuda": 256, "mps": 256}


class PatchEncoders:
    """Encode patches with several encoders of the same input, ready on a device.

    Parameters
    ----------
    run
        The run that normalises the input of all encoders.
    encoders
        An encoder for each key.
    device
        Where they run.
    """

    def __init__(self, run: Run, encoders: Mapping[str, torch.nn.Module], device: torch.device) -> None:
        self._run, self._device = run, device
        self._encoders = {key: _prepare(encoder, device) for key, encoder in encoders.items()}

    def encode(
        self,
        patches: np.ndarray,
        regions: np.ndarray,
        *,
        channels: Sequence[int] | None = None,
        missing: Sequence[int] = (),
    ) -> dict[str, np.ndarray]:
        """Return z (n, d) float32 of each encoder.

        Parameters
        ----------
        patches, regions
            (n, C, P, P) and (n, P, P) of the same cells.
        channels
            The channel of ``patches`` for each marker of the run; None where the order is the run's.
        missing
            Indices of the run's markers that the slide lacks; what stands at their channel is ignored.
        """
        chosen = slice(None) if channels is None else list(channels)  # a slice copies nothing
        z: dict[str, list[np.ndarray]] = {key: [] for key in self._encoders}
        for n, some, regions_of_some in _batches(patches, regions, PATCHES_PER_PASS[self._device.type]):
            x = self._run.normalize(some[:, chosen], regions_of_some, missing=missing, device=self._device)
            for key, encoder in self._encoders.items():
                z[key].append(_encode(encoder, x)[:n])
        return {key: np.concatenate(batches) if batches else self._no_cells() for key, batches in z.items()}

    def _no_cells(self) -> np.ndarray:
        return np.empty((0, self._run.features), np.float32)


def encode_patches(
    run: Run, patches: np.ndarray, regions: np.ndarray, *, missing: Sequence[int] = (), device: str = "auto"
) -> np.ndarray:
    """Return z (n, d) float32 of patches, the same numbers as :func:`~mxsplicer.embed` on the same kind of device.

    Parameters
    ----------
    run
        The trained encoder.
    patches
        (n, C, P, P) as :func:`mxsplicer.cut_patches` returns them, the channels in the order of the run's markers.
    regions
        (n, P, P), of the same cells.
    missing
        Indices of the run's markers that the slide lacks; their channels in ``patches`` are ignored.
    device
        As for :func:`~mxsplicer.embed`.
    """
    encoders = PatchEncoders(run, {"z": run.encoder}, find_device(device))
    return encoders.encode(patches, regions, missing=missing)["z"]


def encode_inputs(run: Run, x: torch.Tensor, *, device: str = "auto") -> np.ndarray:
    """Return z (n, d) float32 of patches x (n, C, P, P) that the run has normalised already."""
    where = find_device(device)
    encoder = _prepare(run.encoder, where)
    batches = x.split(PATCHES_PER_PASS[where.type])  # type: ignore[no-untyped-call]
    return np.concatenate([_encode(encoder, batch.to(where, memory_format=torch.channels_last)) for batch in batches])


def _batches(patches: np.ndarray, regions: np.ndarray, size: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield patches to encode, their number and their regions; the last batch is padded to the fixed size."""
    n = len(patches)
    for start in range(0, n, size):
        rows: slice | np.ndarray = slice(start, start + size)  # a view; only the last batch is copied
        if start + size > n:
            rows = np.arange(start, start + size)
            rows[rows >= n] = start
        yield min(size, n - start), patches[rows], regions[rows]


def _prepare(encoder: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    return fold_batch_norm(encoder).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


@torch.inference_mode()
def _encode(encoder: torch.nn.Module, x: torch.Tensor) -> np.ndarray:
    z: Any = encoder(x).float().cpu().numpy()
    return np.asarray(z, dtype=np.float32)
