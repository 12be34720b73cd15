import errno
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxsplicer.images.tiles import reading_tile
from mxsplicer.patches.blocks import choose_block_size, order_cells, order_patches
from mxsplicer.patches.geometry import PatchGeometry, Piece
from mxsplicer.patches.pieces import TileReader, find_pieces
from mxsplicer.patches.sampling import spread_sample


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


def test_consecutive_cells_are_compact_in_the_tissue():
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
    [
        ((512, 512), (512, 512)),
        ((16, 2000), (256, 2000)),
        ((16, 5000), (832, 5000)),
        ((100, 100), (300, 300)),
        ((4000, 5000), (2048, 2048)),
    ],
)
def test_several_thin_strips_are_read_at_once_and_large_pages_in_tiles(stored, read):
    assert reading_tile(stored, (4000, 5000)) == read


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_pieces_found_are_all_that_a_patch_overlaps(data):
    height, width = data.draw(st.integers(20, 60)), data.draw(st.integers(20, 60))
    tile_px = data.draw(st.integers(3, 40)), data.draw(st.integers(3, 40))
    geometry = PatchGeometry((height, width), tile_px, patch_px=data.draw(st.integers(1, 10)) * 2)
    centres = data.draw(
        st.lists(st.tuples(st.integers(0, height - 1), st.integers(0, width - 1)), min_size=1, max_size=6)
    )
    tops, lefts = np.array(centres).T - geometry.patch_px // 2

    found = find_pieces(tops, lefts, geometry)

    touched = {
        (y, x, window)
        for window, (top, left) in enumerate(zip(tops.tolist(), lefts.tolist(), strict=True))
        for y in range(max(0, top), min(height, top + geometry.patch_px))
        for x in range(max(0, left), min(width, left + geometry.patch_px))
    }
    covered = set()
    for piece, windows in found.items():
        rows, columns = geometry.window(piece)
        assert {y // tile_px[0] for y in (rows.start, rows.stop - 1)} == {piece.tile[0]}
        assert {x // tile_px[1] for x in (columns.start, columns.stop - 1)} == {piece.tile[1]}
        pixels = {(y, x) for y in range(rows.start, rows.stop) for x in range(columns.start, columns.stop)}
        covered |= {(y, x, window) for window in windows.tolist() for y, x in pixels} & touched
    listed = [(piece.tile, window) for piece, windows in found.items() for window in windows.tolist()]
    assert covered == touched
    assert len(listed) == len(set(listed)), "a patch is cut from one piece of a tile"


class CountingImage:
    """An image that remembers what was read of it."""

    def __init__(self, pixels):
        self.pixels, self.shape, self.dtype, self.ndim = pixels, pixels.shape, pixels.dtype, pixels.ndim
        self.reads = []

    def __getitem__(self, key):
        self.reads.append(key)
        return self.pixels[key]


def whole(*tiles):
    return [Piece(tile, "whole") for tile in tiles]


def test_a_tile_that_several_blocks_need_is_decoded_once():
    image = CountingImage(np.arange(3 * 40 * 40).reshape(3, 40, 40))
    pieces = whole(*((row, column) for row in range(4) for column in range(4)))
    geometry = PatchGeometry((40, 40), (10, 10), 4)
    reader = TileReader([image], geometry=geometry, plan=dict.fromkeys(range(6), pieces), max_bytes=1 << 20)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda block: [reader.read(piece, block=block) for piece in pieces], range(6)))

    assert len(image.reads) == reader.n_decoded == len(reader.tiles) == 16


def test_the_tile_that_is_needed_last_is_dropped_first():
    image = CountingImage(np.zeros((10, 30), np.uint8))
    plan = {0: whole((0, 0), (0, 1)), 1: whole((0, 2), (0, 0)), 2: whole((0, 1))}
    reader = TileReader([image], geometry=PatchGeometry((10, 30), (10, 10), 4), plan=plan, max_bytes=200)

    for block, pieces in plan.items():
        for piece in pieces:
            reader.read(piece, block=block)

    # Only (0, 1) can have been decoded twice: when (0, 2) came, it was the one needed last.
    assert [key[-1].start // 10 for key in image.reads][:3] == [0, 1, 2]
    assert reader.n_decoded <= 4


def test_only_a_strip_is_kept_of_a_tile_that_was_visited():
    image = CountingImage(np.arange(100 * 200).reshape(100, 200))
    geometry = PatchGeometry((100, 200), (100, 100), 4)
    plan = {0: whole((0, 0)), 1: [Piece((0, 0), "right"), *whole((0, 1))]}
    reader = TileReader([image], geometry=geometry, plan=plan, max_bytes=100 * 4 * 8)

    reader.read(*plan[0], block=0)
    (strip,) = reader.read(plan[1][0], block=1)

    np.testing.assert_array_equal(strip, image.pixels[:, 96:100])
    assert strip.base is None, "a view would hold the whole tile"
    assert reader.n_decoded == 1


@pytest.mark.parametrize("tile_px", [(256, 256), (512, 512), (1024, 1024), (1000, 700)])
def test_every_tile_of_a_slide_is_decoded_once_even_if_few_fit_into_memory(tile_px):
    rng = np.random.default_rng(0)
    geometry = PatchGeometry((6000, 7000), tile_px, 64)
    image = CountingImage(np.broadcast_to(np.uint8(0), geometry.shape_px))
    tops, lefts = (rng.integers(0, side, 10_000) - 32 for side in geometry.shape_px)
    order = order_patches(tops, lefts, geometry)
    plan = {
        number: find_pieces(tops[rows], lefts[rows], geometry)
        for number, rows in enumerate(np.split(order, range(500, 10_000, 500)))
    }
    reader = TileReader([image], geometry=geometry, plan=plan, max_bytes=6 << 20)  # of 42 MB

    for number, pieces in plan.items():
        for piece in pieces:
            reader.read(piece, block=number)

    assert reader.n_decoded / len(reader.tiles) < 1.1


def test_a_tile_that_cannot_be_decoded_fails_every_block_that_waits_for_it():
    class Broken(CountingImage):
        def __getitem__(self, key):
            started.wait()
            raise OSError(errno.EIO, "damaged")

    started = threading.Event()
    plan = {0: whole((0, 0)), 1: whole((0, 0))}
    reader = TileReader(
        [Broken(np.zeros((10, 10)))], geometry=PatchGeometry((10, 10), (10, 10), 4), plan=plan, max_bytes=1000
    )
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(reader.read, *plan[block], block=block) for block in range(2)]
        started.set()

    for one in waiting:
        with pytest.raises(OSError, match="damaged"):
            one.result()
