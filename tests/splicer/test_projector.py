import pytest
import torch

from mxsplicer.splicer.projector import Projector


@pytest.mark.parametrize("hidden_layers", [0, 2])
def test_every_feature_of_an_embedding_starts_with_about_unit_variance(hidden_layers):
    torch.manual_seed(0)

    e = Projector(64, 200, hidden_layers=hidden_layers)(torch.randn(500, 64))

    assert e.std(dim=0).mean().item() == pytest.approx(1, abs=0.25)


def test_embeddings_stay_the_same_when_the_representation_is_expressed_otherwise():
    torch.manual_seed(0)
    projector = Projector(8, 20)
    projector(torch.randn(500, 8))  # so that batch norm knows a mean and a variance
    before = torch.randn(500, 8)
    after = before @ torch.randn(8, 8) + torch.randn(8)
    with torch.no_grad():
        expected = projector.eval()(before)
        projector.follow(before, after)
        torch.testing.assert_close(projector(after), expected, atol=0.02, rtol=0.02)
