"""Cells are measured as scikit-image would, however the slide is cut into tiles."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import regionprops_table

from mxsplicer.errors import InputError
from mxsplicer.slides.cells import measure_cells
from mxsplicer.slides.slide import Slide


def slide_of(image, *, pixel_size_um=1.0, tile_px=(16, 16)):
    markers = tuple(f"M{channel}" for channel in range(len(image)))
    return Slide("S01", image, markers, pixel_size_um, tile_px=tile_px)


@st.composite
def masks(draw):
    """Blobs, specks and fragments with sparse ids; a label may lie anywhere in any number of parts."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = rng.integers(1, 70, 2)
    ids = np.append(0, rng.integers(1, 2**32, rng.integers(1, 12)))
    coarse = rng.choice(ids, (shape // rng.integers(1, 12, 2)) + 1)
    mask = np.kron(coarse, np.ones(-(-shape // coarse.shape), dtype=np.int64))[: shape[0], : shape[1]]
    mask[rng.random(mask.shape) < rng.choice([0, 0.3])] = 0
    mask[-1, -1] = ids[1]
    return mask.astype(rng.choice(["uint32", "int64", "uint64"]))


@settings(max_examples=60, deadline=None)
@given(mask=masks(), tile_px=st.sampled_from([16, 32, 4096]), pixel_size_um=st.sampled_from([0.325, 1.0]))
def test_cells_are_measured_as_regionprops_measures_them(mask, tile_px, pixel_size_um):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 60_000, (3, *mask.shape)).astype(np.uint16)
    slide = slide_of(image, pixel_size_um=pixel_size_um)

    cells = measure_cells(slide, mask, min_area_um2=0, tile_px=tile_px)

    ids, small = np.unique(mask, return_inverse=True)  # regionprops makes an array as long as the largest id
    small = small.reshape(mask.shape) + int(ids[0] != 0)
    names = ["centroid", "area", "bbox", "eccentricity", "axis_major_length", "axis_minor_length", "intensity_mean"]
    known = regionprops_table(small, np.moveaxis(image, 0, -1), properties=names)
    table = cells.table
    assert table["cell_id"].tolist() == ids[ids > 0].tolist()
    np.testing.assert_allclose(table[["y_px", "x_px"]], np.stack([known["centroid-0"], known["centroid-1"]], axis=1))
    np.testing.assert_allclose(table[["x", "y"]], table[["x_px", "y_px"]] * pixel_size_um)
    np.testing.assert_allclose(table["area_um2"], known["area"] * pixel_size_um**2)
    np.testing.assert_array_equal(
        table[["y0", "x0", "y1", "x1"]], np.stack([known[f"bbox-{side}"] for side in range(4)], axis=1)
    )
    # Squares, because the root of a rounding error is large where an axis has no length.
    np.testing.assert_allclose(table["eccentricity"] ** 2, known["eccentricity"] ** 2, atol=1e-9)
    for ours, theirs in [("major_axis_um", "axis_major_length"), ("minor_axis_um", "axis_minor_length")]:
        np.testing.assert_allclose(table[ours] ** 2, (known[theirs] * pixel_size_um) ** 2, rtol=1e-9, atol=1e-8)
    means = np.stack([known[f"intensity_mean-{channel}"] for channel in range(3)], axis=1)
    np.testing.assert_allclose(cells.intensities, means, rtol=1e-6)
    assert cells.intensities.dtype == np.float32


def test_touching_the_edge_of_the_slide_is_flagged_and_touching_the_edge_of_a_tile_is_not():
    mask = np.zeros((64, 64), np.uint32)
    for cell_id, (top, left) in enumerate([(0, 20), (20, 0), (60, 20), (20, 60), (14, 14), (32, 32)], start=1):
        mask[top : top + 4, left : left + 4] = cell_id

    table = measure_cells(slide_of(np.ones((1, 64, 64))), mask, tile_px=16).table

    assert table["at_border"].tolist() == [True, True, True, True, False, False]


def test_every_id_of_the_mask_is_in_the_ledger():
    mask = np.zeros((64, 64), np.uint16)
    mask[5:9, 5:9], mask[20, 20], mask[40:50, 40:50] = 900, 3, 7

    cells = measure_cells(slide_of(np.ones((1, 64, 64), np.uint8)), mask, min_area_um2=16)

    assert cells.table["cell_id"].tolist() == [7, 900]
    assert cells.ledger == {"in mask": 3, "kept": 2, "too small": 1}


def test_taken_cells_keep_their_values_and_the_ledger_still_closes():
    mask = np.kron(np.arange(16).reshape(4, 4), np.ones((8, 8))).astype(np.uint32)
    cells = measure_cells(slide_of(np.stack([mask])), mask)

    some = cells.take(np.array([4, 2]))

    assert some.table["cell_id"].tolist() == [5, 3]
    assert some.intensities[:, 0].tolist() == [5, 3]
    assert some.ledger == {"in mask": 15, "kept": 2, "too small": 0, "not chosen": 13}
    assert cells.take(cells.table["cell_id"].to_numpy() > 5).take(np.array([0])).ledger["not chosen"] == 14


def test_the_mean_of_a_large_bright_cell_is_exact():
    image = np.full((1, 512, 512), 65_535, np.uint16)
    image[0, ::2] = 65_534

    cells = measure_cells(slide_of(image), np.full((512, 512), 2**32 - 1, np.uint32), tile_px=64)

    assert cells.intensities.item() == 65_534.5
    assert cells.table["cell_id"].item() == 2**32 - 1


def test_tiles_without_cells_are_not_read_from_the_image():
    class Recorded:
        shape, dtype, ndim, read = (1, 64, 64), np.dtype("u1"), 3, 0

        def __getitem__(self, key):
            self.read += 1
            return np.zeros(self.shape, self.dtype)[key]

    image = Recorded()
    mask = np.zeros((64, 64), np.uint32)
    mask[14:18, 4:8] = 1

    measure_cells(Slide("S01", image, ("M",), 1.0, tile_px=(16, 16)), mask, tile_px=16)

    assert image.read == 2


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (np.zeros((32, 32), np.uint8), "only background"),
        (np.zeros((32, 30), np.uint8), "mask is"),
        (np.full((32, 32), 0.5), "whole numbers"),
        (np.full((32, 32), -1), "holds -1"),
        (np.full((32, 32), 2**32), "holds 4294967296"),
        (np.eye(32, dtype=np.uint8), "smaller than 40 µm²"),
    ],
)
def test_a_mask_that_cannot_be_measured_is_refused_in_one_sentence(mask, said):
    with pytest.raises(InputError, match=said):
        measure_cells(slide_of(np.ones((1, 32, 32))), mask, min_area_um2=40)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_image_with_nan_or_infinite_pixels_is_refused_and_the_marker_named(value):
    image = np.ones((2, 32, 32), np.float32)
    image[1, 20, 20] = value

    with pytest.raises(InputError, match="'M1'"):
        measure_cells(slide_of(image), np.ones((32, 32), np.uint32))
