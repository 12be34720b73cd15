import copy
import json
from functools import partial

import numpy as np
import pytest
import zarr

from mxsplicer.errors import InputError
from mxsplicer.patches.store import BACKGROUND, OTHER_CELL, THIS_CELL, PatchStore, PatchStoreView
from mxsplicer.testing import tiny_slide, tiny_store


@pytest.fixture
def store(tmp_path):
    return tiny_store(tmp_path / "tiny.zarr", cells_at=[(20, 30), (28, 38), (40, 70), (50, 10)])


def test_a_store_describes_its_content(store):
    assert store.n_cells == 4
    assert store.markers == ("DAPI", "CD3e", "CD20")
    assert (store.patch_px, store.patch_size_um, store.pixel_size_um) == (32, 16, 0.5)
    assert (store.slide_name, store.level, store.block_size, store.n_blocks) == ("tiny", 0, 1024, 1)
    assert store.ledger["kept"] == 4
    assert store.patches.dtype == np.uint16
    assert {BACKGROUND, THIS_CELL, OTHER_CELL} == set(np.unique(store.regions[:]))


def test_the_table_of_cells_is_stored_unchanged(store):
    cells = store.cells

    assert cells["cell_id"].dtype == np.uint32
    assert cells["at_border"].dtype == bool
    assert sorted(cells["cell_id"]) == [1, 2, 3, 4]
    assert set(cells["block"]) == {0}
    assert cells.columns[:5].tolist() == ["cell_id", "x", "y", "x_px", "y_px"]


def test_intensities_are_the_means_of_the_cells(store):
    slide, mask = tiny_slide(cells_at=[(20, 30), (28, 38), (40, 70), (50, 10)])

    means = [slide.image[:, mask == cell_id].mean(axis=1) for cell_id in store.cells["cell_id"]]

    np.testing.assert_allclose(store.intensities, means, rtol=1e-6)


def test_rows_are_read_in_the_order_given(store):
    patches, regions = store.read_rows(np.array([3, 0, 3]))

    np.testing.assert_array_equal(patches, store.patches[:][[3, 0, 3]])
    np.testing.assert_array_equal(regions, store.regions[:][[3, 0, 3]])


def test_rows_that_do_not_exist_are_refused(store):
    assert store.read_rows(np.array([], dtype=int))[0].shape == (0, 3, 32, 32)
    with pytest.raises(InputError, match="has rows 0 to 3, but -1 to 4 were asked for"):
        store.read_rows(np.array([-1, 4]))


def test_a_block_holds_the_rows_of_the_store(store):
    block = store.read_block(0)

    np.testing.assert_array_equal(block.rows, np.arange(4))
    np.testing.assert_array_equal(block.patches, store.patches[:])
    np.testing.assert_array_equal(block.intensities, store.intensities)
    assert block.cells.equals(store.cells)
    with pytest.raises(InputError, match="blocks 0 to 0, but block 1 was asked for"):
        store.read_block(1)


def test_other_folders_and_files_are_refused(tmp_path):
    (tmp_path / "text").write_text("hello")
    zarr.create_array(tmp_path / "array.zarr", shape=(3,), dtype="u2")
    zarr.create_group(tmp_path / "group.zarr")
    (tmp_path / "broken.zarr").mkdir()
    (tmp_path / "broken.zarr" / "zarr.json").write_text("{")

    with pytest.raises(InputError, match=r"patch store .* not found"):
        PatchStore.open(tmp_path / "absent")
    for name in ["text", "array.zarr", "group.zarr", "broken.zarr"]:
        with pytest.raises(InputError, match="is not a patch store"):
            PatchStore.open(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"version": 99}, "has version 99.*Update mxsplicer"), ({"complete": False}, "is unfinished")],
)
def test_newer_and_unfinished_stores_are_refused(store, change, message):
    metadata = store.path / "zarr.json"
    content = json.loads(metadata.read_text())
    content["attributes"]["mxsplicer patches"] |= change
    metadata.write_text(json.dumps(content))

    with pytest.raises(InputError, match=message):
        PatchStore.open(store.path)


def test_a_view_transforms_patches_and_leaves_everything_else_to_the_store(tmp_path):
    store = tiny_store(tmp_path / "tiny.zarr")
    view = PatchStoreView(store, partial(np.flip, axis=1), dtype=np.uint16, markers=store.markers[::-1])

    block, of_store = view.read_block(0), store.read_block(0)

    np.testing.assert_array_equal(block.patches, of_store.patches[:, ::-1])
    np.testing.assert_array_equal(view.read_rows(np.array([1]))[0], of_store.patches[1:, ::-1])
    np.testing.assert_array_equal(block.regions, of_store.regions)
    assert view.markers == store.markers[::-1]
    assert view.cells is store.cells
    assert view.intensities is store.intensities
    assert (view.n_blocks, view.path, view.knows_nuclei) == (store.n_blocks, store.path, store.knows_nuclei)
    with pytest.raises(AttributeError):
        view.absent  # noqa: B018
    assert copy.copy(view).n_cells == store.n_cells
