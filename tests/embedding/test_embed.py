from dataclasses import replace
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from mxsplicer.cells.measure import measure_cells
from mxsplicer.embedding import h5ad
from mxsplicer.embedding.embed import embed, embed_to_file
from mxsplicer.embedding.h5ad import complete_cells, open_cells, save_cells, write_obs, write_uns
from mxsplicer.embedding.sources import Source, from_slide, from_store
from mxsplicer.errors import InputError
from mxsplicer.images.slide import Slide
from mxsplicer.patches.blocks import Block
from mxsplicer.patches.closed_form import mean_of_blurred
from mxsplicer.splicer.recipe import Recipe
from mxsplicer.splicer.run import untrained
from mxsplicer.splicer.training import train
from mxsplicer.testing import tiny_slide, tiny_store

CELLS = [(y, x) for y in range(8, 60, 6) for x in range(8, 60, 6)]
SMALL = Recipe(encoder_width=8, component_width=4, chunk_width=8, batch_size=16, epochs=1)


@pytest.fixture(scope="module")
def store():
    return tiny_store(cells_at=CELLS)


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    return train(store, tmp_path_factory.mktemp("run") / "run", recipe=SMALL, device="cpu")


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

    source = from_slide(slide, mask, some, patch_size_um=store.patch_size_um)
    few = embed(run, replace(source, spread=store.spread))

    both = everyone[few.obs_names]
    np.testing.assert_allclose(few.obsm["X_splicer"], both.obsm["X_splicer"], rtol=1e-5, atol=1e-6)


def test_channels_are_matched_by_name(store, run):
    slide, mask = tiny_slide(cells_at=CELLS)
    reversed_slide = Slide(slide.name, slide.image[::-1], slide.markers[::-1], slide.pixel_size_um)
    source = from_slide(reversed_slide, mask, measure_cells(reversed_slide, mask), patch_size_um=store.patch_size_um)

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


def test_baselines_are_added_to_the_embedding(store, run):
    adata = embed(run, store, baselines={"X_untrained": untrained(run)})

    assert adata.obsm["X_untrained"].shape == adata.obsm["X_splicer"].shape
    assert not np.allclose(adata.obsm["X_untrained"], adata.obsm["X_splicer"])
    assert "X_compartments" not in adata.obsm


def test_baselines_without_training_describe_the_raw_patches_in_the_order_of_the_run(store, run):
    order = [2, 0, 1]
    shuffled = replace(run, markers=tuple(run.markers[one] for one in order))

    plain, other = (embed(one, store, closed_form=True) for one in (run, shuffled))

    patches, regions = store.read_rows(np.arange(store.n_cells))
    np.testing.assert_allclose(plain.obsm["X_blurred"], mean_of_blurred(patches, regions), rtol=1e-5)
    of_marker = plain.obsm["X_compartments"].reshape(store.n_cells, 3, -1)
    np.testing.assert_array_equal(other.obsm["X_compartments"].reshape(of_marker.shape), of_marker[:, order])
    assert (of_marker[:, :, :2] > 0).any()


def test_embedding_leaves_the_run_as_it_was(store, run):
    before = {name: tensor.clone() for name, tensor in run.encoder.state_dict().items()}

    embed(run, store)

    for name, tensor in run.encoder.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


