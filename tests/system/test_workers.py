"""Results come in order, and no more is computed ahead than was asked for."""

import threading

import pytest

from mxsplicer.system.workers import map_in_order


@pytest.mark.parametrize("n_workers", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(n_workers):
    assert list(map_in_order(lambda n: n * n, range(20), n_workers)) == [n * n for n in range(20)]


@pytest.mark.parametrize(("n_workers", "n_ahead"), [(1, None), (3, None), (2, 0), (2, 4)])
def test_no_more_items_are_started_than_may_be_ahead(n_workers, n_ahead):
    started = []
    results = map_in_order(started.append, range(20), n_workers, n_ahead=n_ahead)

    for n_asked in range(1, 10):
        next(results)
        assert len(started) <= n_asked + (n_workers - 1 if n_ahead is None else n_ahead)


def test_an_error_of_one_item_is_raised_where_its_result_is_due():
    results = map_in_order(lambda n: 1 // n, [1, 0, 1], 2)

    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_no_thread_is_left_when_the_caller_stops_early():
    before = threading.active_count()
    results = map_in_order(abs, range(100), 3)
    next(results)

    results.close()

    assert threading.active_count() == before
