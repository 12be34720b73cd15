"""The side of a patch follows from the cells."""

import numpy as np
import pandas as pd
import pytest

from mxsplicer.cells.measure import measure_cells
from mxsplicer.images.slide import Slide
from mxsplicer.patches.fitting import describe_larger, fit_patch, measure_extents


def cells_of(sides):
    """Return the table of square cells of odd sides, 200 px apart."""
    mask = np.zeros((200, 200 * len(sides)), np.uint32)
    for number, side in enumerate(sides):
        left = 200 * number + 100 - side // 2
        mask[100 - side // 2 : 100 - side // 2 + side, left : left + side] = number + 1
    slide = Slide("S01", np.ones((1, *mask.shape), np.uint16), ("DAPI",), pixel_size_um=0.5)
    return measure_cells(slide, mask, min_area_um2=0).table


def test_the_extent_of_a_cell_is_the_centred_square_that_holds_it():
    np.testing.assert_array_equal(measure_extents(cells_of([3, 25])), [3, 25])


@pytest.mark.parametrize(("side", "patch_px"), [(3, 16), (23, 24), (25, 32), (31, 32), (33, 40), (151, 96)])
def test_the_side_is_a_multiple_of_8_px_within_bounds(side, patch_px):
    fit = fit_patch({"S01": (cells_of([side] * 5), 0.5)})

    assert (fit.patch_px, fit.patch_size_um, fit.n_larger) == (patch_px, patch_px / 2, 5 * (side > 96))


def test_one_cell_in_a_hundred_may_be_larger_and_is_counted():
    fit = fit_patch({"S01": (cells_of([21] * 250 + [41]), 0.5)})

    assert (fit.patch_px, fit.n_larger, fit.n_cells) == (24, 1, 251)
    assert describe_larger(1, 251) == "; 1 of 251 cells is larger, and cut off at the edge"
    assert describe_larger(0, 5) == ""


def test_several_slides_share_one_side_in_micrometres():
    small, large = cells_of([15] * 4), cells_of([31] * 4)

    fit = fit_patch({"A": (small, 0.5), "B": (large, 0.5)})

    assert fit == fit_patch({"A": (pd.concat([small, large]), 0.5)})
    assert fit.patch_px == 32


def test_a_patch_is_not_larger_than_a_slide():
    assert fit_patch({"S01": (cells_of([41]), 0.5)}, shapes_px={"S01": (300, 37)}).patch_px == 36
