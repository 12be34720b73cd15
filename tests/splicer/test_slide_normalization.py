"""Slides whose staining differs look alike when their gains are corrected."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mxsplicer.embedding.embed import embed
from mxsplicer.patches.extraction import extract_patches
from mxsplicer.patches.store import PatchStoreView
from mxsplicer.splicer.batches import Batches
from mxsplicer.splicer.normalization import MOST_GAIN, gain_of
from mxsplicer.splicer.recipe import Recipe
from mxsplicer.splicer.slide_normalization import at_one_gain
from mxsplicer.splicer.training import train
from mxsplicer.testing import tiny_slide

PLACES = [(y, x) for y in range(12, 180, 12) for x in range(12, 180, 12)]
SMALL = Recipe(epochs=1, batch_size=64, encoder_width=4, component_width=2, chunk_width=4)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Return the stores of two slides, the second the first with twice the light in each marker."""
    folder = tmp_path_factory.mktemp("stores")
    slide, mask = tiny_slide(cells_at=PLACES, shape_px=(192, 192))
    brighter = replace(slide, name="brighter", image=slide.image * 2)
    return [extract_patches(one, mask, folder / f"{one.name}.zarr", patch_size_um=8) for one in (slide, brighter)]


def test_stores_at_one_gain_show_the_same_intensities_and_a_single_one_is_left_as_it_is(stores):
    (first, second), spread = at_one_gain(stores)
    one, other = first.read_block(0), second.read_block(0)

    np.testing.assert_allclose(one.patches, other.patches, rtol=1e-4)
    np.testing.assert_array_equal(one.regions, stores[0].read_block(0).regions)
    assert next(Batches([first, second], 64).epoch(0))[0].dtype == np.float32
    np.testing.assert_allclose(spread, stores[0].spread * 2**0.5, rtol=1e-4)
    assert at_one_gain(stores[:1])[0] == stores[:1]


def test_a_store_that_lacks_a_marker_leaves_its_gain_to_the_others(stores):
    lacking = PatchStoreView(
        stores[0], lambda patches: patches, dtype=np.uint16, markers=("other", *stores[0].markers[1:])
    )
    (_, second), spread = at_one_gain([lacking, stores[1]])

    assert spread[0] == pytest.approx(stores[1].spread[0])
    np.testing.assert_allclose(second.read_block(0).patches[:, 0], stores[1].read_block(0).patches[:, 0], rtol=1e-6)


def test_features_of_a_slide_do_not_change_with_its_gain(stores, tmp_path):
    run = train(stores[:1], tmp_path / "run", recipe=SMALL, device="cpu")
    assert run.settings["normalization"] == "gain"

    adata = embed(run, stores, device="cpu")

    a, b = np.split(adata.obsm["X_splicer"], 2)
    np.testing.assert_allclose(a, b, atol=2e-3)
    assert set(adata.uns["mxsplicer"]["spread"]) == {"tiny", "brighter"}


def test_features_follow_the_gain_of_a_slide_without_correction(stores, tmp_path):
    run = train(stores[:1], tmp_path / "run", recipe=replace(SMALL, normalization="common"), device="cpu")
    a, b = np.split(embed(run, stores, device="cpu").obsm["X_splicer"], 2)
    assert np.abs(a - b).max() > 0.1


def test_a_sample_of_a_slide_is_at_the_gain_of_the_whole(stores, tmp_path):
    slide, mask = tiny_slide(cells_at=PLACES, shape_px=(192, 192))
    few = extract_patches(slide, mask, tmp_path / "few.zarr", patch_size_um=8, max_cells=5)
    np.testing.assert_array_equal(few.spread, stores[0].spread)


def test_a_gain_is_the_ratio_of_spreads_within_bounds():
    spread, reference = torch.tensor([2.0, 100.0, 0.0, 1.0]), torch.tensor([1.0, 1.0, 1.0, 0.0])
    assert gain_of(spread, reference).tolist() == [2.0, MOST_GAIN, 1.0, 1.0]
