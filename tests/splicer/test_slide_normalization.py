"""Slides that are normalised each by its own numbers look alike where only their staining differed."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mxsplicer.embedding.embed import embed
from mxsplicer.embedding.sources import from_store
from mxsplicer.errors import InputError
from mxsplicer.patches.extraction import extract_patches
from mxsplicer.splicer.batches import Batches
from mxsplicer.splicer.normalization import measure_normalization
from mxsplicer.splicer.recipe import Recipe
from mxsplicer.splicer.slide_normalization import channels_in_order, common_scale, on_one_scale
from mxsplicer.splicer.training import train
from mxsplicer.testing import tiny_slide

PLACES = [(y, x) for y in range(12, 180, 12) for x in range(12, 180, 12)]
SMALL = Recipe(epochs=1, batch_size=64, encoder_width=4, component_width=2, chunk_width=4, normalization="slide")


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Return the stores of two slides, the second the first with three times the light in each marker."""
    folder = tmp_path_factory.mktemp("stores")
    slide, mask = tiny_slide(cells_at=PLACES, shape_px=(192, 192))
    brighter = replace(slide, name="brighter", image=slide.image * 3)
    return [extract_patches(one, mask, folder / f"{one.name}.zarr", patch_size_um=8) for one in (slide, brighter)]


def test_a_store_on_the_common_scale_shows_what_its_own_normalisation_would(stores):
    for store, seen in zip(stores, on_one_scale(stores, seed=0), strict=True):
        raw, scaled = store.read_block(0), seen.read_block(0)
        expected = measure_normalization([store])[0](raw.patches)
        torch.testing.assert_close(common_scale(3)(scaled.patches), expected, atol=1e-4, rtol=0)
        assert (seen.n_cells, seen.n_blocks, seen.patch_px) == (store.n_cells, store.n_blocks, store.patch_px)
        np.testing.assert_array_equal(scaled.regions, raw.regions)
    patches, _ = next(Batches(on_one_scale(stores, seed=0), 64).epoch(0))
    assert patches.dtype == np.float32


def test_features_of_a_slide_do_not_change_with_its_gain(stores, tmp_path):
    run = train(stores, tmp_path / "run", recipe=SMALL, device="cpu")
    assert run.settings["normalization"] == "slide"
    own = [measure_normalization([store], seed=0)[0] for store in stores]

    adata = embed(run, [from_store(s, normalization=n) for s, n in zip(stores, own, strict=True)], device="cpu")

    a, b = np.split(adata.obsm["X_splicer"], 2)
    spread = a.std(axis=0)
    assert np.abs(a - b)[:, spread > 0].mean() < 0.05 * spread.mean()
    assert set(adata.uns["mxsplicer"]["normalization"]) == {"tiny", "brighter"}
    with pytest.raises(InputError, match="slide 'tiny' comes without them"):
        embed(run, stores, device="cpu")


def test_channels_are_brought_into_the_models_order(stores):
    normalization = measure_normalization(stores)[0]

    assert channels_in_order(normalization, [2, 0]).mean.tolist() == normalization.mean[[2, 0]].tolist()
