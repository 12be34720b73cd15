import numpy as np
import pytest

from mxsplicer import cut_patches
from mxsplicer.cells.measure import measure_cells
from mxsplicer.errors import InputError
from mxsplicer.images.slide import Slide
from mxsplicer.patches.extraction import stream_blocks
from mxsplicer.testing import tiny_slide


class CountingImage:
    """An image that counts how often each of its tiles is read."""

    def __init__(self, image):
        self.image, self.reads = image, []
        self.shape, self.dtype, self.ndim = image.shape, image.dtype, image.ndim

    def __getitem__(self, key):
        self.reads.append(str(key))
        return self.image[key]


@pytest.fixture(scope="module")
def tissue():
    rng = np.random.default_rng(0)
    mask = np.zeros((512, 768), np.uint32)
    mask.reshape(32, 16, 48, 16)[:, 2:14, :, 3:12] = rng.permutation(32 * 48).reshape(32, 1, 48, 1) * 2 + 5
    image = rng.integers(0, 1000, (3, 512, 768), dtype=np.uint16)
    slide = Slide("S01", image, ("DAPI", "CD4", "CD8"), pixel_size_um=0.5, tile_px=(256, 256))
    return slide, mask, measure_cells(slide, mask, min_area_um2=0)


def test_patches_of_single_cells_equal_those_of_extraction_in_the_order_given(tissue):
    slide, mask, cells = tissue
    table = cells.table.sample(200, random_state=1)

    patches, regions = cut_patches(slide, mask, table["x_px"], table["y_px"], table["cell_id"], patch_size_um=16)

    whole = list(stream_blocks(slide, mask, cells, patch_size_um=16))
    ids = np.concatenate([block.cells["cell_id"] for block in whole])
    place = {cell: row for row, cell in enumerate(ids)}
    rows = [place[cell] for cell in table["cell_id"]]
    np.testing.assert_array_equal(patches, np.concatenate([block.patches for block in whole])[rows], strict=True)
    np.testing.assert_array_equal(regions, np.concatenate([block.regions for block in whole])[rows], strict=True)


def test_each_tile_is_read_once_however_many_cells_lie_on_it(tissue):
    slide, mask, cells = tissue
    image = CountingImage(slide.image)
    counted = Slide("S01", image, slide.markers, pixel_size_um=0.5, tile_px=(256, 256))
    table = cells.table.sample(300, random_state=2)

    cut_patches(counted, mask, table["x_px"], table["y_px"], table["cell_id"], patch_px=24)

    assert len(image.reads) == len(set(image.reads)) == 6


def test_an_empty_list_of_cells_gives_no_patches():
    slide, mask = tiny_slide()

    patches, regions = cut_patches(slide, mask, np.array([]), np.array([]), np.array([], np.uint32), patch_px=8)

    assert patches.shape == (0, 3, 8, 8)
    assert regions.shape == (0, 8, 8)


@pytest.mark.parametrize(
    ("columns", "size", "message"),
    [
        (([1.0], [2.0], [1]), {}, "size of the patches is missing. Pass either `patch_px` or `patch_size_um`"),
        (([1.0], [2.0], [1]), {"patch_px": 8, "patch_size_um": 4.0}, "is given twice"),
        (([1.0], [2.0, 3.0], [1]), {"patch_px": 8}, "have 1, 2 and 1 entries"),
    ],
)
def test_wrong_arguments_are_refused(columns, size, message):
    slide, mask = tiny_slide()

    with pytest.raises(InputError, match=message):
        cut_patches(slide, mask, *columns, **size)