def in_blocks(store, size, *, dies_at=None) -> tuple[Source, list[int]]:
    """Return the cells of a store in blocks of another size, and a list of the blocks that were asked for."""
    asked = []

    def blocks(skip):
        whole = store.read_block(0)
        for number in range(-(-store.n_cells // size)):
            if number in skip:
                continue
            if number == dies_at:
                raise KeyboardInterrupt
            asked.append(number)
            rows = slice(number * size, (number + 1) * size)
            parts = (whole.rows[rows], whole.cells[rows], whole.intensities[rows])
            yield Block(number, *parts, whole.patches[rows], whole.regions[rows])

    about = (store.slide_name, store.markers, store.patch_px, store.pixel_size_um)
    return Source(*about, blocks, store.ledger, spread=store.spread), asked


def assert_same(one: anndata.AnnData, other: anndata.AnnData) -> None:
    pd.testing.assert_frame_equal(one.obs, other.obs)
    pd.testing.assert_frame_equal(one.var, other.var)
    np.testing.assert_array_equal(one.X, other.X)
    np.testing.assert_equal(one.uns, other.uns)
    for mine, others in ((one.obsm, other.obsm), (one.layers, other.layers)):
        assert mine.keys() == others.keys()
        for key in mine:
            np.testing.assert_array_equal(np.asarray(mine[key]), np.asarray(others[key]))


@pytest.mark.parametrize(("size", "rows"), [(7, 4096), (32, 10), (5, 16), (200, 1)])
def test_the_file_does_not_depend_on_the_size_of_blocks_and_chunks(store, run, tmp_path, monkeypatch, size, rows):
    whole = embed(run, store)
    monkeypatch.setattr(h5ad, "_ROWS", rows)
    source, _ = in_blocks(store, size)

    path = embed_to_file(tmp_path / "cells.h5ad", run, source)

    assert [file.name for file in tmp_path.iterdir()] == ["cells.h5ad"]
    written = anndata.read_h5ad(path)
    # A patch passes the encoder in the same place of its group or in another: the last digit may differ.
    np.testing.assert_allclose(written.obsm["X_splicer"], whole.obsm["X_splicer"], rtol=1e-5, atol=1e-6)
    written.obsm["X_splicer"] = whole.obsm["X_splicer"]
    assert_same(written, whole)


def test_z_is_the_output_of_the_encoder_for_each_patch(store, run):
    block = store.read_block(0)
    with torch.inference_mode():
        z = run.encoder.eval()(run.normalize(block.patches, block.regions)).numpy()

    embedded = embed(run, store).obsm["X_splicer"]
    n_moments = run.encoder.moments.out_features
    np.testing.assert_allclose(embedded[:, :n_moments], z[:, :n_moments], rtol=1e-5, atol=1e-6)
    # Learned features are centred and divided by their deviation, which magnifies the rounding of folded batch norm.
    np.testing.assert_allclose(embedded, z, rtol=1e-5, atol=1e-5)


def test_an_interrupted_embedding_continues_with_the_missing_blocks(store, run, tmp_path):
    path = tmp_path / "cells.h5ad"
    source, _ = in_blocks(store, 16)
    embed_to_file(tmp_path / "whole.h5ad", run, source, compression=None)
    dying, asked = in_blocks(store, 16, dies_at=3)
    with pytest.raises(KeyboardInterrupt):
        embed_to_file(path, run, dying, compression=None)
    assert (asked, path.exists()) == ([0, 1, 2], False)
    half_written = next(Path(f"{path}.blocks").rglob("*1.npz")).rename(tmp_path / "half")
    Path(f"{path}.blocks/0/0000001.partial").write_bytes(half_written.read_bytes()[:1000])

    source, asked = in_blocks(store, 16)
    embed_to_file(path, run, source, compression=None)

    assert asked == [1, 3, 4, 5]
    assert_same(anndata.read_h5ad(path), anndata.read_h5ad(tmp_path / "whole.h5ad"))


def test_blocks_of_another_model_are_not_used(store, run, tmp_path):
    dying, _ = in_blocks(store, 16, dies_at=3)
    with pytest.raises(KeyboardInterrupt):
        embed_to_file(tmp_path / "cells.h5ad", untrained(run), dying)
    source, asked = in_blocks(store, 16)

    embed_to_file(tmp_path / "cells.h5ad", run, source)

    assert asked == [0, 1, 2, 3, 4, 5]


def test_blocks_of_other_cells_are_not_used(store, run, tmp_path):
    dying, _ = in_blocks(store, 16, dies_at=3)
    with pytest.raises(KeyboardInterrupt):
        embed_to_file(tmp_path / "cells.h5ad", run, replace(dying, made_from="the same slide, stained again"))
    source, asked = in_blocks(store, 16)

    embed_to_file(tmp_path / "cells.h5ad", run, source)

    assert asked == [0, 1, 2, 3, 4, 5]


def test_z_stays_on_disk_and_what_is_added_to_the_cells_is_saved_with_it(store, run, tmp_path):
    embedded = embed_to_file(tmp_path / "embedded.h5ad", run, store)
    before = anndata.read_h5ad(embedded)

    with open_cells(embedded) as adata:
        assert isinstance(adata.obsm["X_splicer"], h5py.Dataset)
        adata.obs["leiden"] = pd.Categorical(["a"] * adata.n_obs)
        adata.obsm["X_umap"] = np.zeros((adata.n_obs, 2), np.float32)
        adata.varm["r"] = np.ones((3, 2))
        adata.uns["mxsplicer"]["version"] = "0"
    complete_cells(adata, embedded, tmp_path / "cells.h5ad")

    assert [file.name for file in tmp_path.iterdir()] == ["cells.h5ad"]
    saved = anndata.read_h5ad(tmp_path / "cells.h5ad")
    assert (saved.obs["leiden"] == "a").all()
    assert set(saved.obsm) == {"spatial", "X_splicer", "X_umap"}
    assert (saved.varm["r"].shape, saved.uns["mxsplicer"]["version"]) == ((3, 2), "0")
    np.testing.assert_array_equal(saved.obsm["X_splicer"], before.obsm["X_splicer"])
    np.testing.assert_array_equal(saved.X, before.X)


def test_a_finished_file_is_changed_on_a_copy_and_nothing_else_in_it_changes(store, run, tmp_path, monkeypatch):
    path = embed_to_file(tmp_path / "cells.h5ad", run, store)
    before = anndata.read_h5ad(path)
    with open_cells(path) as adata:
        adata.obs["leiden"] = pd.Categorical(["a"] * adata.n_obs)
        save_cells(adata, path)
    write_obs(path, {"kind": pd.Categorical(["b"] * before.n_obs)})
    write_uns(path, {"scores": np.ones(3)})
    bytes_before = path.read_bytes()

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(h5ad.anndata.io, "write_elem", interrupt)
    for change in (write_obs, write_uns):
        with pytest.raises(KeyboardInterrupt):
            change(path, {"kind": np.zeros(before.n_obs)})

    assert path.read_bytes() == bytes_before
    assert [file.name for file in tmp_path.iterdir()] == ["cells.h5ad"]
    after = anndata.read_h5ad(path)
    assert set(after.obs["leiden"].astype(str) + after.obs["kind"].astype(str)) == {"ab"}
    np.testing.assert_array_equal(after.uns["scores"], np.ones(3))
    np.testing.assert_array_equal(after.obsm["X_splicer"], before.obsm["X_splicer"])


def test_further_measurements_become_layers(store, run):
    slide, mask = tiny_slide(cells_at=CELLS)
    cells = measure_cells(slide, mask, statistics=("mean", "std"))

    for source in (from_store(store, cells=cells), from_slide(slide, mask, cells, patch_size_um=store.patch_size_um)):
        adata = embed(run, source)

        rows = pd.Index(cells.table["cell_id"]).get_indexer(adata.obs["cell_id"])
        np.testing.assert_array_equal(adata.layers["std"], cells.measures["std"][rows])


def test_cells_of_several_slides_follow_each_other(store, run):
    first, _ = in_blocks(store, 16)
    second = Source("second", *[getattr(first, name) for name in ("markers", "patch_px", "pixel_size_um", "blocks")])

    adata = embed(run, [first, second])

    n = len(CELLS)
    assert list(adata.obs["slide"].cat.categories) == [store.slide_name, "second"]
    assert (adata.obs["slide"].iloc[n:] == "second").all()
    np.testing.assert_array_equal(adata.obsm["X_splicer"][:n], adata.obsm["X_splicer"][n:])
    assert adata.obs_names[n] == f"second_{adata.obs['cell_id'].iloc[0]}"
