"""Nuclei are found and grown into cells, whatever the tiles, the dtype and the size of a pixel."""

import numpy as np
import pytest
import zarr
from skimage.draw import disk, ellipse

from mxsplicer.errors import InputError
from mxsplicer.slides.segmentation import segment
from mxsplicer.slides.slide import Slide


def tissue(*, size_px=400, pixel_size_um=0.5, seed=0, dtype=np.uint16, counts=200.0):
    """A slide of nuclei that differ in size and brightness, some touching, on an uneven background; and their labels."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((size_px, size_px), np.uint32)
    light = np.tile(np.linspace(0.03, 0.1, size_px), (size_px, 1))
    taken = []
    for _ in range(40 * size_px):
        y, x = rng.uniform(0, size_px, 2)
        long, short = rng.uniform(3.2, 4.6) / pixel_size_um, rng.uniform(2.6, 3.2) / pixel_size_um
        if all((y - v) ** 2 + (x - u) ** 2 > (6.5 / pixel_size_um) ** 2 for v, u in taken):
            taken.append((y, x))
            inside = ellipse(y, x, short, long, shape=truth.shape, rotation=rng.uniform(0, np.pi))
            truth[inside] = len(taken)
            light[inside] = rng.uniform(0.5, 1.5)
        if len(taken) == 150:
            break
    image = rng.poisson(light * counts)
    image = np.stack([np.zeros_like(image), image]).astype(dtype)
    return Slide("S01", image, ("CD3e", "DAPI"), pixel_size_um, tile_px=(128, 128)), truth


def matched(found, truth):
    """Return for each true label the best intersection over union with a found one."""
    found, truth = np.asarray(found), np.asarray(truth)
    table = np.zeros((int(truth.max()) + 1, int(found.max()) + 1))
    np.add.at(table, (truth, found), 1)
    union = table.sum(1, keepdims=True) + table.sum(0) - table
    iou = (table / np.maximum(union, 1))[1:, 1:]
    return iou[table.sum(1)[1:] > 0].max(axis=1)


def test_nuclei_of_a_drawn_tissue_are_found(tmp_path):
    slide, truth = tissue()

    mask = segment(slide, tmp_path / "mask.zarr", expansion_um=0)

    assert np.mean(matched(mask[:], truth) > 0.5) > 0.9


def test_the_mask_is_a_zarr_of_numbered_cells_that_says_how_it_was_made(tmp_path):
    slide, _ = tissue(size_px=200)

    segment(slide, tmp_path / "mask.zarr")

    mask = zarr.open_array(tmp_path / "mask.zarr", mode="r")
    assert (mask.dtype, mask.shape, mask.metadata.zarr_format) == (np.uint32, (200, 200), 3)
    assert np.unique(mask[:]).tolist() == list(range(int(mask[:].max()) + 1))
    assert mask.attrs["mxsplicer"]["nuclear_marker"] == "DAPI"
    assert mask.attrs["mxsplicer"]["pixel_size_um"] == 0.5


def test_cells_do_not_depend_on_the_tiles(tmp_path):
    slide, _ = tissue()

    whole = segment(slide, tmp_path / "whole.zarr", tile_px=2048)[:]
    tiled = segment(slide, tmp_path / "tiled.zarr", tile_px=96, halo_um=30)[:]

    assert tiled.max() == whole.max()
    assert np.mean(matched(tiled, whole) > 0.95) >= 0.99


def test_an_existing_mask_is_kept_unless_it_is_to_be_overwritten(tmp_path):
    slide, _ = tissue(size_px=100)
    segment(slide, tmp_path / "mask.zarr")

    with pytest.raises(InputError, match="exists"):
        segment(slide, tmp_path / "mask.zarr")

    segment(slide, tmp_path / "mask.zarr", overwrite=True)
    assert [one.name for one in tmp_path.iterdir()] == ["mask.zarr"]


def test_a_slide_without_nuclei_is_refused_and_leaves_nothing(tmp_path):
    empty = Slide("S01", np.zeros((1, 64, 64), np.uint8), ("DAPI",), 0.5)

    with pytest.raises(InputError, match="no nucleus"):
        segment(empty, tmp_path / "mask.zarr")

    assert not list(tmp_path.iterdir())


def test_a_slide_whose_nuclear_marker_has_no_known_name_names_its_markers_and_the_option(tmp_path):
    slide = Slide("S01", np.zeros((2, 64, 64), np.uint8), ("CD3e", "CD20"), 0.5)

    with pytest.raises(InputError, match="CD3e, CD20.*--nuclear-marker"):
        segment(slide, tmp_path / "mask.zarr")
