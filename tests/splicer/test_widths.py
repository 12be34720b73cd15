import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxsplicer.errors import InputError
from mxsplicer.images.slide import Slide
from mxsplicer.patches.extraction import extract_patches
from mxsplicer.splicer.normalization import measure_normalization
from mxsplicer.splicer.recipe import Recipe
from mxsplicer.splicer.widths import allocate_widths, choose_widths
from mxsplicer.testing import tiny_slide

MARKERS = ("structured", "uniform", "empty", "AF1")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Return the patches of cells: one marker in random quarters of each cell, one all over it, two of noise alone."""
    rng = np.random.default_rng(0)
    image = rng.normal(100, 5, (4, 400, 400))
    mask = np.zeros((400, 400), np.uint32)
    for number, (y, x) in enumerate((y, x) for y in range(10, 390, 20) for x in range(10, 390, 20)):
        mask[y - 6 : y + 6, x - 6 : x + 6] = number + 1
        image[1, y - 6 : y + 6, x - 6 : x + 6] += rng.uniform(50, 400)
        for dy, dx in ((-6, -6), (-6, 0), (0, -6), (0, 0)):
            image[0, y + dy : y + dy + 6, x + dx : x + dx + 6] += rng.uniform(50, 400)
    slide = Slide("S", image.astype(np.float32), MARKERS, pixel_size_um=1.0)
    store = extract_patches(slide, mask, tmp_path_factory.mktemp("widths") / "S.zarr", patch_size_um=16)
    return [store], measure_normalization([store])[0]


def widths(measured, **changes) -> dict[str, int]:
    recipe = Recipe(**{"deconstruction": "marker", "chunk_width": 32} | changes)
    components = recipe.components(MARKERS)
    return dict(zip((c.name for c in components), choose_widths(recipe, components, *measured), strict=True))


def test_chunks_are_equal_unless_another_width_is_given(measured):
    assert widths(measured) == dict.fromkeys(MARKERS, 32)
    assert widths(measured, widths={"uniform": 10}) == dict.fromkeys(MARKERS, 32) | {"uniform": 10}


def test_by_rank_a_chunk_is_as_wide_as_its_component_stands_out_of_the_controls(measured):
    found = widths(measured, width_rule="rank", controls=("AF1",))

    assert widths(measured, width_rule="rank") == found  # AF1 is known by its name

    assert found["structured"] > 2 * found["uniform"] > found["empty"]
    assert found["AF1"] == found["empty"] == 4
    assert sum(found.values()) == 4 * 32


def test_by_variance_a_chunk_is_as_wide_as_its_component_varies(measured):
    found = widths(measured, width_rule="variance", widths={"AF1": 7})

    assert min(found["structured"], found["uniform"]) > 4 * found["empty"]
    assert found["AF1"] == 7


def test_a_width_given_for_a_marker_applies_to_its_compartments(measured):
    found = widths(measured, deconstruction="compartments", widths={"uniform": 10, "AF1 rim": 7})

    assert (found["uniform rim"], found["uniform interior"]) == (10, 10)
    assert (found["AF1 rim"], found["AF1 interior"]) == (7, 32)


def test_the_rank_needs_control_channels(measured, tmp_path):
    slide, mask = tiny_slide()
    stores = [extract_patches(slide, mask, tmp_path / "tiny.zarr", patch_size_um=16)]
    unnamed = (stores, measure_normalization(stores)[0])
    with pytest.raises(InputError, match="`controls`; the markers are DAPI, CD3e, CD20"):
        choose_widths(Recipe(width_rule="rank"), Recipe(deconstruction="marker").components(MARKERS), *unnamed)
    with pytest.raises(InputError, match=r"`controls` names 'AF', .* Did you mean 'AF1'"):
        widths(measured, width_rule="rank", controls=("AF",))


@given(st.integers(1, 100), st.lists(st.floats(0, 1e6), min_size=1, max_size=60))
def test_what_is_shared_out_is_what_equal_chunks_have(mean_width, shares):
    found = allocate_widths(mean_width, shares)

    step = max(1, mean_width // 8)
    assert sum(found) == mean_width * len(shares) // step * step
    assert min(found) >= step
    by_share = [width for _, width in sorted(zip(shares, found, strict=True))]
    assert by_share == sorted(found)
