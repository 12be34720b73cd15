import pytest
import torch

from mxsplicer.splicer.encoders import ENCODERS, ComponentEncoders, Projector, ResNet


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("patch_px", [16, 32, 64])
def test_every_encoder_returns_as_many_features_as_it_says(name, patch_px):
    encoder = ENCODERS[name](3, patch_px, width=8)

    assert encoder(torch.randn(2, 3, patch_px, patch_px)).shape == (2, encoder.out_features)


def test_the_default_encoder_is_as_large_as_resnet18():
    encoder = ResNet(3, 64)

    # He et al. 2016, table 1: 11.7 M weights with a classifier of 512 x 1000 + 1000.
    assert sum(p.numel() for p in encoder.parameters()) == 11_689_512 - 513_000
    assert encoder.out_features == 512


@pytest.mark.parametrize("lean", [False, True])
def test_grouped_networks_do_not_see_each_other(lean):
    network = ResNet(1, 32, width=4, blocks=(1, 1), groups=3, lean=lean).eval()
    x = torch.randn(2, 3, 32, 32)
    changed = x.clone()
    changed[:, 1] += 1

    before, after = network(x).view(2, 3, -1), network(changed).view(2, 3, -1)

    torch.testing.assert_close(before[:, [0, 2]], after[:, [0, 2]])
    assert not torch.allclose(before[:, 1], after[:, 1])


def test_a_component_embedding_depends_on_its_component_alone():
    encoders = ComponentEncoders(3, 2, 32, chunk_width=6, width=4)
    components = torch.randn(4, 3, 2, 32, 32)
    changed = components.clone()
    changed[:, 2] += 1

    before, after = encoders(components), encoders(changed)

    assert before.shape == (4, 3, 6)
    torch.testing.assert_close(before[:, :2], after[:, :2])
    assert not torch.allclose(before[:, 2], after[:, 2])


def test_a_separable_encoder_keeps_the_markers_apart():
    encoder = ENCODERS["separable"](3, 32, width=32).eval()
    x = torch.randn(2, 3, 32, 32)
    changed = x.clone()
    changed[:, 0] += 1

    before, after = encoder(x).view(2, 3, -1), encoder(changed).view(2, 3, -1)

    torch.testing.assert_close(before[:, 1:], after[:, 1:])


@pytest.mark.parametrize("hidden_layers", [0, 2])
def test_an_embedding_begins_with_about_unit_variance(hidden_layers):
    torch.manual_seed(0)

    e = Projector(64, 200, hidden_layers=hidden_layers)(torch.randn(500, 64))

    assert e.std(dim=0).mean().item() == pytest.approx(1, abs=0.25)
