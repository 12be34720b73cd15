import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mxsplicer.errors import InputError
from mxsplicer.splicer.views import ViewInput, Views, plan_views

STILL = {"scale": (1.0, 1.0), "shift": 0.0, "gain": 0.0, "offset": 0.0, "noise": 0.0, "blur": 0.0, "drop": 0.0}


def make_views(views: Views, *patches: torch.Tensor, **options) -> tuple[torch.Tensor, ...]:
    return views(*map(ViewInput, patches), generator=options.pop("generator", None) or generator(), **options)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_views_are_the_same_for_the_same_generator():
    patches = torch.randn(4, 3, 16, 16)

    for first, second in zip(make_views(Views(), patches, patches), make_views(Views(), patches, patches), strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0)


@given(st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_shared_geometry_is_the_same_in_both_views(seed):
    patches = torch.randn(4, 3, 16, 16, generator=generator(seed))

    a, b = make_views(
        Views(shared_geometry=True, **STILL | {"scale": (0.8, 1.2), "shift": 0.1}),
        patches,
        patches,
        generator=generator(seed),
    )
    c, d = make_views(Views(**STILL), patches, patches, generator=generator(seed))

    torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not torch.allclose(c, d)


def test_a_rotated_disc_stays_a_disc_and_its_corners_are_not_empty():
    y, x = torch.meshgrid(torch.arange(32) - 15.5, torch.arange(32) - 15.5, indexing="ij")
    disc = torch.exp(-(x**2 + y**2) / 50).expand(8, 1, 32, 32)

    rotated, _ = make_views(Views(**STILL), disc, disc)
    ones = torch.ones(8, 1, 32, 32)
    flat, _ = make_views(Views(**STILL), ones, ones)

    near = (x**2 + y**2 < 14**2).expand_as(disc)  # beyond it, corners are mirrored
    torch.testing.assert_close(rotated[near], disc[near], rtol=0, atol=0.02)
    torch.testing.assert_close(flat, torch.ones_like(flat))


def test_each_view_shows_its_own_input():
    a, b = make_views(Views(**STILL), torch.zeros(2, 3, 16, 16), torch.ones(2, 3, 16, 16))

    assert a.abs().max() == 0
    torch.testing.assert_close(b, torch.ones_like(b))


def test_a_view_keeps_the_order_of_markers_and_cells():
    patches = torch.arange(6.0).view(2, 3, 1, 1).expand(2, 3, 16, 16).contiguous()

    view, _ = make_views(Views(**STILL), patches, patches)

    torch.testing.assert_close(view, patches)


def test_a_dropped_marker_is_at_its_mean():
    patches = torch.randn(2, 3, 16, 16)

    a, _ = make_views(Views(**STILL | {"drop": 1.0}), patches, patches)

    assert a.abs().max() == 0


def test_gain_is_per_marker_and_per_cell_within_its_range():
    ones = torch.ones(200, 3, 8, 8)

    a, b = make_views(Views(**STILL | {"gain": 0.2}), ones, ones)
    gains = torch.stack([a, b])[..., 0, 0]

    assert 0.8 <= gains.min() < 0.82
    assert 1.18 < gains.max() <= 1.2 + 1e-6
    assert gains.unique().numel() > 1000


@pytest.mark.parametrize(
    ("change", "amount", "spread"),  # of the pixels of a grey patch
    [
        ("gain", 0.2, 2 * 0.2 / 3**0.5),
        ("offset", 0.2, 0.2 / 3**0.5),
        ("noise", 0.2, 0.2 / 3**0.5),  # its deviation is itself drawn between 0 and 0.2
        ("drop", 0.5, 2 * 0.5),
        ("blur", 1.0, 0.0),
        ("shift", 0.2, 0.0),
        ("scale", (0.8, 1.2), 0.0),
    ],
)
def test_each_change_of_a_view_is_as_large_as_its_argument(change, amount, spread):
    grey = torch.full((400, 3, 8, 8), 2.0)

    view, _ = make_views(Views(**STILL | {change: amount}), grey, grey)

    assert view.std().item() == pytest.approx(spread, rel=0.1, abs=1e-5)
    assert (view.mean() - (1.0 if change == "drop" else 2.0)).abs() < 0.1


def test_a_blurred_view_is_smoother_and_as_bright():
    patches = torch.randn(8, 3, 32, 32)

    plain, _ = make_views(Views(**STILL), patches, patches)
    blurred, _ = make_views(Views(**STILL | {"blur": 1.0}), patches, patches)

    assert blurred.std() < 0.7 * plain.std()
    torch.testing.assert_close(blurred.mean(), plain.mean(), atol=2e-3, rtol=0)


def test_an_unknown_name_of_views_raises():
    with pytest.raises(InputError, match="Choose shared or independent"):
        plan_views("sideways")


def test_upright_views_are_neither_rotated_nor_mirrored():
    patches = torch.randn(6, 3, 16, 16, generator=generator(1))

    view, _ = make_views(Views(upright=True, **STILL), patches, patches)

    torch.testing.assert_close(view, patches, atol=1e-5, rtol=0)


def test_names_of_views_can_be_joined():
    assert plan_views("upright") == Views(upright=True)
    assert plan_views("shared+upright") == Views(shared_geometry=True, upright=True)
    with pytest.raises(InputError, match="Choose shared or independent"):
        plan_views("shared+independent")


@pytest.mark.parametrize("shared", [False, True])
def test_rows_of_a_batch_get_the_views_that_they_get_in_the_whole_batch(shared):
    patches = torch.randn(6, 3, 16, 16, generator=generator(1))
    views = Views(shared_geometry=shared, blur=0.5, drop=0.2)
    whole = make_views(views, patches, patches)

    parts = [make_views(views, patches[i : i + 2], patches[i : i + 2], first=i, of=6) for i in (0, 2, 4)]

    for view, pieces in zip(whole, zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(torch.cat(pieces), view)
