import numpy as np
import pytest

from mxsplicer.errors import InputError
from mxsplicer.images.slide import Slide
from mxsplicer.patches.extraction import extract_patches
from mxsplicer.patches.extraction_plan import plan_extraction


@pytest.fixture(scope="module")
def tissue():
    """Return a slide of 32 x 32 cells and its mask."""
    rng = np.random.default_rng(0)
    mask = np.zeros((1024, 1024), np.uint32)
    mask.reshape(32, 32, 32, 32)[:, 8:24, :, 8:24] = np.arange(1, 1025).reshape(32, 1, 32, 1)
    image = rng.integers(0, 1000, (2, 1024, 1024), dtype=np.uint16)
    return Slide("tissue", image, ("DAPI", "CD8"), pixel_size_um=0.5, tile_px=(256, 256)), mask


def test_a_plan_is_close_to_the_extraction_and_writes_nothing(tissue, tmp_path):
    plan = plan_extraction(*tissue, patch_size_um=16)
    assert not list(tmp_path.iterdir())

    store = extract_patches(*tissue, tmp_path / "a.zarr", patch_size_um=16)

    on_disk = sum(
        file.stat().st_size
        for name in ("patches", "regions")
        for file in (store.path / name).rglob("*")
        if file.is_file()
    )
    assert plan.n_cells == plan.n_cells_of_slide == store.n_cells
    assert plan.patch_shape == store.patches.shape[1:]
    assert (plan.n_blocks, plan.n_tiles, plan.dtype) == (1, 16, "uint16")
    assert plan.store_bytes == pytest.approx(on_disk, rel=0.1)
    assert plan.raw_bytes == store.n_cells * 32 * 32 * 5
    assert plan.dominated_by in plan.seconds
    assert min(plan.seconds.values()) >= 0


def test_a_plan_counts_the_cells_of_the_mask(tissue):
    slide, mask = tissue
    sparse = np.where((mask % 7 == 3) | (mask > 1000), mask, 0)  # most of them in one corner

    plan = plan_extraction(slide, sparse, patch_size_um=16)

    assert plan.n_cells_of_slide == len(np.unique(sparse)) - 1


def test_a_plan_respects_the_sample_and_the_memory(tissue):
    plan = plan_extraction(*tissue, patch_size_um=16, max_cells=100, workers=3, max_bytes=1 << 40)

    assert (plan.n_cells, plan.n_cells_of_slide, plan.workers) == (100, 1024, 3)
    assert plan.memory_bytes <= 1 << 40
    with pytest.raises(InputError, match=r"^1M of memory is too little"):
        plan_extraction(*tissue, patch_size_um=16, max_bytes=1 << 20)


def test_a_plan_is_printed_in_a_few_lines(tissue):
    text = str(plan_extraction(*tissue, patch_size_um=16))

    assert [line.split()[0] for line in text.splitlines()[:5]] == ["cells", "patch", "disk", "memory", "time"]
    assert "about 1,024 of 1,024, in 1 blocks" in text


def test_a_mask_without_cells_is_refused(tissue):
    slide, mask = tissue

    with pytest.raises(InputError, match="none of the 12 tiles of slide 'tissue' that were tried holds a cell"):
        plan_extraction(slide, np.zeros_like(mask), patch_size_um=16)
