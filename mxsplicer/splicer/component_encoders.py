"""The encoders and projectors of all components, as one network: used in training only."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mxsplicer.splicer.encoders import SMALL_PATCH_PX, ResNet

# The network of a component: the arguments of :class:`~mxsplicer.splicer.encoders.ResNet`.
COMPONENT_ENCODERS: dict[str, dict[str, Any]] = {
    "lean": {"blocks": (0, 1, 1, 1), "lean": True},
    "resnet18": {},  # the paper's, at width 64
}
_WIDE = 32  # from this width on, separate networks are faster than one grouped network


class ComponentEncoders(nn.Module):
    """The encoder and projector of every component: (B, n, C, P, P) to (B, n, D).

    Each component has its own weights and ends in an embedding as wide as its chunk (SpliCER, arXiv 2503.07444). Narrow
    networks run as one grouped network. Wide ones, which keep a processor busy by themselves, run one after the other,
    as do those of which a step trains only some.

    Lean encoders see patches of more than 40 px at half the resolution, ``view_px``; larger input is averaged.
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
        self.view_px = patch_px // 2 if kind == "lean" and patch_px > SMALL_PATCH_PX else patch_px
        at_once = 1 if one_by_one or width >= _WIDE else n_components
        self.networks = nn.ModuleList(
            _make_network(at_once, channels, self.view_px, chunk_width, kind=kind, width=width)
            for _ in range(n_components // at_once)
        )

    def forward(self, components: Tensor, selected: Sequence[int] | None = None) -> Tensor:
        """Return the embeddings of all components, or of the ``selected`` ones, (B, k, D)."""
        if components.shape[-1] > self.view_px:
            pooled = nn.functional.adaptive_avg_pool2d(components.flatten(1, 2), self.view_px)
            components = pooled.view(*components.shape[:3], *pooled.shape[2:])
        inputs = components.chunk(len(self.networks), dim=1)
        wanted = range(len(inputs)) if selected is None or len(selected) == self.n_components else selected
        e = [self.networks[i](inputs[i].flatten(1, 2).contiguous(memory_format=torch.channels_last)) for i in wanted]
        if len(e) < len(self.networks):
            # Processes that train one model together wait for the gradient of every weight: here it is 0.
            idle = (network for i, network in enumerate(self.networks) if i not in wanted)
            e[0] = e[0] + 0 * sum(weight.sum() for network in idle for weight in network.parameters())
        return torch.cat(e, dim=1).view(len(components), -1, e[0].shape[1] * len(inputs) // self.n_components)


def _make_network(n: int, channels: int, patch_px: int, chunk_width: int, *, kind: str, width: int) -> nn.Sequential:
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
    """The linear layers of n component encoders, each on its own n-th of the features: (B, n * d) to (B, n * D)."""

    def __init__(self, groups: int, in_features: int, out_features: int, *, bias: bool = True) -> None:
        super().__init__()
        bound = (6 / in_features) ** 0.5  # He et al. 2015: after a ReLU, every feature starts with variance 1
        self.weight = nn.Parameter(torch.empty(groups, in_features, out_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(groups, 1, out_features).uniform_(-bound, bound)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        per_group = x.view(len(x), self.weight.shape[0], -1).transpose(0, 1)  # (n, B, d)
        out = torch.bmm(per_group, self.weight)  # (n, B, D)
        if self.bias is not None:
            out = out + self.bias
        return out.transpose(0, 1).flatten(1)
