"""Gates and raised markers, on cells whose groups are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from napari_mxsplicer.gates import gated_rows, histogram, proposed_threshold, raised_markers


def two_groups(n=400):
    rng = np.random.default_rng(0)
    return np.concatenate([rng.lognormal(3, 0.3, n), rng.lognormal(6, 0.3, n)])


def test_the_proposed_threshold_separates_two_groups():
    values = two_groups()
    assert values[:400].max() < proposed_threshold(values) < values[400:].min()


@pytest.mark.parametrize("values", [[], [5.0, 5.0], [np.nan, 3.0]])
def test_cells_without_two_groups_have_a_threshold_and_a_histogram(values):
    values = np.array(values, dtype=float)
    assert np.isfinite(proposed_threshold(values))
    assert histogram(values).counts.sum() == np.isfinite(values).sum()


def test_a_gate_selects_one_side_and_leaves_out_missing_values():
    values = np.array([1.0, np.nan, 3.0, 2.0])
    assert gated_rows(values, 2, above=True).tolist() == [2, 3]
    assert gated_rows(values, 2, above=False).tolist() == [0]
    assert gated_rows(values, 2, above=True, among=np.array([0, 3])).tolist() == [3]


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50))
def test_every_place_in_a_histogram_is_the_intensity_drawn_there(values):
    shown = histogram(np.array(values))
    assert shown.counts.sum() == len(values)
    for value in values:
        assert shown.value(shown.place(value)) == pytest.approx(value, rel=1e-6, abs=1e-6)


def test_negative_intensities_are_drawn_as_they_are():
    shown = histogram(np.array([-3.0, 5.0]))
    assert not shown.is_log
    assert shown.place(-3) == -3


def test_the_markers_that_are_raised_most_come_first():
    rng = np.random.default_rng(0)
    intensities = rng.lognormal(3, 0.5, (4, 300))
    rows = np.arange(50)
    intensities[2, rows] *= 20
    intensities[0, rows] *= 4
    intensities[3, rows] /= 4
    assert raised_markers(intensities, rows, n=2).tolist() == [2, 0]
    assert 3 not in raised_markers(intensities, rows, n=4)
    assert not len(raised_markers(intensities, np.arange(300)))
