import errno
import os
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxsplicer.cells.measure import measure_cells
from mxsplicer.errors import InputError
from mxsplicer.images.slide import Slide
from mxsplicer.patches.extraction import extract_patches, stream_blocks
from mxsplicer.patches.store import NUCLEUS, THIS_CELL, PatchStore
from mxsplicer.testing import tiny_slide


def crowded_slide():
    """Return a slide of four blocks: 32 x 128 cells of 6 x 6 pixels, two markers, read in four tiles."""
    rng = np.random.default_rng(0)
    mask = np.zeros((256, 1024), np.uint32)
    mask.reshape(32, 8, 128, 8)[:, 1:7, :, 1:7] = rng.permutation(4096).reshape(32, 1, 128, 1) * 3 + 7
    image = rng.integers(0, 1000, (2, 256, 1024), dtype=np.uint16)
    return Slide("crowded", image, ("DAPI", "CD8"), pixel_size_um=0.5, tile_px=(64, 64)), mask


def files_of(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(Path(path).rglob("*")) if file.is_file()}


class FailingImage:
    """An image whose reading fails after some tiles."""

    def __init__(self, image, n_good):
        self.image, self.n_good = image, n_good
        self.shape, self.dtype, self.ndim = image.shape, image.dtype, image.ndim

    def __getitem__(self, key):
        self.n_good -= 1
        if self.n_good < 0:
            raise OSError(errno.EIO, "unplugged")
        return self.image[key]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the crowded slide, its mask, its cells and the store that one thread makes of them."""
    slide, mask = crowded_slide()
    cells = measure_cells(slide, mask)
    path = tmp_path_factory.mktemp("whole") / "crowded.zarr"
    store = extract_patches(slide, mask, path, patch_size_um=6, cells=cells, workers=1)
    return SimpleNamespace(slide=slide, mask=mask, cells=cells, store=store, files=files_of(path))


def test_patch_is_centred_on_its_cell(tmp_path):
    slide, mask = tiny_slide(cells_at=[(20, 30)])

    store = extract_patches(slide, mask, tmp_path / "tiny.zarr", patch_size_um=8)

    np.testing.assert_array_equal(store.patches[0, :, 8, 8], slide.image[:, 20, 30])


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_every_patch_is_the_crop_of_the_slide_padded_with_zeros(data):
    height, width = data.draw(st.integers(24, 90)), data.draw(st.integers(24, 90))
    centres = data.draw(
        st.lists(st.tuples(st.integers(0, height - 1), st.integers(0, width - 1)), min_size=1, max_size=8)
    )
    slide, mask = tiny_slide(cells_at=centres, shape_px=(height, width), radius_px=3, seed=1)
    mask = mask * 70_001  # ids are sparse and need 32 bits
    tile_px = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    cells = measure_cells(slide, mask, min_area_um2=0)

    half = data.draw(st.integers(1, 12))
    (block,) = stream_blocks(replace(slide, tile_px=tile_px), mask, cells, patch_size_um=half, workers=1)

    padded = np.pad(slide.image, ((0, 0), (half, half), (half, half)))
    ids = np.pad(mask, half)
    for patch, region, cell in zip(block.patches, block.regions, block.cells.itertuples(), strict=True):
        y, x = int(np.floor(cell.y_px + 0.5)), int(np.floor(cell.x_px + 0.5))
        window = np.s_[y : y + 2 * half, x : x + 2 * half]
        np.testing.assert_array_equal(patch, padded[:, *window])
        np.testing.assert_array_equal(region, np.where(ids[window] == cell.cell_id, 1, np.where(ids[window] > 0, 2, 0)))
        inside = np.pad(np.ones((height, width)), half)[window]
        assert cell.patch_valid_fraction == pytest.approx(inside.mean())
    assert sorted(block.cells["cell_id"]) == sorted(cells.table["cell_id"])


def test_tiles_smaller_than_a_patch_make_the_same_patches():
    slide, mask = crowded_slide()
    cells = measure_cells(slide, mask).take(np.arange(50))
    in_tiles = replace(slide, tile_px=(30, 1024))

    (one,), (other,) = (list(stream_blocks(each, mask, cells, patch_size_um=120)) for each in (slide, in_tiles))

    # The order follows the tiles.
    by_id, other_by_id = (np.argsort(block.cells["cell_id"].to_numpy()) for block in (one, other))
    np.testing.assert_array_equal(one.patches[by_id], other.patches[other_by_id])
    np.testing.assert_array_equal(one.regions[by_id], other.regions[other_by_id])


@pytest.mark.parametrize("dtype", [">u2", "u1", "f4", ">f8", "i2"])
def test_every_data_type_is_stored_unchanged(tmp_path, dtype):
    slide, mask = tiny_slide()
    slide = replace(slide, image=(slide.image % 100).astype(dtype))

    store = extract_patches(slide, mask, tmp_path / "tiny.zarr", patch_size_um=16)

    (block,) = stream_blocks(slide, mask, measure_cells(slide, mask), patch_size_um=16)
    for patches in (store.patches[:], store.read_rows(np.arange(2))[0], block.patches):
        assert patches.dtype == np.dtype(dtype).newbyteorder("=")
        np.testing.assert_array_equal(patches[:, :, 16, 16], slide.image[:, [20, 40], [30, 70]].T)


def test_the_stream_has_the_bytes_of_the_store(whole):
    streamed = list(stream_blocks(whole.slide, whole.mask, whole.cells, patch_size_um=6, workers=2))

    assert [block.number for block in streamed] == list(range(whole.store.n_blocks)) == [0, 1, 2, 3]
    for block in streamed:
        stored = whole.store.read_block(block.number)
        for name in ["rows", "intensities", "patches", "regions"]:
            np.testing.assert_array_equal(getattr(block, name), getattr(stored, name))
        assert block.cells.equals(stored.cells)


def test_blocks_to_skip_are_not_cut(whole):
    (last,) = stream_blocks(whole.slide, whole.mask, whole.cells, patch_size_um=6, skip={0, 1, 2})

    np.testing.assert_array_equal(last.patches, whole.store.read_block(3).patches)


def test_rows_in_random_order_equal_those_that_zarr_reads(whole):
    rows = np.random.default_rng(0).integers(0, 4096, 300)

    patches, regions = whole.store.read_rows(rows)

    np.testing.assert_array_equal(patches, whole.store.patches[:][rows])
    np.testing.assert_array_equal(regions, whole.store.regions[:][rows])


@pytest.mark.parametrize("workers", [3, None])
def test_the_number_of_workers_does_not_change_a_byte(whole, tmp_path, workers):
    extract_patches(whole.slide, whole.mask, tmp_path / "a.zarr", patch_size_um=6, cells=whole.cells, workers=workers)

    assert files_of(tmp_path / "a.zarr") == whole.files


def test_blocks_of_zeros_are_written(tmp_path):
    slide, mask = tiny_slide()
    dark = replace(slide, image=np.zeros_like(slide.image))

    store = extract_patches(dark, mask, tmp_path / "dark.zarr", patch_size_um=16)

    assert (store.path / "patches" / "c" / "0" / "0" / "0" / "0").is_file()
    assert not store.patches[:].any()


@pytest.mark.parametrize("workers", [1, 3])
def test_a_failed_extraction_continues_and_ends_in_the_same_bytes(whole, tmp_path, workers):
    path = tmp_path / "a.zarr"
    failing = replace(whole.slide, image=FailingImage(whole.slide.image, 3))

    with pytest.raises(OSError, match="unplugged"):
        extract_patches(failing, whole.mask, path, patch_size_um=6, cells=whole.cells, workers=workers)
    assert not path.exists()
    extract_patches(whole.slide, whole.mask, path, patch_size_um=6, cells=whole.cells, workers=workers)

    assert files_of(path) == whole.files
    assert not path.with_name("a.zarr.partial").exists()


def test_blocks_that_are_written_are_not_cut_again(whole, tmp_path):
    path = tmp_path / "a.zarr"
    failing = replace(whole.slide, image=FailingImage(whole.slide.image, 3))
    with pytest.raises(OSError, match="unplugged"):
        extract_patches(failing, whole.mask, path, patch_size_um=6, cells=whole.cells, workers=1)
    shards = path.with_name("a.zarr.partial") / "patches" / "c"
    written = {shard: shard.stat().st_mtime_ns for shard in shards.rglob("*") if shard.is_file()}

    extract_patches(whole.slide, whole.mask, path, patch_size_um=6, cells=whole.cells)

    assert written
    for shard, when in written.items():
        assert (path / shard.relative_to(path.with_name("a.zarr.partial"))).stat().st_mtime_ns == when


def test_a_killed_extraction_continues_and_ends_in_the_same_bytes(whole, tmp_path):
    path = tmp_path / "a.zarr"
    np.save(tmp_path / "image.npy", whole.slide.image)
    np.save(tmp_path / "mask.npy", whole.mask)
    program = f"""
        import time
        import numpy as np
        from mxsplicer.patches.extraction import extract_patches
        from mxsplicer.cells.measure import measure_cells
        from mxsplicer.images.slide import Slide

        class Slow:
            def __init__(self, image):
                self.image, self.shape, self.dtype, self.ndim = image, image.shape, image.dtype, image.ndim
            def __getitem__(self, key):
                time.sleep(0.3)
                return self.image[key]

        image, mask = np.load({str(tmp_path / "image.npy")!r}), np.load({str(tmp_path / "mask.npy")!r})
        fast = Slide("crowded", image, ("DAPI", "CD8"), pixel_size_um=0.5, tile_px=(64, 64))
        slow = Slide("crowded", Slow(image), ("DAPI", "CD8"), pixel_size_um=0.5, tile_px=(64, 64))
        cells = measure_cells(fast, mask)
        extract_patches(slow, mask, {str(path)!r}, patch_size_um=6, cells=cells, workers=1)
    """
    running = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)])
    first_shard = path.with_name("a.zarr.partial") / "patches" / "c" / "0" / "0" / "0" / "0"
    try:
        deadline = time.monotonic() + 60
        while not first_shard.exists() and running.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
    finally:
        running.kill()
        running.wait()
    assert first_shard.exists()
    assert not path.exists()
    # What zarr leaves behind when it is killed in the middle of a shard.
    (first_shard.parent / "0.1f0c.partial").write_bytes(b"half a shard")

    extract_patches(whole.slide, whole.mask, path, patch_size_um=6, cells=whole.cells)

    assert files_of(path) == whole.files


def test_an_extraction_does_not_continue_if_image_mask_or_settings_differ(whole, tmp_path):
    path = tmp_path / "a.zarr"
    with pytest.raises(OSError, match="unplugged"):
        extract_patches(
            replace(whole.slide, image=FailingImage(whole.slide.image, 3)),
            whole.mask,
            path,
            patch_size_um=6,
            cells=whole.cells,
            workers=1,
        )
    before = files_of(path.with_name("a.zarr.partial"))
    brighter = replace(whole.slide, image=whole.slide.image + 1)
    moved = np.roll(whole.mask, 1, axis=0)

    with pytest.raises(InputError, match=r"another extraction: patch_size_um was 6 and is 7\."):
        extract_patches(whole.slide, whole.mask, path, patch_size_um=7, cells=whole.cells)
    with pytest.raises(InputError, match="another extraction: the cells differ, so the mask or the image does"):
        extract_patches(brighter, whole.mask, path, patch_size_um=6)
    with pytest.raises(InputError, match="another extraction: the cells differ, so the mask or the image does"):
        extract_patches(whole.slide, moved, path, patch_size_um=6)
    with pytest.raises(InputError, match="n_cells was 4096 and is 100; seed was None and is 0"):
        extract_patches(whole.slide, whole.mask, path, patch_size_um=6, cells=whole.cells, max_cells=100)
    assert files_of(path.with_name("a.zarr.partial")) == before

    store = extract_patches(whole.slide, whole.mask, path, patch_size_um=7, cells=whole.cells, overwrite=True)

    assert store.patch_px == 14


def test_a_sample_is_spread_over_the_tissue_and_recorded_in_the_ledger(whole, tmp_path):
    store = extract_patches(
        whole.slide, whole.mask, tmp_path / "a.zarr", patch_size_um=6, cells=whole.cells, max_cells=64, seed=1
    )

    assert store.n_cells == 64
    assert store.ledger == {"in mask": 4096, "kept": 64, "too small": 0, "not chosen": 4032}
    squares = store.cells["y_px"] // 64 * 16 + store.cells["x_px"] // 64
    assert squares.nunique() == 64  # one of each 8 x 8 cells


def test_a_patch_larger_than_the_slide_is_refused(tmp_path):
    slide, mask = tiny_slide()

    with pytest.raises(
        InputError, match=r"a patch of 40 µm \(80 pixels\).* 32 x 48 µm \(64 x 96 pixels.*`patch_size_um`"
    ):
        extract_patches(slide, mask, tmp_path / "tiny.zarr", patch_size_um=40)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("patch_size_um", [0, -3, float("nan")])
def test_a_patch_without_size_is_refused(tmp_path, patch_size_um):
    slide, mask = tiny_slide()

    with pytest.raises(InputError, match="patch"):
        extract_patches(slide, mask, tmp_path / "tiny.zarr", patch_size_um=patch_size_um)


def test_a_sample_of_no_cell_is_refused(tmp_path):
    slide, mask = tiny_slide()

    with pytest.raises(InputError, match="Set `max_cells` to 1 or more"):
        extract_patches(slide, mask, tmp_path / "tiny.zarr", patch_size_um=16, max_cells=0)


def test_a_mask_of_another_shape_is_refused(tmp_path):
    slide, mask = tiny_slide()

    with pytest.raises(InputError, match="Height and width look swapped"):
        extract_patches(slide, mask.T, tmp_path / "tiny.zarr", patch_size_um=16)


def test_only_stores_are_replaced_and_only_on_request(tmp_path):
    slide, mask = tiny_slide()
    path = tmp_path / "tiny.zarr"
    extract_patches(slide, mask, path, patch_size_um=16)
    (tmp_path / "thesis").mkdir()

    with pytest.raises(InputError, match=r"exists\. .*`overwrite=True`"):
        extract_patches(slide, mask, path, patch_size_um=8)
    with pytest.raises(InputError, match="is not a patch store, so it is not replaced"):
        extract_patches(slide, mask, tmp_path / "thesis", patch_size_um=8, overwrite=True)
    assert PatchStore.open(path).patch_px == 32

    assert extract_patches(slide, mask, path, patch_size_um=8, overwrite=True).patch_px == 16
    assert sorted(file.name for file in tmp_path.iterdir()) == ["thesis", "tiny.zarr"]


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(whole, tmp_path, monkeypatch):
    monkeypatch.setattr("mxsplicer.patches.store.shutil.disk_usage", lambda _: SimpleNamespace(free=100_000))

    with pytest.raises(InputError, match=r"4096 cells need about 0\.00\d+ GB, but the disk .* has 0\.0001 GB left"):
        extract_patches(whole.slide, whole.mask, tmp_path / "a.zarr", patch_size_um=6, cells=whole.cells)
    assert not list(tmp_path.iterdir())


def test_patches_that_compress_well_may_be_larger_than_the_disk(tmp_path, monkeypatch):
    slide, mask = tiny_slide()
    dark = replace(slide, image=np.zeros_like(slide.image))
    monkeypatch.setattr("mxsplicer.patches.store.shutil.disk_usage", lambda _: SimpleNamespace(free=10_000))

    assert extract_patches(dark, mask, tmp_path / "a.zarr", patch_size_um=16).n_cells == 2


def test_a_disk_that_fills_up_is_explained(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    slide, mask = tiny_slide()
    monkeypatch.setattr("pathlib.Path.replace", full)

    with pytest.raises(InputError, match=r"is full; the store needs up to .* GB in total"):
        extract_patches(slide, mask, tmp_path / "a.zarr", patch_size_um=16)


def test_only_a_few_blocks_are_cut_ahead(whole):
    watched = FailingImage(whole.slide.image, n_good=4)
    stream = stream_blocks(replace(whole.slide, image=watched), whole.mask, whole.cells, patch_size_um=6, workers=1)

    next(stream)
    time.sleep(0.2)
    stream.close()

    assert watched.n_good == 1  # the last of four tiles is not needed before the third block


def test_a_store_distinguishes_nuclei_if_a_mask_of_nuclei_is_passed(tmp_path):
    slide, mask = tiny_slide(cells_at=[(20, 30), (24, 34)])
    nuclei = np.where(np.indices(mask.shape)[0] < 22, mask, 0)  # the upper half of each cell
    nuclei[:, :10] = 1  # outside all cells

    plain, with_nuclei = (
        extract_patches(slide, mask, tmp_path / name, patch_size_um=16, nuclei=given)
        for name, given in (("plain.zarr", None), ("nuclei.zarr", nuclei))
    )

    assert (plain.knows_nuclei, with_nuclei.knows_nuclei) == (False, True)
    before, after = plain.regions[:], with_nuclei.regions[:]
    np.testing.assert_array_equal(np.where(after == NUCLEUS, THIS_CELL, after), before)
    for patch, row in zip(after, with_nuclei.cells.itertuples(), strict=True):
        assert (patch == NUCLEUS).sum() == ((mask == row.cell_id) & (nuclei == row.cell_id)).sum() > 0
    np.testing.assert_array_equal(plain.patches[:], with_nuclei.patches[:])
