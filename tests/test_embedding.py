import numpy as np
import pytest
import torch

from mxsplicer.embedding import embed, from_slide
from mxsplicer.errors import InputError
from mxsplicer.slides.cells import measure_cells
from mxsplicer.slides.slide import Slide
from mxsplicer.splicer.run import untrained
from mxsplicer.splicer.training import train
from mxsplicer.testing import tiny_slide, tiny_store

CELLS = [(y, x) for y in range(8, 60, 6) for x in range(8, 60, 6)]
SMALL = {"encoder_width": 8, "component_width": 4, "chunk_width": 8, "batch_size": 16, "epochs": 1, "device": "cpu"}


@pytest.fixture(scope="module")
def store():
    return tiny_store(cells_at=CELLS)


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    return train(store, tmp_path_factory.mktemp("run") / "run", **SMALL)


def test_every_cell_has_a_row_with_its_own_intensity_and_place(store, run):
    adata = embed(run, store)

    np.testing.assert_array_equal(adata.obs["cell_id"], store.cells["cell_id"])
    np.testing.assert_array_equal(adata.X, store.intensities)
    np.testing.assert_allclose(adata.obsm["spatial"], store.cells[["x", "y"]])
    assert list(adata.var_names) == list(store.markers)
    assert adata.obs_names[0] == f"{store.slide_name}_{store.cells['cell_id'].iloc[0]}"
    assert adata.obsm["X_splicer"].dtype == np.float32
    assert adata.obsm["X_splicer"].shape == (len(CELLS), run.features)


def test_a_store_and_the_slide_itself_give_the_same_embedding_for_any_number_of_workers(store, run):
    slide, mask = tiny_slide(cells_at=CELLS)
    cells = measure_cells(slide, mask)

    stored = embed(run, store).obsm["X_splicer"]

    for workers in (1, 3):
        source = from_slide(slide, mask, cells, patch_size_um=store.patch_size_um, workers=workers)
        np.testing.assert_array_equal(embed(run, source).obsm["X_splicer"], stored)


def test_the_embedding_of_a_cell_does_not_depend_on_the_others(store, run):
    slide, mask = tiny_slide(cells_at=CELLS)
    cells = measure_cells(slide, mask)
    some = cells.take(np.arange(0, len(cells), 7))
    everyone = embed(run, store)

    few = embed(run, from_slide(slide, mask, some, patch_size_um=store.patch_size_um))

    both = everyone[few.obs_names]
    np.testing.assert_allclose(few.obsm["X_splicer"], both.obsm["X_splicer"], rtol=1e-5, atol=1e-6)


def test_channels_are_matched_by_name(store, run):
    slide, mask = tiny_slide(cells_at=CELLS)
    turned = Slide(slide.name, slide.image[::-1], slide.markers[::-1], slide.pixel_size_um)
    source = from_slide(turned, mask, measure_cells(turned, mask), patch_size_um=store.patch_size_um)

    adata = embed(run, source)

    np.testing.assert_array_equal(adata.obsm["X_splicer"], embed(run, store).obsm["X_splicer"])
    np.testing.assert_array_equal(adata.X, store.intensities)


def test_a_slide_of_another_panel_or_scale_is_refused(run):
    slide, mask = tiny_slide(cells_at=CELLS)
    renamed = Slide("other", slide.image, ("DAPI", "CD3e", "CD8a"), slide.pixel_size_um)
    coarse = Slide("coarse", slide.image, slide.markers, 2 * slide.pixel_size_um)

    with pytest.raises(InputError, match=r"slide 'other' lacks: CD20\. Of the slide, the model does not know: CD8a"):
        embed(run, from_slide(renamed, mask, measure_cells(renamed, mask), patch_size_um=16))
    with pytest.raises(InputError, match=r"trained on 0\.5 µm"):
        embed(run, from_slide(coarse, mask, measure_cells(coarse, mask), patch_size_um=32))


def test_baselines_stand_beside_the_embedding(store, run):
    adata = embed(run, store, baselines={"X_untrained": untrained(run)})

    assert adata.obsm["X_untrained"].shape == adata.obsm["X_splicer"].shape
    assert not np.allclose(adata.obsm["X_untrained"], adata.obsm["X_splicer"])


def test_embedding_leaves_the_run_as_it_was(store, run):
    before = {name: tensor.clone() for name, tensor in run.encoder.state_dict().items()}

    embed(run, store)

    for name, tensor in run.encoder.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
