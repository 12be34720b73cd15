import pytest
import torch

from mxsplicer.splicer.projector import Projector


@pytest.mark.parametrize("hidden_layers", [0, 2])
def test_every_feature_of_an_embedding_starts_with_about_unit_variance(hidden_layers):
    torch.manual_seed(0)

    e = Projector(64, 200, hidden_layers=hidden_layers)(torch.randn(500, 64))

    assert e.std(dim=0).mean().item() == pytest.approx(1, abs=0.25)
