import sys

import pytest
import torch

from mxsplicer.errors import InputError
from mxsplicer.splicer.encoders import ENCODERS, ResNet, Separable, make_encoder
from mxsplicer.splicer.moment_names import MOMENTS


@pytest.fixture(params=ENCODERS)
def encoder(request):
    torch.manual_seed(0)
    return make_encoder(request.param, 3, 32, width=8)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("patch_px", [16, 32, 40, 64])
def test_every_encoder_returns_as_many_features_as_it_says(name, patch_px):
    encoder = ENCODERS[name](3, patch_px, width=8)

    assert encoder(torch.randn(2, 3, patch_px, patch_px)).shape == (2, encoder.out_features)


def test_every_encoder_sees_each_patch_by_itself_once_it_is_trained(encoder):
    x = torch.randn(4, 3, 32, 32)
    encoder(x)  # batch norm has met other numbers than at its birth
    encoder.eval()

    with torch.no_grad():
        torch.testing.assert_close(encoder(x)[:1], encoder(x[:1]), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(encoder(x), encoder(x), rtol=0, atol=0)


@pytest.mark.parametrize("name", [name for name in ENCODERS if name != MOMENTS])
def test_every_weight_of_every_encoder_learns(name):
    encoder = make_encoder(name, 3, 32, width=8)
    encoder = getattr(encoder, "learned", encoder)
    encoder(torch.randn(4, 3, 32, 32)).pow(2).sum().backward()

    still = [name for name, weight in encoder.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert still == []


def test_every_encoder_but_the_separable_one_mixes_markers(encoder):
    x = torch.randn(2, 3, 32, 32)
    changed = x.clone()
    changed[:, 0] += 1
    encoder = getattr(encoder, "learned", encoder).eval()  # moments have tests of their own

    moved = (encoder(x) - encoder(changed)).abs().amax(dim=0) > 1e-6  # (d,)

    if isinstance(encoder, Separable):
        of_the_first = encoder.out_features // 3
        assert moved[:of_the_first].any()
        assert not moved[of_the_first:].any()
    else:
        assert moved.sum() > encoder.out_features // 3


@pytest.mark.parametrize(
    ("name", "weights", "features"),
    # He et al. 2016, table 1: with a classifier of d x 1000 + 1000.
    [
        ("resnet18", 11_689_512 - 513_000, 512),
        ("resnet34", 21_797_672 - 513_000, 512),
        ("resnet50", 25_557_032 - 2_049_000, 2048),
    ],
)
def test_residual_networks_are_as_large_as_published(name, weights, features):
    with torch.device("meta"):
        encoder = ENCODERS[name](3, 64)

    assert sum(p.numel() for p in encoder.parameters()) == weights
    assert encoder.out_features == features


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "separable", "hybrid"])
def test_texture_adds_features_and_no_weights(name):
    x = torch.randn(2, 3, 32, 32)
    last, textured = make_encoder(name, 3, 32, width=8).eval(), make_encoder(f"{name}+texture", 3, 32, width=8).eval()
    textured.load_state_dict(last.state_dict())

    z, with_texture = last(x), textured(x)

    assert textured.out_features == 1.75 * last.out_features
    for feature in z.T:
        assert (with_texture == feature[:, None]).all(dim=0).any()


def test_texture_is_mean_and_deviation_over_the_maps_of_the_first_two_stages():
    network = ResNet(3, 32, width=4, texture=True).eval()
    x = torch.randn(2, 3, 32, 32)

    first, second, last = (network.stages[:n](network.stem(x)).flatten(2) for n in (2, 4, 8))

    moments = [moment for maps in (first, second) for moment in (maps.mean(dim=2), maps.std(dim=2, correction=0))]
    torch.testing.assert_close(network(x), torch.cat([*moments, last.mean(dim=2)], dim=1), rtol=1e-2, atol=1e-2)
    assert network.out_features == 2 * (4 + 8) + 32


