import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from napari_mxsplicer.painting import Paint, PaintedLevel, RowIndex, RowNumbers

from mxsplicer import InputError


@given(
    ids=st.lists(st.integers(1, 2**32 - 2), min_size=1, max_size=30, unique=True),
    others=st.lists(st.integers(1, 2**32 - 2), max_size=10),
)
def test_each_pixel_gets_the_value_of_the_cell_with_its_id_for_any_ids_in_any_order(ids, others):
    strangers = [one for one in others if one not in ids]
    labels = np.array([[0, *ids, *strangers]], dtype=np.uint32)
    paint = Paint(RowIndex(np.array(ids)))
    paint.set(np.arange(len(ids)) + 0.5)

    painted = PaintedLevel(RowNumbers(labels, paint.index), paint)[:, :][0]

    np.testing.assert_array_equal(painted[1 : len(ids) + 1], np.arange(len(ids)) + 0.5)
    assert np.isnan(painted[0])
    assert np.isnan(painted[len(ids) + 1 :]).all()


def test_repainting_does_not_read_labels_again():
    reads = []

    class Counting:
        shape, ndim, dtype = (8, 8), 2, np.dtype(np.uint32)

        def __getitem__(self, key):
            reads.append(key)
            return np.ones((8, 8), dtype=np.uint32)[key]

    paint = Paint(RowIndex(np.array([1])))
    level = PaintedLevel(RowNumbers(Counting(), paint.index), paint)
    for value in (1.0, 2.0):
        paint.set(np.array([value]))
        assert (level[0:4, 0:4] == value).all()
    assert len(reads) == 1


def test_repainting_takes_little_longer_than_looking_up_each_pixel():
    """Compare processor times as a ratio, at a million and at twenty thousand cells."""
    rng = np.random.default_rng(0)
    for n in (20_000, 1_000_000):
        labels = rng.integers(0, n + 1, (900, 1300), dtype=np.int32)
        paint = Paint(RowIndex(rng.permutation(n) + 1))
        level, values = PaintedLevel(RowNumbers(labels, paint.index), paint), rng.normal(size=n).astype(np.float32)
        level[:, :]  # the labels are read once

        def repaint(level=level, paint=paint, values=values):
            paint.set(values)
            level[:, :]

        look_up = shortest(lambda table=paint.table, labels=labels: np.take(table, labels))
        assert shortest(repaint) < 4 * look_up


def shortest(call, times=7):
    """Return the shortest processor time of some calls in this thread, in seconds."""
    taken = []
    for _ in range(times):
        start = time.thread_time()
        call()
        taken.append(time.thread_time() - start)
    return min(taken)


def test_a_point_outside_the_slide_belongs_to_no_cell():
    labels = np.zeros((600, 600), dtype=np.uint32)
    labels[300, 500] = 77
    numbers = RowNumbers(labels, RowIndex(np.array([5, 77])))
    assert numbers.row_at(300.4, 499.6) == 1
    assert numbers.row_at(300, 502) is None
    assert numbers.row_at(-1, 700) is None


def test_duplicate_ids_are_refused():
    with pytest.raises(InputError, match="cell id 7 occurs twice"):
        RowIndex(np.array([7, 3, 7]))
