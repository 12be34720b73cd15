import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from napari_mxsplicer.lasso import inside_polygon
from napari_mxsplicer.lazy import Labels, Strided, with_coarser
from napari_mxsplicer.raster import Raster

GREY = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 4, axis=1)


@given(
    st.integers(1, 7),
    st.tuples(*[st.tuples(st.integers(0, 40), st.integers(1, 60)) for _ in range(2)]),
)
def test_a_strided_array_is_every_kth_pixel(step, windows):
    image = np.arange(53 * 67).reshape(53, 67)
    key = tuple(slice(first, first + length) for first, length in windows)
    np.testing.assert_array_equal(Strided(image, step)[key], image[::step, ::step][key])


def test_levels_are_added_until_one_fits_a_screen():
    image = np.zeros((5000, 9000), dtype=np.uint8)
    assert [level.shape for level in with_coarser([Labels(image)])] == [
        (5000, 9000), (2500, 4500), (1250, 2250), (625, 1125)
    ]  # fmt: skip
    assert len(with_coarser([Labels(image[:900, :900])])) == 1


def test_a_pixel_of_the_umap_shows_the_mean_of_its_cells_that_have_a_value():
    raster = Raster(np.array([[0.1, 0.1], [0.2, 0.2], [0.9, 0.1], [0.9, 0.9]]))
    raster.set_window((0, 1, 0, 1), (2, 2))
    picture = raster.draw(np.array([0.2, 0.4, 1.0, np.nan]), GREY, (0, 1))
    assert abs(int(picture[0, 0, 0]) - 0.3 * 256) < 2
    assert picture[0, 1, 0] == 255
    assert not picture[1].any()


def test_cells_that_are_not_selected_are_grey():
    raster = Raster(np.array([[0.1, 0.1], [0.9, 0.1]]))
    raster.set_window((0, 1, 0, 1), (1, 2))
    picture = raster.draw(np.array([1.0, 1.0]), GREY, (0, 1), selection=np.array([1]))
    assert picture[0, 0].tolist() == [128, 128, 128, 70]
    assert picture[0, 1, 0] == 255


def test_a_lasso_selects_the_points_inside():
    xy = np.random.default_rng(0).uniform(-2, 2, (500, 2))
    square = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    np.testing.assert_array_equal(inside_polygon(xy, square), (np.abs(xy) < 1).all(axis=1))
    assert not inside_polygon(xy, square[:2]).any()


def test_the_nearest_cell_of_the_umap_is_found_within_reach():
    raster = Raster(np.array([[0.0, 0.0], [1.0, 0.0], [np.nan, np.nan]]))
    assert raster.nearest(0.9, 0.1, reach=0.2) == 1
    assert raster.nearest(0.5, 0.5, reach=0.2) is None