def test_texture_depends_on_whether_two_markers_lie_in_the_same_places():
    torch.manual_seed(0)
    here, elsewhere = torch.zeros(32, 32), torch.zeros(32, 32)
    here[8:12, 8:12] = elsewhere[20:24, 20:24] = 1
    together, apart = torch.stack([here, here]), torch.stack([here, elsewhere])
    network = ResNet(2, 32, width=16, texture=True).eval()

    moved = (network(together[None]) - network(apart[None])).abs()[0]

    means, deviations = moved[:16], moved[16:32]  # over the first stage's maps
    assert deviations.mean() > 2 * means.mean()


@pytest.mark.parametrize("form", [{}, {"lean": True}, {"bottleneck": True}, {"texture": True}])
def test_grouped_networks_do_not_see_each_other(form):
    network = ResNet(1, 32, width=4, blocks=(1, 1), groups=3, **form).eval()
    x = torch.randn(2, 3, 32, 32)
    changed = x.clone()
    changed[:, 1] += 1

    before, after = network(x).view(2, 3, -1), network(changed).view(2, 3, -1)

    torch.testing.assert_close(before[:, [0, 2]], after[:, [0, 2]])
    assert not torch.allclose(before[:, 1], after[:, 1])


# What users might write into a file of their own; without out_features.
MY_ENCODERS = """
import torch
from torch import nn

class Mine(nn.Module):
    def __init__(self, n_markers, patch_px, *, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(n_markers, width, 3), nn.BatchNorm2d(width), nn.ReLU())

    def forward(self, x):
        return self.layers(x).mean(dim=(2, 3))

class WithoutWidth(Mine):
    def __init__(self, n_markers, patch_px):
        super().__init__(n_markers, patch_px, width=5)

class Picture(Mine):
    def forward(self, x):
        return self.layers(x)

class Restless(Mine):
    def forward(self, x):
        return super().forward(x) + torch.rand(())

class Sociable(Mine):
    def forward(self, x):
        z = super().forward(x)
        return z - z.mean(dim=0)

class Endless(Mine):
    def forward(self, x):
        return super().forward(x) / 0

class Vain(Mine):
    out_features = 100

class Narrow(Mine):
    def __init__(self, n_markers, patch_px, *, width):
        super().__init__(n_markers + 1, patch_px, width=width)

class Tied(Mine):
    def __init__(self, n_markers, patch_px, *, width):
        super().__init__(n_markers, patch_px, width=width)
        self.again = self.layers[0]

class Demanding(Mine):
    def __init__(self, n_markers, patch_px, *, width):
        msg = "32 px are not enough."
        raise ValueError(msg)

def no_module(n_markers, patch_px):
    return lambda x: x.mean(dim=(2, 3))
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "my_encoders.py").write_text(MY_ENCODERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_encoders", raising=False)


@pytest.mark.parametrize(("name", "features"), [("Mine", 7), ("WithoutWidth", 5)])
def test_a_class_of_ones_own_is_an_encoder(here, name, features):
    encoder = make_encoder(f"my_encoders:{name}", 3, 32, width=7)

    assert encoder.out_features == features
    assert encoder.training


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Picture", r"returns \(2, 7, 30, 30\) for 2 patches. .* returns finite features \(B, d\)"),
        ("Restless", "returns different features at every call in eval mode"),
        ("Sociable", "mixes patches: the features of one depend on another"),
        ("Endless", "returns numbers that are not finite"),
        ("Vain", "has out_features 100 and returns 7"),
        ("Narrow", r"fails on patches \(2, 3, 32, 32\) \(RuntimeError"),
        ("Tied", "same weights under several names .*again.weight"),
        ("Demanding", "could not be made for 3 markers and 32 px: ValueError: 32 px are not enough"),
        ("no_module", "is function. It must be a torch module"),
        ("Nothing", "module 'my_encoders' has no 'Nothing' to call as an encoder"),
    ],
)
def test_a_class_that_cannot_serve_is_refused_before_anything_is_trained(here, name, message):
    with pytest.raises(InputError, match=message):
        make_encoder(f"my_encoders:{name}", 3, 32, width=7)


@pytest.mark.parametrize("name", ["resnet19", "my_encoders:", ":Mine"])
def test_an_unknown_encoder_raises(name):
    with pytest.raises(InputError, match=r"Choose one of resnet18, .*module:Class"):
        make_encoder(name, 3, 32, width=7)
