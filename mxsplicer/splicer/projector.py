"""The projector g: representations z (B, d) become embeddings e (B, D), on which the loss is computed."""

import torch
from torch import Tensor, nn

_RIDGE = 1e-4  # variance of a standardised feature that a regression on it adds


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
    def follow(self, before: Tensor, after: Tensor) -> None:
        """Return about the same embeddings of z as it is ``after`` a change of the encoder as of z ``before``.

        ``before`` and ``after`` are z of the same cells, (n, d): the first is expressed by the second, by least
        squares. With hidden layers nothing changes: such a projector is stored to be looked at, and nothing is read
        from it.
        """
        norm, last = self[0], self[-1]
        if not isinstance(norm, nn.BatchNorm1d) or not isinstance(last, nn.Linear):
            return
        old, new = norm.eval()(before), after - after.mean(dim=0)
        variance = new.square().mean(dim=0)
        new = new / (variance + norm.eps).sqrt()
        gram = new.T @ new
        gram.diagonal().add_(_RIDGE * len(new))
        by_new = torch.linalg.solve(gram, new.T @ (old - old.mean(dim=0)))  # (d, d)
        last.bias.add_(last.weight @ old.mean(dim=0))
        last.weight.copy_(last.weight @ by_new.T)
        norm.running_mean = after.mean(dim=0)
        norm.running_var = variance
