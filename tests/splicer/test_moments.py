"""Moments are what the words of their columns say, on cells whose answer is known."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mxsplicer.patches.store import THIS_CELL
from mxsplicer.splicer.encoders import make_encoder
from mxsplicer.splicer.moments import LEARNED_FEATURES, LEVEL_WEIGHT, Moments, WithMoments
from mxsplicer.splicer.normalization import Normalization

MARKERS = ("DAPI", "CD3e", "CD4", "PD-1")
PX = 24
DISC = np.hypot(*(np.mgrid[:PX, :PX] - PX / 2 + 0.5)) < 8


@pytest.fixture(autouse=True)
def all_patterns(request, monkeypatch):
    """Keep patterns that hardly vary between cells of noise, but for the tests of that."""
    if "hardly_vary" not in request.node.name:
        monkeypatch.setattr("mxsplicer.splicer.moments.LEAST_PATTERN", 0.0)


def cells(n=200, seed=0, *, change=None):
    """Return raw patches (n, 4, P, P) of round cells of noise, and their regions."""
    rng = np.random.default_rng(seed)
    patches = rng.gamma(20, 5, size=(n, len(MARKERS), PX, PX))
    if change is not None:
        change(patches, rng)
    return patches.astype(np.float32), np.where(DISC, THIS_CELL, 0).astype(np.uint8)[None].repeat(n, axis=0)


def moments_of(patches, regions, *, measured_on=None, markers=MARKERS):
    """Return the columns by name of the moments of patches."""
    reference = patches if measured_on is None else measured_on
    inside = np.log1p(reference[:, :, DISC])  # (n, C, pixels)
    low, high = (torch.full((len(MARKERS),), value) for value in (0.0, 1e6))
    mean, std = (torch.tensor(f(inside, axis=(0, 2)), dtype=torch.float32) for f in (np.mean, np.std))
    normalization = Normalization(low, high, mean, std)
    moments = Moments(len(MARKERS)).eval()
    moments.prepare(normalization(reference, regions[:1].repeat(len(reference), axis=0)), normalization, markers)
    z = moments(normalization(patches, regions)).numpy()
    return dict(zip(moments.names(markers), z.T, strict=True)), moments


def separation(column):
    """Return the share of pairs of a cell of the first half and one of the second in which the first is larger."""
    first, second = np.split(column, 2)
    return (first[:, None] > second[None, :]).mean()


def test_a_brighter_marker_has_a_higher_level_and_columns_of_other_markers_do_not_change():
    patches, regions = cells()
    brighter = patches.copy()
    brighter[:, 1] *= 2
    before, _ = moments_of(patches, regions, measured_on=patches)
    after, _ = moments_of(brighter, regions, measured_on=patches)

    assert (after["CD3e level"] > before["CD3e level"]).all()
    others = [name for name in before if "CD3e" not in name]
    assert len(others) > 15
    for name in others:
        np.testing.assert_allclose(after[name], before[name], atol=1e-4)


def test_a_pattern_counts_as_much_as_its_marker_is_present():
    def caps(patches, rng):
        patches[:100, 2] *= 0.05
        patches[:, 2, : PX // 2] *= 1.5

    z, _ = moments_of(*cells(change=caps))
    assert np.abs(z["CD4 side"][:100]).mean() < 0.3 * np.abs(z["CD4 side"][100:]).mean()


def test_a_marker_of_the_rim_is_in_its_rim_column_alone():
    def ring(patches, rng):
        at_rim = DISC & (np.hypot(*(np.mgrid[:PX, :PX] - PX / 2 + 0.5)) > 5.5)
        patches[:100, 2][:, at_rim] *= 1.5

    z, _ = moments_of(*cells(change=ring))
    assert z["CD4 rim"][:100].min() > z["CD4 rim"][100:].max()
    assert abs(z["CD3e rim"][:100].mean() - z["CD3e rim"][100:].mean()) < 0.3


def test_side_does_not_depend_on_the_direction_and_pairs_depend_on_the_angle_between_markers():
    halves = [np.s_[:, : PX // 2], np.s_[:, PX // 2 :], np.s_[: PX // 2], np.s_[PX // 2 :]]

    def caps(patches, rng):
        for cell in range(100):
            side = halves[cell % 4]
            patches[cell, 1][side] *= 1.5
            opposite = {0: 1, 1: 0, 2: 3, 3: 2}[cell % 4]
            patches[cell, 3][side if cell < 50 else halves[opposite]] *= 1.5

    z, _ = moments_of(*cells(change=caps))
    assert z["CD3e side"][:100].min() > z["CD3e side"][100:].max()
    pair = z["CD3e with PD-1"]
    assert pair[:50].min() > pair[100:].max() > pair[100:].min() > pair[50:100].max()


def test_area_and_elongation_are_those_of_the_cell():
    places = np.mgrid[:PX, :PX] - PX / 2 + 0.5
    patches, regions = cells()
    for cell, (major, minor) in enumerate([(8, 8), (10, 5), (5, 10), (4, 4)]):
        regions[cell] = np.where((places[0] / major) ** 2 + (places[1] / minor) ** 2 < 1, THIS_CELL, 0)
    z, moments = moments_of(patches, regions, measured_on=patches)
    area, elongation = z["area of the cell"], z["elongation of the cell"]

    assert area[3] < area[1] < area[0]
    assert area[1] == pytest.approx(area[2], rel=0.01)
    assert elongation[1] == pytest.approx(elongation[2], rel=0.01)
    assert min(elongation[1:3]) > max(elongation[[0, 3]])
    scale = moments.scale[-1]
    assert (elongation[1] - elongation[0]) / scale == pytest.approx(np.log(2), abs=0.05)


@pytest.mark.parametrize("n_markers", [1, 2, 3, 5])
def test_weights_can_be_saved_for_any_number_of_markers(tmp_path, n_markers):
    moments = Moments(n_markers)
    save_file(moments.state_dict(), tmp_path / "moments.safetensors")


def test_what_lies_outside_the_cell_is_not_seen():
    patches, regions = cells()
    changed = patches.copy()
    changed[:, :, ~DISC] = 9999
    before, _ = moments_of(patches, regions)
    after, _ = moments_of(changed, regions, measured_on=patches)
    for name, column in before.items():
        np.testing.assert_allclose(after[name], column, atol=1e-4)


def test_directions_of_two_markers_are_seen_whatever_the_direction_and_pairs_without_relation_count_little():
    places = np.mgrid[:PX, :PX]

    def fibres(patches, rng):
        for cell, angle in enumerate(rng.uniform(0, 2 * np.pi, len(patches))):
            for marker, turn in ((1, 0.0), (2, rng.uniform(0, np.pi)), (3, 0.0 if cell < 100 else np.pi / 2)):
                across = np.cos(angle + turn) * places[0] + np.sin(angle + turn) * places[1]
                patches[cell, marker] *= 1.5 + np.sin(across)

    z, _ = moments_of(*cells(change=fibres))
    assert separation(z["CD3e along PD-1"]) > 0.98
    others = [column for name, column in z.items() if " along " in name and name != "CD3e along PD-1"]
    assert max(column.std() for column in others) < 0.3 * z["CD3e along PD-1"].std()


def test_spots_next_to_each_other_are_near_and_those_far_apart_are_not():
    inner = [(y, x) for y in range(7, 17) for x in range(7, 17)]

    def spots(patches, rng):
        patches *= 0.1
        for cell in range(len(patches)):
            for y, x in np.array(inner)[rng.choice(len(inner), 3, replace=False)]:
                patches[cell, 1, y, x] += 300
                dy, dx = [(0, 2), (2, 0), (0, -2), (-2, 0)][rng.integers(4)] if cell < 100 else rng.integers(-4, 5, 2)
                patches[cell, 2, y + dy, x + dx] += 300

    z, _ = moments_of(*cells(change=spots))
    assert separation(z["CD3e near CD4"]) > 0.65


def test_polarity_is_that_of_edges_seen_from_the_centre():
    from_centre = np.hypot(*(np.mgrid[:PX, :PX] - PX / 2 + 0.5))

    def ramps(patches, rng):
        for cell in range(len(patches)):  # with phases, so that the rim is as bright in both
            saw = (from_centre + rng.uniform(0, 6)) % 6 / 6  # rises slowly outwards, and falls at once
            patches[cell, 3] *= 1 + 2 * saw if cell < 100 else 3 - 2 * saw

    z, _ = moments_of(*cells(change=ramps))
    assert separation(z["PD-1 polarity"]) < 0.02


def test_levels_have_a_fixed_share_of_the_variance_and_patterns_of_noise_next_to_none():
    def bright(patches, rng):
        patches *= rng.lognormal(0, 1, size=(len(patches), len(MARKERS), 1, 1))

    z, moments = moments_of(*cells(2000, change=bright))
    columns = np.stack([*z.values()], axis=1)
    n = len(MARKERS)
    assert columns[:, :n].var(axis=0).mean() == pytest.approx(LEVEL_WEIGHT**2, rel=0.01)
    assert columns[:, n:].var(axis=0).sum() < n * LEVEL_WEIGHT**2
    assert moments.out_features == columns.shape[1]


def test_moments_of_a_cell_do_not_depend_on_its_batch():
    patches, regions = cells()
    alone, _ = moments_of(patches[:1], regions[:1], measured_on=patches)
    together, _ = moments_of(patches, regions)
    for name, column in together.items():
        np.testing.assert_allclose(alone[name], column[:1], atol=1e-5)


@pytest.mark.parametrize("n_markers", [1, 2, 3])
def test_panels_of_few_markers_have_fewer_pairs(n_markers):
    encoder = make_encoder("resnet18+moments", n_markers, 32, width=4)
    z = encoder(torch.randn(4, n_markers, 32, 32))
    assert z.shape == (4, encoder.out_features)
    assert len(encoder.names(MARKERS[:n_markers])) == encoder.out_features
    assert torch.isfinite(z).all()


def noise_normalization() -> Normalization:
    return Normalization(*(torch.tensor([value] * 3) for value in (0.0, 100.0, 2.0, 1.0)))


def test_patterns_that_hardly_vary_are_left_out_and_the_rest_is_as_before(monkeypatch):
    def brighten_the_rim(patches, rng):
        rim = DISC & (np.hypot(*(np.mgrid[:PX, :PX] - PX / 2 + 0.5)) > 6)
        patches[:100, 1, rim] *= 4

    patches, regions = cells(change=brighten_the_rim)
    few, _ = moments_of(patches, regions)
    monkeypatch.setattr("mxsplicer.splicer.moments.LEAST_PATTERN", 0.0)
    every, _ = moments_of(patches, regions)
    assert set(few) < set(every)
    assert "CD3e rim" in few
    assert "DAPI rim" not in few
    assert {f"{marker} {kind}" for marker in MARKERS for kind in ("level", "spread")} <= set(few)
    for name, column in few.items():
        np.testing.assert_array_equal(column, every[name])
        assert column.var() >= 0.03 or name.endswith(("level", "spread", "of the cell"))


def test_columns_of_a_protein_of_the_cell_cycle_count_half():
    patches, regions = cells()
    every, _ = moments_of(patches, regions)
    half, _ = moments_of(patches, regions, markers=("DAPI", "CD3e", "CD4", "Ki-67"))
    names = dict(zip(every, half, strict=True))
    assert any(" with Ki-67" in new for new in names.values())
    for old, new in names.items():
        np.testing.assert_allclose(half[new], every[old] * (0.5 if "Ki-67" in new else 1), rtol=1e-5, atol=1e-6)


def test_learned_features_are_what_moments_do_not_predict():
    torch.manual_seed(0)
    encoder = make_encoder("resnet18+moments", 3, 16, width=4).eval()
    assert isinstance(encoder, WithMoments)
    x = torch.randn(2_000, 3, 16, 16) + torch.randn(2_000, 3, 1, 1)
    encoder.prepare(x, noise_normalization(), MARKERS[:3])
    with torch.no_grad():
        for weight in encoder.learned.parameters():
            weight.add_(torch.randn_like(weight))
        before = encoder(x)
        changed = encoder.calibrate(x)
        after = encoder(x)
    n = encoder.moments.out_features
    torch.testing.assert_close(changed[0], before)
    torch.testing.assert_close(changed[1], after)
    torch.testing.assert_close(after[:, :n], before[:, :n])
    learned = after[:, n:]
    assert learned.shape[1] == LEARNED_FEATURES
    correlations = torch.corrcoef(after.T)[:n, n:]
    varies = after[:, :n].std(dim=0) > 0.3  # below, the ridge leaves something
    assert correlations[varies].abs().max() < 0.05
    torch.testing.assert_close(torch.corrcoef(learned.T), torch.eye(LEARNED_FEATURES), atol=1e-3, rtol=0)
    assert learned.var(dim=0).sum() < 0.25 * 3


def test_an_untrained_encoder_has_the_scales_from_before_the_training():
    torch.manual_seed(0)
    trained, new = (make_encoder("resnet18+moments", 3, 32, width=4).eval() for _ in range(2))
    assert isinstance(trained, WithMoments)
    assert isinstance(new, WithMoments)
    x = torch.randn(64, 3, 32, 32)
    trained.prepare(x, noise_normalization(), MARKERS[:3])
    at_first = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    with torch.no_grad():
        for weight in trained.learned.parameters():
            weight.add_(torch.randn_like(weight))
        trained.calibrate(x)
    new.reset(trained)
    for name in ("projection", "slope", "center"):
        torch.testing.assert_close(new.state_dict()[name], at_first[name])
        assert not torch.allclose(trained.state_dict()[name], at_first[name])
