"""Encoders: patches (B, C, P, P) become representations z (B, d).

The building block is the residual network of He et al. 2016 (arXiv 1512.03385). ``groups=n`` makes n of them, without
any connection between them, that run as one network: channel block i of every layer belongs to network i. This is how
the encoders of all components cost one pass instead of a loop over n networks.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from mxsplicer.errors import InputError, describe_error
from mxsplicer.splicer.convolutions import make_convolution
from mxsplicer.splicer.moment_names import MOMENTS
from mxsplicer.splicer.moments import Moments, WithMoments
from mxsplicer.system.imports import import_by_name, is_importable

SMALL_PATCH_PX = 40  # up to here a patch has no pixels to spare for a stem that shrinks it four times
_EXPANSION = 4  # output channels of a bottleneck block per channel of its inner convolution
_TEXTURED_STAGES = 2
_LEAST_VARIANCE = 1e-4  # of a feature map, so that a constant one has a gradient


class ResNet(nn.Module):
    """``groups`` residual networks, run as one: (B, groups * C, P, P) to (B, groups * 8 * width), or 14 * width.

    ``blocks`` is the number of blocks in each of the four stages. With ``bottleneck`` they are the blocks of three
    convolutions of ResNet-50, and the representation is four times as wide. Patches of at most 40 px get a small stem
    (3 x 3, stride 1, then pooling by 2), larger ones that of the paper (7 x 7, stride 2, then pooling by 2). ``lean``
    replaces convolution and pooling by one convolution, 5 x 5 with stride 2, which avoids the largest feature map.

    The representation is the mean over the last feature maps. With ``texture`` the mean and the standard deviation over
    the feature maps of the first two stages come before it, as Manjunath and Ma (1996) describe texture by those of
    Gabor filters. An early feature map is about a weighted sum of markers, so its variance contains their covariance
    over the pixels, Var(a + b) = Var a + Var b + 2 Cov(a, b): whether two markers lie in the same places of the cell.
    Deviation compared with mean shows how widely a marker is spread. Both fade towards the last feature maps.
    """

    def __init__(
        self,
        in_channels: int,
        patch_px: int,
        *,
        width: int = 64,
        blocks: Sequence[int] = (2, 2, 2, 2),
        groups: int = 1,
        bottleneck: bool = False,
        lean: bool = False,
        texture: bool = False,
    ) -> None:
        super().__init__()
        kernel, stride = (3, 1) if patch_px <= SMALL_PATCH_PX else (7, 2)
        if lean:
            kernel, stride = 5, 2
        self.groups = groups
        channels = groups * width
        self.stem = nn.Sequential(
            *_convolution(groups * in_channels, channels, kernel, stride, groups),
            nn.ReLU(inplace=True),
            nn.Identity() if lean else nn.MaxPool2d(3, stride=2, padding=1),
        )
        layers: list[nn.Module] = []
        ends: dict[int, int] = {}  # index of the last block of each stage: its number of output channels
        for stage, n_blocks in enumerate(blocks):
            for block in range(n_blocks):
                inner, stride = groups * width * 2**stage, 2 if stage and not block else 1
                out = inner * _EXPANSION if bottleneck else inner
                body = _bottleneck if bottleneck else _basic
                layers.append(_Block(body(channels, inner, stride, groups), channels, out, stride, groups))
                channels = out
            if n_blocks:
                ends[len(layers) - 1] = channels
        self.stages = nn.Sequential(*layers)
        self.textured = [*ends][:_TEXTURED_STAGES] if texture else []  # blocks whose feature maps are read
        self.out_features = channels + 2 * sum(ends[number] for number in self.textured)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of earlier stages, if any, and the mean over the last maps, (B, out_features)."""
        x = self.stem(x)
        features: list[Tensor] = []
        for number, block in enumerate(self.stages):
            x = block(x)
            if number in self.textured:
                features += _mean_and_deviation(x)
        features.append(x.mean(dim=(2, 3)))
        # The features of one network are adjacent columns, whatever stage they are from.
        return torch.cat([of_stage.view(len(x), self.groups, -1) for of_stage in features], dim=2).flatten(1)


