"""The projector g: representations z (B, d) become embeddings e (B, D), on which the loss is computed."""

import torch
from torch import Tensor, nn


class Projector(nn.Sequential):
    """Hidden layers with batch norm and ReLU, then a linear layer: (B, d) to (B, D).

    Without hidden layers an embedding is linear in z. So what a chunk learns can be read from z by a linear probe, a
    correlation or a neighbour search.
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
        # Every feature starts with variance 1, the target of VICReg; a ReLU halves what reaches it (He et al. 2015).
        nn.init.normal_(last.weight, std=((2 if hidden_layers else 1) / width) ** 0.5)
        super().__init__(*layers, last)

    @torch.no_grad()
    def follow(self, shift: Tensor, factor: Tensor) -> None:
        """Return the same embeddings of ``(z - shift) * factor`` as of z before; both (d,).

        Batch norm standardises z, so only its running statistics change. With hidden layers nothing does: such a
        projector is stored to be looked at, and nothing is read from it.
        """
        norm = self[0]
        if isinstance(norm, nn.BatchNorm1d) and norm.running_mean is not None and norm.running_var is not None:
            norm.running_mean.sub_(shift).mul_(factor)
            norm.running_var.mul_(factor.square())
