"""Statistics of compartments and blurred means are those of the definition, cell by cell."""

import numpy as np
import pytest
from scipy import ndimage

from mxsplicer.patches.closed_form import STATISTICS, compartment_statistics, log_units, mean_of_blurred


def _cells(n=20, n_markers=3, size=24, seed=0):
    """Return patches (n, C, P, P) and regions (n, P, P) of discs, some with a nucleus, with bright surroundings."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, 1000, (n, n_markers, size, size)).astype(np.uint16)
    distance = np.hypot(*(np.indices((size, size)) - size / 2))
    regions = np.full((n, size, size), 2, np.uint8)
    for row, radius in enumerate(rng.uniform(1, 10, n)):
        regions[row][distance < radius] = 1
        regions[row][distance < radius / 2] = 3 if row % 2 else 1
    return patches, regions


def _expected(patches, regions):
    out = []
    for patch, region in zip(patches, regions, strict=True):
        inside = np.isin(region, (1, 3))
        interior = ndimage.binary_erosion(inside, iterations=2)
        interior = interior if interior.any() else inside
        rim = inside & ~interior if (inside & ~interior).any() else inside
        x = np.log1p(patch.astype(float))
        of_marker = [(a[rim].mean(), a[interior].mean(), a[rim].std(), a[interior].std(), a[inside].std()) for a in x]
        out.append(np.ravel(of_marker))
    return np.array(out)


def test_rim_and_interior_are_described_as_pixel_by_pixel():
    patches, regions = _cells()

    found = compartment_statistics(patches, regions, units=np.ones(3))

    assert found.shape == (20, 3 * len(STATISTICS))
    np.testing.assert_allclose(found, _expected(patches, regions), rtol=1e-4, atol=1e-4)


def test_more_cells_than_are_held_at_once_are_described_alike():
    patches, regions = (np.concatenate([part] * 20) for part in _cells())

    found = compartment_statistics(patches, regions, units=np.ones(3))

    np.testing.assert_array_equal(found[:20], found[300:320])


def test_pixels_outside_the_cell_do_not_change_its_statistics():
    patches, regions = _cells()
    darker = np.where((regions == 2)[:, None], 0, patches)

    np.testing.assert_array_equal(
        *(compartment_statistics(one, regions, units=np.ones(3)) for one in (patches, darker))
    )


def test_the_blurred_mean_is_that_of_the_blurred_image():
    patches, regions = _cells(seed=1)
    blurred = ndimage.gaussian_filter(patches.astype(np.float32), (0, 0, 1, 1))
    expected = [image[:, np.isin(region, (1, 3))].mean(axis=1) for image, region in zip(blurred, regions, strict=True)]

    np.testing.assert_allclose(mean_of_blurred(patches, regions), expected, rtol=0.01)


@pytest.mark.parametrize("describe", [compartment_statistics, mean_of_blurred])
def test_a_marker_that_the_slide_lacks_is_0_and_a_cell_outside_its_patch_too(describe):
    patches, regions = _cells(n=3)
    patches = patches.astype(np.float32)
    patches[:, 1] = np.nan
    regions[2] = 2
    options = {"units": np.ones(3)} if describe is compartment_statistics else {}

    found = describe(patches, regions, **options).reshape(3, 3, -1)

    assert np.isfinite(found).all()
    assert (found[:, 1] == 0).all()
    assert (found[2] == 0).all()
    assert (found[:2, 0, 0] > 0).all()


def test_units_make_log1p_a_logarithm_for_small_values_only():
    np.testing.assert_allclose(log_units(np.array([0.0, 2.0, 5000.0])), [1, 0.02, 1])
