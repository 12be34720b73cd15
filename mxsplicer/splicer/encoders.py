"""Encoders: patches (B, C, P, P) become representations (B, d); projectors; all component encoders as one network.

The building block is the residual network of He et al. 2016 (arXiv 1512.03385). ``groups=n`` makes n of them, side by
side and without a connection, that run as one network: channel block i of every layer belongs to network i. This is
how the components' encoders cost one pass instead of a loop over n networks.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mxsplicer.errors import InputError
from mxsplicer.system.imports import describe_error, import_by_name, is_importable

_LANES = 16  # channels that a processor computes at once
_EXPANSION = 4  # of a block with a bottleneck: what it returns, beside what its inner convolution sees
_TEXTURED_STAGES = 2
_LEAST_VARIANCE = 1e-4  # of a map, so that one without any has a gradient
_SMALL_PATCH_PX = 40  # up to here a patch has no pixels to spare for a stem that shrinks it four times


class ResNet(nn.Module):
    """``groups`` residual networks, run as one: (B, groups * C, P, P) to (B, groups * 8 * width), or 14 * width.

    ``blocks`` says how many there are in each of the four stages. With ``bottleneck`` they are the blocks of three
    convolutions of ResNet-50, and the representation is four times as wide. Patches of at most 40 px get a small stem
    (3 x 3, stride 1, then a 2 x pool), larger ones that of the paper (7 x 7, stride 2, then a 2 x pool). ``lean``
    replaces convolution and pool by one convolution, 5 x 5 with stride 2, which spares the largest feature map.

    The representation is the mean over the last feature map. With ``texture`` the mean and the standard deviation over
    the maps of the first two stages come before it, as Manjunath and Ma (1996) describe texture by those of Gabor
    filters. Such a map is about a weighted sum of markers, and its variance holds their covariance over the pixels,
    Var(a + b) = Var a + Var b + 2 Cov(a, b): whether two markers lie in the same places of the cell. How much a marker
    is spread out shows in deviation beside mean. Both fade on the way to the last map.
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
        kernel, stride = (3, 1) if patch_px <= _SMALL_PATCH_PX else (7, 2)
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
        ends: dict[int, int] = {}  # number of the last block of each stage, and how many channels it returns
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
        self.textured = [*ends][:_TEXTURED_STAGES] if texture else []  # blocks whose maps are read
        self.out_features = channels + 2 * sum(ends[number] for number in self.textured)

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean over the last feature map, behind what is read of earlier ones, (B, out_features)."""
        x = self.stem(x)
        read: list[Tensor] = []
        for number, block in enumerate(self.stages):
            x = block(x)
            if number in self.textured:
                read += _mean_and_deviation(x)
        read.append(x.mean(dim=(2, 3)))
        # The features of one network run together, whatever stage they are from.
        return torch.cat([of_stage.view(len(x), self.groups, -1) for of_stage in read], dim=2).flatten(1)


def _mean_and_deviation(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation over the pixels of every map, (B, C, H, W) to (B, C) each.

    The variance as the mean of squares less the square of the mean, a fifteenth of the time of PyTorch's own.
    """
    pixels = maps.flatten(2).transpose(1, 2).float()  # (B, H * W, C): as they lie in memory
    mean = pixels.mean(dim=1)
    variance = pixels.square().mean(dim=1) - mean.square()
    return mean, (variance.clamp(min=0) + _LEAST_VARIANCE).sqrt()


class _Block(nn.Module):
    """A body of convolutions beside a shortcut."""

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
        # The stride is here and not in the first convolution, which would leave three of four pixels unseen.
        *_convolution(inner, inner, 3, stride, groups),
        nn.ReLU(inplace=True),
        *_convolution(inner, inner * _EXPANSION, 1, 1, groups),
    )


