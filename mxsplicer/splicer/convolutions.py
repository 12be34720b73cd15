"""Convolutions that compute the same as PyTorch's on a processor, in less time or without its faults.

Nothing here belongs to the method: every layer could be an ``nn.Conv2d``, and on a GPU it computes as one. The numbers
differ in rounding only, and the weights are stored alike.
"""

from copy import deepcopy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_LANES = 16  # channels that a processor computes at once


def make_convolution(channels: int, out: int, kernel: int, stride: int, *, groups: int = 1) -> nn.Conv2d:
    """Return a convolution without bias, padded by half its kernel, as the class that computes it fastest."""
    make: type[nn.Conv2d] = nn.Conv2d
    if groups > 1:
        make = GroupedConvolution
    elif (kernel, stride) == (3, 1):
        make = Convolution3x3
    elif kernel == 1 and stride > 1:
        make = StridedConvolution1x1
    return make(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False)


def fold_batch_norm(encoder: nn.Module) -> nn.Module:
    """Return a copy of a trained encoder with every batch norm folded into the convolution before it.

    It computes the same except for rounding, in fewer passes over memory.
    """
    copy = deepcopy(encoder).eval()
    for module in [*copy.modules()]:
        if isinstance(module, nn.Sequential):
            for i, (convolution, norm) in enumerate(pairwise([*module])):
                if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    module[i], module[i + 1] = fuse_conv_bn_eval(convolution, norm), nn.Identity()
    for module in copy.modules():
        if isinstance(module, Convolution3x3):
            module.is_final = True
    return copy


class StridedConvolution1x1(nn.Conv2d):
    """A 1 x 1 convolution that drops the pixels its stride skips before it multiplies."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002, as in the base class
        """Return the feature maps (B, out, H, W)."""
        return _convolve(self, input, self.weight, 1)


class GroupedConvolution(nn.Conv2d):
    """A convolution of narrow groups, some of which are computed as one, with zero weights between them.

    A vector of a processor holds 16 channels, whether 4 or 16 of them are used. For 38 groups of 4 channels the stem
    takes half the time this way, the other layers three quarters.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002, as in the base class
        """Return the feature maps (B, out, H, W)."""
        width = self.out_channels // self.groups
        merged = next(m for m in (4, 2, 1) if m == 1 or (m * width <= _LANES and self.groups % m == 0))
        if merged == 1 or input.device.type != "cpu":
            return _convolve(self, input, self.weight, self.groups)
        per_group = self.weight.view(-1, merged, width, 1, *self.weight.shape[1:])  # (g, m, out, 1, in, k, k)
        same = torch.eye(merged, device=input.device)[:, None, :, None, None, None]
        weight = (per_group * same).flatten(3, 4).flatten(0, 2)  # (g * m * out, m * in, k, k)
        return _convolve(self, input, weight.contiguous(memory_format=torch.channels_last), self.groups // merged)


class Convolution3x3(nn.Conv2d):
    """A 3 x 3 convolution that multiplies by one matrix on maps of 2 x 2, which the last stage of a small patch has.

    There, five of nine products are with the padding. One matrix from four pixels to four takes 0.6 of the time, on a
    processor and for 192 patches.
    """

    is_final = False  # whether the weights no longer change, so that the matrix is made once
    _matrix: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002, as in the base class
        """Return the feature maps (B, out, H, W)."""
        if input.shape[-2:] != (2, 2) or input.device.type != "cpu":
            return super().forward(input)
        matrix = self._as_matrix(input.dtype) if self._matrix is None else self._matrix
        if self.is_final:
            self._matrix = matrix
        flat = input.permute(0, 2, 3, 1).flatten(1)  # (B, 4 * in)
        bias = None if self.bias is None else self.bias.repeat(4)
        return nn.functional.linear(flat, matrix, bias).view(len(input), 2, 2, -1).permute(0, 3, 1, 2)

    def _as_matrix(self, dtype: torch.dtype) -> Tensor:
        """Return the weights as a matrix (4 * out, 4 * in)."""
        places = [(y, x) for y in range(2) for x in range(2)]
        taps = self.weight.to(dtype).permute(2, 3, 0, 1).flatten(0, 1).unbind()  # 9 of (out, in)
        rows = [torch.cat([taps[3 * (v - y) + u - x + 4] for v, u in places], dim=1) for y, x in places]
        return torch.cat(rows)


def _convolve(convolution: nn.Conv2d, x: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Compute a convolution; one of 1 x 1 drops the pixels its stride skips before it multiplies.

    PyTorch 2.13's own kernel for it (oneDNN) writes beyond its memory in the backward pass of a batch of odd size, few
    channels and channels last, on two threads or more.
    """
    stride, bias = convolution.stride, convolution.bias
    if convolution.kernel_size == (1, 1):
        return nn.functional.conv2d(x[..., :: stride[0], :: stride[1]], weight, bias, groups=groups)
    return nn.functional.conv2d(x, weight, bias, stride, convolution.padding, groups=groups)
