"""Encoders: patches (B, C, P, P) become representations (B, d); projectors; all component encoders as one network.

The building block is the residual network of He et al. 2016 (arXiv 1512.03385) with basic blocks. ``groups=n`` makes n
of them, side by side and without a connection, that run as one network: channel block i of every layer belongs to
network i. This is how the components' encoders cost one pass instead of a loop over n networks.
"""

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

_SMALL_PATCH_PX = 40  # up to here a patch has no pixels to spare for a stem that shrinks it four times


class ResNet(nn.Module):
    """``groups`` residual networks with basic blocks, run as one: (B, groups * C, P, P) to (B, groups * 8 * width).

    Patches of at most 40 px get a small stem (3 x 3, stride 1, then a 2 x pool), larger ones that of the paper
    (7 x 7, stride 2, then a 2 x pool). ``lean`` replaces convolution and pool by one convolution of the same reach and
    stride, which spares the largest feature map.
    """

    def __init__(
        self,
        in_channels: int,
        patch_px: int,
        *,
        width: int = 64,
        blocks: Sequence[int] = (2, 2, 2, 2),
        groups: int = 1,
        lean: bool = False,
    ) -> None:
        super().__init__()
        kernel, stride = (3, 1) if patch_px <= _SMALL_PATCH_PX else (7, 2)
        if lean:
            kernel, stride = kernel + 2, stride * 2
        channels = groups * width
        self.stem = nn.Sequential(
            nn.Conv2d(groups * in_channels, channels, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Identity() if lean else nn.MaxPool2d(3, stride=2, padding=1),
        )
        layers: list[nn.Module] = []
        for stage, n_blocks in enumerate(blocks):
            for block in range(n_blocks):
                out = groups * width * 2**stage
                layers.append(_BasicBlock(channels, out, stride=2 if stage and not block else 1, groups=groups))
                channels = out
        self.stages = nn.Sequential(*layers)
        self.out_features = channels

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean over the last feature map, (B, out_features)."""
        return cast("Tensor", self.stages(self.stem(x)).mean(dim=(2, 3)))


class _BasicBlock(nn.Module):
    def __init__(self, channels: int, out: int, *, stride: int, groups: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, out, 3, stride, 1, groups=groups, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(inplace=True),
            nn.Conv2d(out, out, 3, 1, 1, groups=groups, bias=False),
            nn.BatchNorm2d(out),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or channels != out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, groups=groups, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class Separable(nn.Module):
    """One narrow network per channel and nothing between them: a feature never mixes two markers."""

    def __init__(self, in_channels: int, patch_px: int, *, width: int = 64) -> None:
        super().__init__()
        # An eighth of the width per marker, in one block per stage, keeps the cost near that of the fused encoder.
        self.network = ResNet(1, patch_px, width=max(4, width // 8), blocks=(1, 1, 1, 1), groups=in_channels)
        self.out_features = self.network.out_features

    def forward(self, x: Tensor) -> Tensor:
        """Return the markers' features side by side, (B, out_features)."""
        return cast("Tensor", self.network(x))


class Hybrid(nn.Module):
    """A separable encoder and a thin fused one side by side, for what spans markers."""

    def __init__(self, in_channels: int, patch_px: int, *, width: int = 64) -> None:
        super().__init__()
        self.separable = Separable(in_channels, patch_px, width=width)
        self.fused = ResNet(in_channels, patch_px, width=max(4, width // 2))
        self.out_features = self.separable.out_features + self.fused.out_features

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of both, (B, out_features)."""
        return torch.cat([self.separable(x), self.fused(x)], dim=1)


# (channels, patch_px, width=) -> a module (B, C, P, P) -> (B, d) that knows its d as `out_features`.
ENCODERS: dict[str, Callable[..., nn.Module]] = {"resnet18": ResNet, "separable": Separable, "hybrid": Hybrid}


class Projector(nn.Sequential):
    """From a representation (B, d) to an embedding (B, D): hidden layers with batch norm and ReLU, then a linear one.

    Without hidden layers an embedding can only hold what z shows linearly; so what a chunk learns is in z for a linear
    probe, a correlation or a neighbour search to find.
    """

    def __init__(self, in_features: int, out_features: int, *, hidden_layers: int = 0, hidden: int = 1024) -> None:
        layers: list[nn.Module] = []
        width = in_features
        for _ in range(hidden_layers):
            layers += [nn.Linear(width, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True)]
            width = hidden
        if not hidden_layers:
            layers.append(nn.BatchNorm1d(width))
        last = nn.Linear(width, out_features)
        # Every feature begins with variance 1, where VICReg wants it; a ReLU halves what reaches it (He et al. 2015).
        nn.init.normal_(last.weight, std=((2 if hidden_layers else 1) / width) ** 0.5)
        super().__init__(*layers, last)


class ComponentEncoders(nn.Module):
    """The encoder and projector of every component, as one network: (B, n, C, P, P) to (B, n, D).

    Each component has its own weights and ends in an embedding as wide as its chunk (SpliCER, arXiv 2503.07444). They
    are narrower than the primary encoder: a component shows one marker, and their cost grows with their number.
    """

    def __init__(self, n_components: int, channels: int, patch_px: int, chunk_width: int, *, width: int = 8) -> None:
        super().__init__()
        self.encoder = ResNet(channels, patch_px, width=width, blocks=(1, 1, 1, 1), groups=n_components, lean=True)
        per_component = self.encoder.out_features // n_components
        self.n_components = n_components
        self.projector = nn.Sequential(
            _GroupedLinear(n_components, per_component, chunk_width, bias=False),
            nn.BatchNorm1d(n_components * chunk_width),
            nn.ReLU(inplace=True),
            _GroupedLinear(n_components, chunk_width, chunk_width),
        )

    def forward(self, components: Tensor) -> Tensor:
        """Return the embedding of every component, (B, n, D)."""
        z = self.encoder(components.flatten(1, 2).contiguous(memory_format=torch.channels_last))  # (B, n * d)
        e: Tensor = self.projector(z)
        return e.view(len(e), self.n_components, -1)


class _GroupedLinear(nn.Module):
    """n linear layers, each on its own n-th of the features: (B, n * d) to (B, n * D)."""

    def __init__(self, groups: int, in_features: int, out_features: int, *, bias: bool = True) -> None:
        super().__init__()
        bound = (6 / in_features) ** 0.5  # He et al. 2015: behind a ReLU, every feature begins with variance 1
        self.weight = nn.Parameter(torch.empty(groups, in_features, out_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(groups, 1, out_features).uniform_(-bound, bound)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        per_group = x.view(len(x), self.weight.shape[0], -1).transpose(0, 1)  # (n, B, d)
        out = torch.bmm(per_group, self.weight)  # (n, B, D)
        if self.bias is not None:
            out = out + self.bias
        return out.transpose(0, 1).flatten(1)