def _convolution(channels: int, out: int, kernel: int, stride: int, groups: int) -> tuple[nn.Module, nn.Module]:
    make: type[nn.Conv2d] = nn.Conv2d
    if groups > 1:
        make = _GroupedConvolution
    elif (kernel, stride) == (3, 1):
        make = _Convolution3x3
    elif kernel == 1 and stride > 1:
        make = _StridedConvolution1x1
    return make(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(out)


def _convolve(convolution: nn.Conv2d, x: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Return a convolution; one of 1 x 1 drops the pixels its stride passes over before it multiplies.

    PyTorch 2.13's own kernel for it (oneDNN) writes beyond its memory in the backward pass of a batch of odd size, few
    channels and channels last, on two threads or more.
    """
    stride, bias = convolution.stride, convolution.bias
    if convolution.kernel_size == (1, 1):
        return nn.functional.conv2d(x[..., :: stride[0], :: stride[1]], weight, bias, groups=groups)
    return nn.functional.conv2d(x, weight, bias, stride, convolution.padding, groups=groups)


class _StridedConvolution1x1(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002, as in the base class
        return _convolve(self, input, self.weight, 1)


class _GroupedConvolution(nn.Conv2d):
    """A convolution of narrow groups, some of which a processor computes as one, with zeros where they do not meet.

    A vector of a processor holds 16 channels whether there are 4 or 16. For 38 groups of 4 the stem takes half of the
    time so, the others three quarters; the numbers differ in rounding only.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002, as in the base class
        width = self.out_channels // self.groups
        merged = next(m for m in (4, 2, 1) if m == 1 or (m * width <= _LANES and self.groups % m == 0))
        if merged == 1 or input.device.type != "cpu":
            return _convolve(self, input, self.weight, self.groups)
        per_group = self.weight.view(-1, merged, width, 1, *self.weight.shape[1:])  # (g, m, out, 1, in, k, k)
        same = torch.eye(merged, device=input.device)[:, None, :, None, None, None]
        weight = (per_group * same).flatten(3, 4).flatten(0, 2)  # (g * m * out, m * in, k, k)
        return _convolve(self, input, weight.contiguous(memory_format=torch.channels_last), self.groups // merged)


class _Convolution3x3(nn.Conv2d):
    """A convolution that knows a shorter way over maps of 2 x 2, which the last stage of a small patch has.

    There five of nine products are with the padding. As one matrix from four pixels to four it takes, on a processor
    and for 192 patches, 0.6 of the time; the numbers differ in rounding only.
    """

    is_final = False  # whether weights do not change any more, so that the matrix is made once
    _matrix: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002, as in the base class
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


def folded(encoder: nn.Module) -> nn.Module:
    """Return a copy of a trained encoder with every batch norm folded into the convolution before it, for embedding.

    It computes the same but for rounding, in fewer passes over memory.
    """
    copy = deepcopy(encoder).eval()
    for module in [*copy.modules()]:
        if isinstance(module, nn.Sequential):
            for i, (convolution, norm) in enumerate(pairwise([*module])):
                if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    module[i], module[i + 1] = fuse_conv_bn_eval(convolution, norm), nn.Identity()
    for module in copy.modules():
        if isinstance(module, _Convolution3x3):
            module.is_final = True
    return copy


class Separable(nn.Module):
    """One narrow network per channel and nothing between them: a feature never mixes two markers."""

    def __init__(self, in_channels: int, patch_px: int, *, width: int = 64, texture: bool = False) -> None:
        super().__init__()
        # An eighth of the width per marker, in one block per stage, keeps the cost near that of the fused encoder.
        narrow, blocks = max(4, width // 8), (1, 1, 1, 1)
        self.network = ResNet(1, patch_px, width=narrow, blocks=blocks, groups=in_channels, texture=texture)
        self.out_features = self.network.out_features

    def forward(self, x: Tensor) -> Tensor:
        """Return the markers' features side by side, (B, out_features)."""
        return cast("Tensor", self.network(x))


class Hybrid(nn.Module):
    """A separable encoder and a thin fused one side by side, for what spans markers."""

    def __init__(self, in_channels: int, patch_px: int, *, width: int = 64, texture: bool = False) -> None:
        super().__init__()
        self.separable = Separable(in_channels, patch_px, width=width, texture=texture)
        self.fused = ResNet(in_channels, patch_px, width=max(4, width // 2), texture=texture)
        self.out_features = self.separable.out_features + self.fused.out_features

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of both, (B, out_features)."""
        return torch.cat([self.separable(x), self.fused(x)], dim=1)


_NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "resnet18": ResNet,
    "resnet34": partial(ResNet, blocks=(3, 4, 6, 3)),
    "resnet50": partial(ResNet, blocks=(3, 4, 6, 3), bottleneck=True),
    "separable": Separable,
    "hybrid": Hybrid,
}
# (channels, patch_px, width=) -> a module (B, C, P, P) -> (B, d) that knows its d as `out_features`.
ENCODERS: dict[str, Callable[..., nn.Module]] = _NETWORKS | {
    f"{name}+texture": partial(make, texture=True)
    for name, make in _NETWORKS.items()
    if "texture" in inspect.signature(make).parameters
}


def make_encoder(name: str, n_markers: int, patch_px: int, *, width: int) -> nn.Module:
    """Return an untrained encoder (B, n_markers, P, P) -> (B, d) that knows its d as ``out_features``.

    Parameters
    ----------
    name
        A key of :data:`ENCODERS`, or ``"module:Class"``: a class of the user's own, which is imported and called with
        the number of markers, the side of a patch in pixels and, if it takes it, ``width=``. What comes out of
        it is checked on two patches of noise.

    Raises
    ------
    InputError
        If there is no such encoder, or the class's module is none that patches can pass.

    Examples
    --------
    >>> make_encoder("resnet50", 19, 64, width=8).out_features
    256
    """
    if name in ENCODERS:
        return ENCODERS[name](n_markers, patch_px, width=width)
    if not is_importable(name):
        msg = f"there is no encoder {name!r}; there are {', '.join(ENCODERS)}, and module:Class for one of your own."
        raise InputError(msg)
    make = import_by_name(name, "an encoder", "the number of markers and a patch's side in pixels and return a module")
    try:
        encoder = make(n_markers, patch_px, **({"width": width} if _takes_width(make) else {}))
    except Exception as error:  # whatever is wrong in the user's class
        msg = f"encoder {name!r} could not be made for {n_markers} markers and {patch_px} px: {describe_error(error)}."
        raise InputError(msg) from error
    patches = torch.randn(2, n_markers, patch_px, patch_px, generator=torch.Generator().manual_seed(0))
    if fault := _fault(encoder, patches):
        msg = (
            f"encoder {name!r} {fault}; it has to be a torch module that takes patches (B, {n_markers}, {patch_px}, "
            f"{patch_px}) and returns features (B, d), finite, and in eval mode of each patch by itself."
        )
        raise InputError(msg)
    return cast("nn.Module", encoder)


def _fault(encoder: Any, patches: Tensor) -> str:
    """Return why a user's own module cannot serve as an encoder, or nothing, and note the width of what it returns."""
    if not isinstance(encoder, nn.Module):
        return f"is {type(encoder).__name__}"
    encoder.eval()
    try:
        with torch.no_grad():
            z, again, alone = encoder(patches), encoder(patches), encoder(patches[:1])
    except Exception as error:  # whatever is wrong in the user's class
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
        return f"holds the same weights under several names ({', '.join(twice)}), which cannot be saved"
    faults = {
        "returns numbers that are not finite": not torch.isfinite(z).all(),
        "returns something else at every call in eval mode": not torch.equal(z, again),
        "sees in one patch what is in another": not torch.allclose(z[:1], alone, rtol=1e-3, atol=1e-4),
    }
    return next((fault for fault, found in faults.items() if found), "")


def _takes_width(make: Callable[..., Any]) -> bool:
    parameters: Mapping[str, inspect.Parameter] = inspect.signature(make).parameters
    return "width" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


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


# What a component's encoder is built of: the arguments of :class:`ResNet`.
COMPONENT_ENCODERS: dict[str, dict[str, Any]] = {
    "lean": {"blocks": (0, 1, 1, 1), "lean": True},
    "resnet18": {},  # the paper's, at width 64
}
_WIDE = 32  # from here on networks one by one are faster than one grouped network


class ComponentEncoders(nn.Module):
    """The encoder and projector of every component: (B, n, C, P, P) to (B, n, D).

    Each component has its own weights and ends in an embedding as wide as its chunk (SpliCER, arXiv 2503.07444). Narrow
    ones run as one grouped network; wide ones, which keep a processor busy by themselves, one after the other, as do
    those of which only some are trained in a step.

    Lean ones look at patches of more than 40 px at half the resolution, ``view_px``; what comes larger is averaged.
    """

    def __init__(
        self,
        n_components: int,
        channels: int,
        patch_px: int,
        chunk_width: int,
        *,
        kind: str = "lean",
        width: int = 8,
        one_by_one: bool = False,
    ) -> None:
        super().__init__()
        self.n_components = n_components
        self.view_px = patch_px // 2 if kind == "lean" and patch_px > _SMALL_PATCH_PX else patch_px
        at_once = 1 if one_by_one or width >= _WIDE else n_components
        self.networks = nn.ModuleList(
            _side_by_side(at_once, channels, self.view_px, chunk_width, kind=kind, width=width)
            for _ in range(n_components // at_once)
        )

    def forward(self, components: Tensor, some: Sequence[int] | None = None) -> Tensor:
        """Return the embedding of every component, or of some of them, (B, k, D)."""
        if components.shape[-1] > self.view_px:
            pooled = nn.functional.adaptive_avg_pool2d(components.flatten(1, 2), self.view_px)
            components = pooled.view(*components.shape[:3], *pooled.shape[2:])
        parts = components.chunk(len(self.networks), dim=1)
        wanted = range(len(parts)) if some is None or len(some) == self.n_components else some
        e = [self.networks[i](parts[i].flatten(1, 2).contiguous(memory_format=torch.channels_last)) for i in wanted]
        if len(e) < len(self.networks):
            # Processes that train one model together wait for the gradient of every weight: here it is 0.
            resting = (network for i, network in enumerate(self.networks) if i not in wanted)
            e[0] = e[0] + 0 * sum(weight.sum() for network in resting for weight in network.parameters())
        return torch.cat(e, dim=1).view(len(components), -1, e[0].shape[1] * len(parts) // self.n_components)


def _side_by_side(n: int, channels: int, patch_px: int, chunk_width: int, *, kind: str, width: int) -> nn.Sequential:
    """Return n encoders with their projectors as one network, (B, n * C, P, P) to (B, n * D)."""
    encoder = ResNet(channels, patch_px, width=width, groups=n, **COMPONENT_ENCODERS[kind])
    return nn.Sequential(
        encoder,
        _GroupedLinear(n, encoder.out_features // n, chunk_width, bias=False),
        nn.BatchNorm1d(n * chunk_width),
        nn.ReLU(inplace=True),
        _GroupedLinear(n, chunk_width, chunk_width),
    )


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
