import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from mxsplicer.testing import lone_tissue
from mxsplicer.tl import significance


def standardized(fields):
    fields = fields - fields.mean(axis=0)
    return (fields / fields.std(axis=0)).astype(np.float32)


def p_of_unrelated(points, a, b, slides=None):
    """Return p-values under the null, and p-values for independent cells."""
    pairs = significance.classify_pairs(points, slides)
    a, b = standardized(a), standardized(b)
    r = a.T @ b / len(a)
    effective = pairs.effective_cells(pairs.autocovariance(a), pairs.autocovariance(b))
    return significance.p_values(r, effective), significance.p_values(r, np.full(r.shape, float(len(a))))


@pytest.mark.parametrize("range_um", [0, 40, 200])
def test_one_in_twenty_unrelated_pairs_is_called_significant_at_five_percent(range_um):
    called, naive = [], []
    for seed in range(6):
        points, fields = lone_tissue(3000, range_um=range_um, n_fields=32, seed=seed)
        p, p_naive = p_of_unrelated(points, fields[:, :10], fields[:, 10:])
        called.append((p < 0.05).mean())
        naive.append((p_naive < 0.05).mean())

    # 1,320 pairs, which share fields within a tissue, so the bounds are wider than the 4 to 6 % of the benchmark.
    assert 0.03 < np.mean(called) < 0.075
    if range_um:
        assert np.mean(naive) > 0.15


def test_the_null_holds_with_a_few_very_bright_cells():
    points, fields = lone_tissue(4000, range_um=60, n_fields=40, seed=3)

    p, _ = p_of_unrelated(points, np.exp(1.5 * fields[:, :15]), fields[:, 15:])

    assert 0.02 < (p < 0.05).mean() < 0.085


def test_differences_between_slides_are_not_called_significant():
    rng = np.random.default_rng(0)
    slides = np.repeat(np.arange(12), 300)
    points = rng.uniform(0, 400, (len(slides), 2))
    a, b = (rng.normal(size=(len(slides), n)) + 1.5 * rng.normal(size=(12, n))[slides] for n in (12, 30))

    p, naive = p_of_unrelated(points, a, b, slides)

    assert (p < 0.05).mean() < 0.1
    assert (naive < 0.05).mean() > 0.5


def test_every_pair_of_cells_is_in_one_class():
    points, _ = lone_tissue(1500, range_um=0)
    slides = np.arange(1500) % 2

    pairs = significance.classify_pairs(points, slides)

    of_slides = [(slides == slide).sum() for slide in (0, 1)]
    assert pairs.n_pairs.sum() == pytest.approx(sum(n * (n - 1) for n in of_slides), rel=0.01)


def test_autocovariance_is_the_mean_product_of_all_pairs_at_a_distance():
    points, fields = lone_tissue(1200, range_um=80, n_fields=1, noise=0.2)
    field = standardized(fields)
    pairs = significance.classify_pairs(points)

    found = pairs.autocovariance(field)[0]

    distance = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1))
    np.fill_diagonal(distance, np.nan)
    of_class = np.searchsorted(pairs.upper_um, distance)
    products = np.outer(field, field)
    classes = [k for k in range(len(pairs.upper_um)) if (of_class == k).sum() > 2000]
    expected = [products[of_class == k].mean() for k in classes]
    np.testing.assert_allclose(found[classes], expected, atol=0.04)  # bins, and a sample of the near pairs


def test_without_autocorrelation_all_cells_are_effective():
    points, fields = lone_tissue(5000, range_um=0, n_fields=20)
    pairs = significance.classify_pairs(points)

    of_fields = pairs.autocovariance(standardized(fields))

    assert pairs.effective_cells(of_fields, of_fields).min() > 4000


@settings(max_examples=25, deadline=None)
@given(st.integers(3, 60), st.floats(1e-3, 1e6), st.floats(-1e7, 1e7), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_any_cells_at_any_scale_give_p_values_between_zero_and_one(n, scale, offset, n_slides, seed):
    rng = np.random.default_rng(seed)
    points = offset + scale * rng.uniform(0, 1, (n, 2))
    points[: n // 3] = points[0]  # many at one point

    p, _ = p_of_unrelated(points, rng.normal(size=(n, 2)), rng.normal(size=(n, 3)), rng.integers(0, n_slides, n))

    assert ((p >= 0) & (p <= 1)).all()


@pytest.mark.parametrize(
    ("points", "slides"),
    [
        ([[5, 5], [1, 2], [9, 3]], [0, 1, 2]),
        ([[5, 5], [5, 5], [5, 5]], [0, 0, 0]),
        ([[0, 7], [1, 7], [2, 7], [3, 7], [900, 7]], [0, 0, 0, 0, 0]),
    ],
    ids=["one on each slide", "all at one point", "in a row"],
)
def test_cells_that_span_no_area_have_p_values(points, slides):
    rng = np.random.default_rng(0)
    n = len(points)

    p, _ = p_of_unrelated(np.array(points, float), rng.normal(size=(n, 2)), rng.normal(size=(n, 3)), np.array(slides))

    assert ((p >= 0) & (p <= 1)).all()


def test_the_variance_is_that_of_shifting_one_field_against_the_other():
    side, n_fields = 40, 12
    rng = np.random.default_rng(4)
    noise = rng.normal(size=(2 * n_fields, side + 24, side + 24))
    fields = gaussian_filter(noise, (0, 2, 2))[:, 12:-12, 12:-12]
    fields -= fields.mean(axis=(1, 2), keepdims=True)
    fields /= fields.std(axis=(1, 2), keepdims=True)
    a, b = fields[:n_fields], fields[n_fields:]
    shifted = []
    for down in range(-side // 2, side // 2 + 1):
        for right in range(-side // 2, side // 2 + 1):
            here = (slice(max(0, down), side + min(0, down)), slice(max(0, right), side + min(0, right)))
            there = (slice(max(0, -down), side + min(0, -down)), slice(max(0, -right), side + min(0, -right)))
            overlap = a[:, *here] * b[:, *there]
            shifted.append(overlap.sum(axis=(1, 2)) ** 2 / overlap[0].size)  # per cell, as the overlap varies
    y, x = np.mgrid[:side, :side]
    points = 10.0 * np.stack([x.ravel(), y.ravel()], axis=1)
    pairs = significance.classify_pairs(points)
    of_a, of_b = (pairs.autocovariance(one.reshape(n_fields, -1).T.astype(np.float32)) for one in (a, b))

    found = side**2 / pairs.effective_cells(of_a, of_b).diagonal()

    assert found.mean() == pytest.approx(np.mean(shifted), rel=0.15)
    assert found.mean() > 10  # 1 for independent cells
