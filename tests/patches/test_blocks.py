import errno
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxsplicer.patches.blocks import TileReader, choose_block_size, choose_tile, find_tiles, order_cells, spread_sample


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 70_000), st.floats(0, 70_000)), max_size=60))
def test_the_order_of_cells_is_a_permutation(points):
    x, y = np.array(points).reshape(-1, 2).T

    assert sorted(order_cells(x, y)) == list(range(len(points)))


def test_the_curve_steps_from_each_pixel_to_a_neighbour():
    y, x = (along.ravel() for along in np.mgrid[:32, :32])

    order = order_cells(x, y)

    steps = np.abs(np.diff(x[order])) + np.abs(np.diff(y[order]))
    assert (steps == 1).all()


def test_a_run_of_cells_is_a_compact_piece_of_tissue():
    x, y = np.random.default_rng(0).uniform(0, 10_000, (2, 16_384))

    order = order_cells(x, y)

    areas = [np.ptp(x[run]) * np.ptp(y[run]) for run in np.split(order, 16)]
    assert np.median(areas) < 2 * 10_000**2 / 16


def test_a_sample_is_spread_over_the_curve_and_repeats_with_its_seed():
    sample = spread_sample(6400, 64, seed=3)

    np.testing.assert_array_equal(sample // 100, np.arange(64))
    np.testing.assert_array_equal(sample, spread_sample(6400, 64, seed=3))
    assert (sample != spread_sample(6400, 64, seed=4)).any()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 200), st.integers(0, 200))
def test_a_sample_holds_no_cell_twice(size, more):
    sample = spread_sample(size + more, size, seed=0)

    assert len(np.unique(sample)) == size
    assert sample.max() < size + more


@pytest.mark.parametrize(("patch_bytes", "cells"), [(19 * 64 * 64 * 2, 1024), (60 * 128 * 128 * 2, 128), (1 << 30, 1)])
def test_a_block_has_about_a_thousand_cells_unless_they_are_large(patch_bytes, cells):
    assert choose_block_size(patch_bytes) == cells


@pytest.mark.parametrize(
    ("stored", "read"),
    [((512, 512), (512, 512)), ((16, 5000), (256, 2048)), ((100, 100), (300, 300)), ((4000, 5000), (2048, 2048))],
)
def test_thin_strips_are_read_together_and_whole_pages_in_parts(stored, read):
    assert choose_tile(stored, (4000, 5000)) == read


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_tiles_found_are_those_that_a_window_touches(data):
    height, width = data.draw(st.integers(20, 60)), data.draw(st.integers(20, 60))
    tile_px = data.draw(st.integers(3, 40)), data.draw(st.integers(3, 40))
    patch_px = data.draw(st.integers(1, 10)) * 2
    centres = data.draw(
        st.lists(st.tuples(st.integers(0, height - 1), st.integers(0, width - 1)), min_size=1, max_size=6)
    )
    tops, lefts = np.array(centres).T - patch_px // 2

    found = find_tiles(tops, lefts, patch_px=patch_px, shape_px=(height, width), tile_px=tile_px)

    expected = {
        (y // tile_px[0], x // tile_px[1], window)
        for window, (top, left) in enumerate(zip(tops.tolist(), lefts.tolist(), strict=True))
        for y in range(max(0, top), min(height, top + patch_px))
        for x in range(max(0, left), min(width, left + patch_px))
    }
    listed = [(*tile, window) for tile, windows in found.items() for window in windows.tolist()]
    assert sorted(listed) == sorted(expected)


class CountingImage:
    """An image that remembers what was read of it."""

    def __init__(self, pixels):
        self.pixels, self.shape, self.dtype, self.ndim = pixels, pixels.shape, pixels.dtype, pixels.ndim
        self.reads = []

    def __getitem__(self, key):
        self.reads.append(key)
        return self.pixels[key]


def test_a_tile_that_several_blocks_need_is_decoded_once():
    image = CountingImage(np.arange(3 * 40 * 40).reshape(3, 40, 40))
    tiles = [(row, column) for row in range(4) for column in range(4)]
    reader = TileReader([image], tile_px=(10, 10), plan=dict.fromkeys(range(6), tiles), max_bytes=1 << 20)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda block: [reader.read(tile, block=block) for tile in tiles], range(6)))

    assert len(image.reads) == reader.n_decoded == reader.n_tiles == 16


def test_the_tile_that_is_needed_last_is_let_go_first():
    image = CountingImage(np.zeros((10, 30), np.uint8))
    plan = {0: [(0, 0), (0, 1)], 1: [(0, 2), (0, 0)], 2: [(0, 1)]}
    reader = TileReader([image], tile_px=(10, 10), plan=plan, max_bytes=200)

    for block, tiles in plan.items():
        for tile in tiles:
            reader.read(tile, block=block)

    # Only (0, 1) can have been decoded twice: when (0, 2) came, it was the one needed last.
    assert [key[-1].start // 10 for key in image.reads][:3] == [0, 1, 2]
    assert reader.n_decoded <= 4


def test_a_tile_that_does_not_decode_fails_every_block_that_waits_for_it():
    class Broken(CountingImage):
        def __getitem__(self, key):
            started.wait()
            raise OSError(errno.EIO, "damaged")

    started = threading.Event()
    reader = TileReader([Broken(np.zeros((10, 10)))], tile_px=(10, 10), plan={0: [(0, 0)], 1: [(0, 0)]}, max_bytes=1000)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(reader.read, (0, 0), block=block) for block in range(2)]
        started.set()

    for one in waiting:
        with pytest.raises(OSError, match="damaged"):
            one.result()