def _mean_and_deviation(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Pool the maps at the end of an encoder: mean and deviation over pixels of each, (B, C, H, W) to (B, C) each.

    The variance is the mean of squares minus the square of the mean: a fifteenth of the time of PyTorch's own.
    """
    pixels = maps.flatten(2).transpose(1, 2).float()  # (B, H * W, C), the order in memory
    mean = pixels.mean(dim=1)
    variance = pixels.square().mean(dim=1) - mean.square()
    return mean, (variance.clamp(min=0) + _LEAST_VARIANCE).sqrt()


class _Block(nn.Module):
    """A block of a residual encoder: convolutions with a shortcut around them, which are added."""

    def __init__(self, body: nn.Module, channels: int, out: int, stride: int, groups: int) -> None:
        super().__init__()
        self.body = body
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or channels != out:
            self.shortcut = nn.Sequential(*_convolution(channels, out, 1, stride, groups))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def _basic(channels: int, inner: int, stride: int, groups: int) -> nn.Module:
    return nn.Sequential(
        *_convolution(channels, inner, 3, stride, groups),
        nn.ReLU(inplace=True),
        *_convolution(inner, inner, 3, 1, groups),
    )


def _bottleneck(channels: int, inner: int, stride: int, groups: int) -> nn.Module:
    return nn.Sequential(
        *_convolution(channels, inner, 1, 1, groups),
        nn.ReLU(inplace=True),
        # The stride is here and not in the first convolution, which would skip three of four pixels.
        *_convolution(inner, inner, 3, stride, groups),
        nn.ReLU(inplace=True),
        *_convolution(inner, inner * _EXPANSION, 1, 1, groups),
    )


def _convolution(channels: int, out: int, kernel: int, stride: int, groups: int) -> tuple[nn.Module, nn.Module]:
    return make_convolution(channels, out, kernel, stride, groups=groups), nn.BatchNorm2d(out)


class Separable(nn.Module):
    """An encoder of one narrow network per channel, without connections: a feature never mixes two markers."""

    def __init__(self, in_channels: int, patch_px: int, *, width: int = 64, texture: bool = False) -> None:
        super().__init__()
        # An eighth of the width per marker, in one block per stage, keeps the cost near that of the fused encoder.
        narrow, blocks = max(4, width // 8), (1, 1, 1, 1)
        self.network = ResNet(1, patch_px, width=narrow, blocks=blocks, groups=in_channels, texture=texture)
        self.out_features = self.network.out_features

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of all markers, one marker after the other, (B, out_features)."""
        return cast("Tensor", self.network(x))


class Hybrid(nn.Module):
    """A separable encoder and a narrow fused one, which learns features that span markers."""

    def __init__(self, in_channels: int, patch_px: int, *, width: int = 64, texture: bool = False) -> None:
        super().__init__()
        self.separable = Separable(in_channels, patch_px, width=width, texture=texture)
        self.fused = ResNet(in_channels, patch_px, width=max(4, width // 2), texture=texture)
        self.out_features = self.separable.out_features + self.fused.out_features

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of the separable encoder, then those of the fused one, (B, out_features)."""
        return torch.cat([self.separable(x), self.fused(x)], dim=1)


_NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "resnet18": ResNet,
    "resnet34": partial(ResNet, blocks=(3, 4, 6, 3)),
    "resnet50": partial(ResNet, blocks=(3, 4, 6, 3), bottleneck=True),
    "separable": Separable,
    "hybrid": Hybrid,
}
_TEXTURED = _NETWORKS | {
    f"{name}+texture": partial(make, texture=True)
    for name, make in _NETWORKS.items()
    if "texture" in inspect.signature(make).parameters
}


def _with_moments(n_markers: int, patch_px: int, *, make: Callable[..., nn.Module], width: int = 64) -> nn.Module:
    return WithMoments(make(n_markers, patch_px, width=width), n_markers)


def _moments(n_markers: int, patch_px: int, *, width: int = 64) -> nn.Module:  # noqa: ARG001 - they have no width
    return Moments(n_markers)


# (channels, patch_px, width=) -> a module (B, C, P, P) -> (B, d) whose `out_features` is d.
ENCODERS: dict[str, Callable[..., nn.Module]] = (
    _TEXTURED
    | {f"{name}+moments": partial(_with_moments, make=make) for name, make in _TEXTURED.items()}
    | {MOMENTS: _moments}
)


def make_encoder(name: str, n_markers: int, patch_px: int, *, width: int) -> nn.Module:
    """Return an untrained encoder (B, n_markers, P, P) -> (B, d) whose ``out_features`` is d.

    Parameters
    ----------
    name
        A key of :data:`ENCODERS`, or ``"module:Class"``: a user's class, which is imported and called with the number
        of markers, the side of a patch in pixels and, if it takes it, ``width=``. The module that it returns is checked
        on two patches of noise.

    Raises
    ------
    InputError
        If the name is unknown, or the user's module cannot encode patches.

    Examples
    --------
    >>> make_encoder("resnet50", 19, 64, width=8).out_features
    256
    """
    if name in ENCODERS:
        return ENCODERS[name](n_markers, patch_px, width=width)
    if not is_importable(name):
        msg = f"encoder {name!r} not found."
        raise InputError(msg, f"Choose one of {', '.join(ENCODERS)}, or module:Class for a class of your own.")
    make = import_by_name(name, "an encoder", "the number of markers and a patch's side in pixels and return a module")
    try:
        encoder = make(n_markers, patch_px, **({"width": width} if _takes_width(make) else {}))
    except Exception as error:  # the user's class may raise anything
        msg = f"encoder {name!r} could not be made for {n_markers} markers and {patch_px} px: {describe_error(error)}."
        raise InputError(msg) from error
    patches = torch.randn(2, n_markers, patch_px, patch_px, generator=torch.Generator().manual_seed(0))
    if fault := _fault(encoder, patches):
        msg = f"encoder {name!r} {fault}."
        remedy = (
            f"It must be a torch module that takes patches (B, {n_markers}, {patch_px}, {patch_px}) and returns finite "
            "features (B, d); in eval mode those of a patch depend on that patch alone."
        )
        raise InputError(msg, remedy)
    return cast("nn.Module", encoder)


def _fault(encoder: Any, patches: Tensor) -> str:
    """Return why a user's module cannot be an encoder, or "", and set its ``out_features``."""
    if not isinstance(encoder, nn.Module):
        return f"is {type(encoder).__name__}"
    encoder.eval()
    try:
        with torch.no_grad():
            z, again, alone = encoder(patches), encoder(patches), encoder(patches[:1])
    except Exception as error:  # the user's class may raise anything
        return f"fails on patches {tuple(patches.shape)} ({describe_error(error)})"
    encoder.train()
    if not isinstance(z, Tensor) or z.ndim != 2 or len(z) != len(patches):
        return f"returns {tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__} for {len(patches)} patches"
    width = z.shape[1]
    if getattr(encoder, "out_features", width) != width:
        return f"has out_features {encoder.out_features} and returns {width}"
    encoder.out_features = width  # type: ignore[assignment]
    addresses = {key: tensor.data_ptr() for key, tensor in encoder.state_dict().items() if tensor.numel()}
    twice = [key for key, where in addresses.items() if list(addresses.values()).count(where) > 1]
    if twice:
        return f"has the same weights under several names ({', '.join(twice)}), which cannot be saved"
    faults = {
        "returns numbers that are not finite": not torch.isfinite(z).all(),
        "returns different features at every call in eval mode": not torch.equal(z, again),
        "mixes patches: the features of one depend on another": not torch.allclose(z[:1], alone, rtol=1e-3, atol=1e-4),
    }
    return next((fault for fault, found in faults.items() if found), "")


def _takes_width(make: Callable[..., Any]) -> bool:
    parameters: Mapping[str, inspect.Parameter] = inspect.signature(make).parameters
    return "width" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
