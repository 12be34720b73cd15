import numpy as np
import pytest
import torch

from mxsplicer.patches.store import THIS_CELL
from mxsplicer.splicer import batches as batches_module
from mxsplicer.splicer.batches import Batches
from mxsplicer.splicer.normalization import Normalization, measure_normalization
from mxsplicer.testing import tiny_store

CELLS = [(y, x) for y in range(8, 60, 8) for x in range(8, 60, 8)]  # 49 cells


@pytest.fixture(scope="module")
def store():
    return tiny_store(cells_at=CELLS)


def rows_of(batch: np.ndarray, store) -> set[int]:
    every = store.read_rows(np.arange(store.n_cells))[0]
    return {int(np.flatnonzero((every == patch).all(axis=(1, 2, 3)))[0]) for patch in batch}


@pytest.mark.parametrize("buffer_bytes", [1 << 30, 1])
def test_an_epoch_shows_each_cell_at_most_once(store, monkeypatch, buffer_bytes):
    monkeypatch.setattr(batches_module, "_BUFFER_BYTES", buffer_bytes)
    batches = Batches([store], 10, seed=1)

    seen = [rows_of(patches, store) for patches, _ in batches.epoch(0)]

    assert batches.per_epoch == len(seen) == 4
    assert all(len(one) == 10 for one in seen)
    assert len(set().union(*seen)) == 40


def test_batches_are_the_same_for_the_same_seed_and_differ_between_epochs(store):
    first, again, other = ([p for p, _ in Batches([store], 10, seed=1).epoch(epoch)] for epoch in (0, 0, 1))

    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_store_with_few_cells_makes_one_small_batch(store):
    batches = Batches([store], 1000)

    assert batches.batch_size == len(CELLS)
    assert len(list(batches.epoch(0))) == batches.per_epoch == 1


def test_normalised_markers_have_mean_0_and_deviation_1(store):
    normalization, varies = measure_normalization([store])

    patches, _ = store.read_rows(np.arange(store.n_cells))
    on_slide = patches.any(axis=1)  # beyond the border of the slide every marker is 0
    pixels = normalization(patches).movedim(1, 0)[:, torch.from_numpy(on_slide)]

    assert all(varies)
    torch.testing.assert_close(pixels.mean(dim=1), torch.zeros(3), atol=1e-2, rtol=0)
    torch.testing.assert_close(pixels.std(dim=1), torch.ones(3), atol=1e-2, rtol=0)


def test_normalisation_is_monotone_and_the_same_for_every_cell():
    normalization = Normalization(*(torch.tensor([v]) for v in (2.0, 100.0, 1.5, 0.5)))
    ramp = np.arange(200, dtype=np.uint16).reshape(1, 1, 10, 20)

    x = normalization(np.repeat(ramp, 2, axis=0))

    torch.testing.assert_close(x[0], x[1])
    expected = (np.log1p(np.clip(ramp[0, 0], 2, 100)) - 1.5) / 0.5
    np.testing.assert_allclose(x[0, 0].numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2", "int16", "uint32", "float32", "float64"])
def test_normalisation_is_the_formula_for_every_type_of_pixel(dtype):
    low, high, mean, std = (np.array(v, np.float32) for v in ([2, 0], [100, 60_000], [1.5, 3], [0.5, 2]))
    normalization = Normalization(*(torch.from_numpy(v) for v in (low, high, mean, std)))
    patches = np.random.default_rng(0).integers(0, 255 if dtype == "uint8" else 30_000, (3, 2, 4, 4)).astype(dtype)
    if dtype.endswith("u2") or dtype == "uint16":
        patches[0] += 32_000  # the upper half, which int16 does not have

    x = normalization(patches)

    by_marker = (slice(None), None, None)
    clipped = np.clip(patches.astype(np.float64), low[by_marker], high[by_marker])
    np.testing.assert_allclose(x, (np.log1p(clipped) - mean[by_marker]) / std[by_marker], rtol=1e-5, atol=1e-5)
    assert x.dtype == torch.float32
    assert x.is_contiguous(memory_format=torch.channels_last)


def test_hidden_surroundings_are_at_the_mean_and_the_cell_is_as_it_was(store):
    normalization, _ = measure_normalization([store])
    patches, regions = store.read_rows(np.arange(4))

    shown, hidden = normalization(patches), normalization(patches, regions)

    cell = torch.from_numpy(regions == THIS_CELL)[:, None].expand_as(shown)
    torch.testing.assert_close(hidden[cell], shown[cell])
    assert not hidden[~cell].any()


def test_regions_belong_to_their_patches(store):
    patches, regions = next(Batches([store], 20, seed=2).epoch(0))
    every, of_every = store.read_rows(np.arange(store.n_cells))

    for patch, region in zip(patches, regions, strict=True):
        row = np.flatnonzero((every == patch).all(axis=(1, 2, 3)))[0]
        np.testing.assert_array_equal(region, of_every[row])


def test_normalisation_survives_json():
    normalization = Normalization(*(torch.tensor([v, v]) for v in (2.0, 100.0, 1.5, 0.5)))

    again = Normalization.from_dict(normalization.to_dict())

    torch.testing.assert_close(again.mean, normalization.mean)
