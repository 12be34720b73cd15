"""Cells are measured as scikit-image would, however the slide is cut into tiles."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.measure import regionprops_table

from mxsplicer.cells.measure import measure_cells
from mxsplicer.errors import InputError
from mxsplicer.images.slide import Slide
from mxsplicer.system.memory import Budget


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
    names += ["orientation"]
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
    # The axis has no direction where the cell is as long as it is wide.
    known_phase = np.exp(2j * known["orientation"]) * known["eccentricity"] ** 4
    phase = np.exp(2j * table["orientation"].to_numpy()) * table["eccentricity"].to_numpy() ** 4
    some = known["eccentricity"] > 1e-3
    np.testing.assert_allclose(phase[some], known_phase[some], atol=1e-9)
    means = np.stack([known[f"intensity_mean-{channel}"] for channel in range(3)], axis=1)
    np.testing.assert_allclose(cells.intensities, means, rtol=1e-6)
    assert cells.intensities.dtype == np.float32


def measured_one_by_one(image, mask, cell_id, nuclei, rim_px, around_px):
    """Measure a cell with the whole slide at hand, as the words of the docs say."""
    inside = mask == cell_id
    far = np.full(mask.shape, np.inf)
    depth = ndimage.distance_transform_edt(inside) if not inside.all() else far
    reach = ndimage.distance_transform_edt(~inside)
    nucleus = inside & (nuclei == cell_id)
    parts = {
        "ring": inside & (depth <= rim_px),
        "nucleus": nucleus,
        "surroundings": ~inside & (reach <= around_px),
    }
    values = image[:, inside].astype(np.float64)
    found = {part: image[:, at].mean(axis=1) if at.any() else np.full(len(image), np.nan) for part, at in parts.items()}
    return found | {
        "sum": values.sum(axis=1),
        "std": values.std(axis=1),
        "median": np.median(values, axis=1),
        "p12.5": np.percentile(values, 12.5, axis=1),
        "p90": np.percentile(values, 90, axis=1),
    }


@settings(max_examples=60, deadline=None)
@given(
    mask=masks(),
    tile_px=st.sampled_from([16, 32, 4096]),
    workers=st.sampled_from([1, 2]),
    radii=st.sampled_from([(1.0, 2.0), (2.5, 5.0), (0.2, 1.0), (20.0, 40.0)]),
    dtype=st.sampled_from(["uint8", "uint16", "int16", "uint32", "int32", "float32", "float64", ">u2", ">f4"]),
)
def test_every_statistic_is_what_numpy_finds_with_the_whole_slide_at_hand(mask, tile_px, workers, radii, dtype):
    rng = np.random.default_rng(0)
    low = 0 if np.dtype(dtype).kind == "u" else -100
    image = (rng.integers(low, 120, (2, *mask.shape)) + (0.25 if np.dtype(dtype).kind == "f" else 0)).astype(dtype)
    nuclei = np.where(rng.random(mask.shape) < 0.5, mask, 0)
    nuclei[0] = rng.permutation(mask[0])
    nuclei[-1, -1] = mask[-1, -1]
    asked = ("ring", "nucleus", "surroundings", "sum", "std", "median", "p12.5", "p90")

    cells = measure_cells(
        slide_of(image, pixel_size_um=0.5),
        mask,
        nuclei=nuclei,
        statistics=asked,
        ring_um=0.5 * radii[0],
        surroundings_um=0.5 * radii[1],
        min_area_um2=0,
        tile_px=tile_px,
        workers=workers,
    )

    assert set(cells.measures) == set(asked)
    for row, cell_id in enumerate(cells.table["cell_id"]):
        known = measured_one_by_one(image, mask, cell_id, nuclei, max(1, radii[0]), radii[1])
        for name in asked:
            values = cells.measures[name]
            assert values.dtype == np.float32
            np.testing.assert_allclose(values[row], known[name], rtol=1e-6, atol=1e-5, err_msg=name)


def test_tiles_and_threads_change_no_bit_of_the_result():
    rng = np.random.default_rng(0)
    mask = np.kron(rng.permutation(100).reshape(10, 10), np.ones((11, 13))).astype(np.uint32)
    slide = slide_of(rng.integers(0, 2**16, (3, *mask.shape)).astype(np.uint16))
    asked = ("ring", "surroundings", "std", "median")

    whole, *others = (
        measure_cells(slide, mask, statistics=asked, tile_px=tile_px, workers=workers)
        for tile_px, workers in [(4096, 1), (16, 1), (16, 3), (48, 2)]
    )

    for other in others:
        np.testing.assert_array_equal(other.table["cell_id"], whole.table["cell_id"])
        np.testing.assert_array_equal(other.intensities, whole.intensities)
        for name in ("ring", "surroundings", "median"):
            np.testing.assert_array_equal(other.measures[name], whole.measures[name])
        np.testing.assert_allclose(other.measures["std"], whole.measures["std"], rtol=1e-6)


def test_the_mean_of_an_empty_compartment_is_nan():
    mask = np.ones((20, 20), np.uint8)
    nuclei = np.zeros_like(mask)
    slide = slide_of(np.ones((1, 20, 20), np.uint8))

    cells = measure_cells(slide, mask, statistics=("ring", "surroundings"))
    assert np.isnan([cells.measures["ring"].item(), cells.measures["surroundings"].item()]).all()

    mask[:, 10:] = 2
    nuclei[:5, :5] = 1
    cells = measure_cells(slide, mask, nuclei=nuclei, statistics=("nucleus",))
    np.testing.assert_array_equal(cells.measures["nucleus"], [[1], [np.nan]])
    assert cells.table["nucleus_area_um2"].tolist() == [25, 0]


def test_every_nucleus_is_in_a_ledger_of_its_own():
    mask = np.zeros((40, 40), np.uint32)
    mask[:10, :10], mask[:10, 20:30], mask[20:30, :10] = 5, 6, 7
    nuclei = np.zeros_like(mask)
    nuclei[2:5, 2:5], nuclei[35, 35], nuclei[12:14, 12:14] = 5, 6, 99  # in its cell, out of it, of no cell

    cells = measure_cells(slide_of(np.ones((1, 40, 40), np.uint8)), mask, nuclei=nuclei)

    assert cells.nuclei_ledger == {
        "in nucleus mask": 3,
        "inside their cell": 1,
        "outside their cell": 1,
        "without a cell": 1,
    }
    assert cells.ledger == {"in mask": 3, "kept": 3, "too small": 0}
    assert cells.take(np.array([1])).nuclei_ledger == cells.nuclei_ledger
    with pytest.raises(InputError, match="must carry the id of its cell"):
        measure_cells(slide_of(np.ones((1, 40, 40), np.uint8)), mask, nuclei=np.where(nuclei == 99, 99, 0))


@pytest.mark.parametrize("name", ["p101", "p", "mode", "p-1", "p5x"])
def test_a_statistic_that_does_not_exist_is_refused_and_the_others_named(name):
    with pytest.raises(InputError, match=r"mean, median, sum, std.*percentile"):
        measure_cells(slide_of(np.ones((1, 8, 8))), np.ones((8, 8), np.uint8), statistics=("mean", name))


def test_the_mean_of_nuclei_needs_a_mask_of_nuclei():
    with pytest.raises(InputError, match="Give `nuclei`"):
        measure_cells(slide_of(np.ones((1, 8, 8))), np.ones((8, 8), np.uint8), statistics=("nucleus",))


def test_memory_that_cannot_hold_the_table_is_refused_before_the_image_is_read(monkeypatch):
    mask = np.arange(1, 65537, dtype=np.uint32).reshape(256, 256)
    monkeypatch.setattr(Budget, "of", lambda limit: Budget(total=limit))

    with pytest.raises(InputError, match="65536 cells, 20 markers and 3 measures"):
        measure_cells(
            slide_of(np.zeros((20, 256, 256), np.uint8)),
            mask,
            min_area_um2=0,
            statistics=["sum", "std"],
            max_bytes=10 << 20,
        )


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
    cells = measure_cells(slide_of(np.stack([mask])), mask, statistics=["median"])

    some = cells.take(np.array([4, 2]))

    assert some.table["cell_id"].tolist() == [5, 3]
    assert some.intensities[:, 0].tolist() == [5, 3]
    assert some.measures["median"][:, 0].tolist() == [5, 3]
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
    ("mask", "expected"),
    [
        (np.zeros((32, 32), np.uint8), "only background"),
        (np.zeros((32, 30), np.uint8), "mask is"),
        (np.full((32, 32), 0.5), "whole numbers"),
        (np.full((32, 32), -1), "holds -1"),
        (np.full((32, 32), 2**32), "holds 4294967296"),
        (np.eye(32, dtype=np.uint8), "smaller than 40 µm²"),
    ],
)
def test_a_mask_that_cannot_be_measured_is_refused_in_one_sentence(mask, expected):
    with pytest.raises(InputError, match=expected):
        measure_cells(slide_of(np.ones((1, 32, 32))), mask, min_area_um2=40)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_image_with_nan_or_infinite_pixels_is_refused_and_the_marker_named(value):
    image = np.ones((2, 32, 32), np.float32)
    image[1, 20, 20] = value

    with pytest.raises(InputError, match="'M1'"):
        measure_cells(slide_of(image), np.ones((32, 32), np.uint32))
