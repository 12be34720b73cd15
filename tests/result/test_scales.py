"""Slides of one scanner, whose calibrations differ by a few per cent, share the width of their patches in pixels."""

from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch

from mxsplicer.cells.measure import measure_cells
from mxsplicer.embedding.embed import embed
from mxsplicer.embedding.h5ad import open_cells
from mxsplicer.embedding.sources import from_slide
from mxsplicer.errors import InputError
from mxsplicer.images.opening import open_slide
from mxsplicer.patches.extraction import extract_patches
from mxsplicer.result.merging import append_slides
from mxsplicer.result.options import Options
from mxsplicer.result.pipeline import embed_slides
from mxsplicer.result.planning import plan_slides
from mxsplicer.splicer.recipe import Recipe
from mxsplicer.splicer.run import load_run
from mxsplicer.splicer.training import train

RECIPE = Recipe(encoder="resnet18", batch_size=16, encoder_width=4, component_width=2, chunk_width=2, max_steps=2)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a slide of 16 cells with its mask, and returns both paths."""

    def written(name, pixel_size_um):
        rng = np.random.default_rng(0)
        mask = np.zeros((120, 120), np.uint16)
        for number, (y, x) in enumerate(np.ndindex(4, 4), start=1):
            mask[30 * y + 5 : 30 * y + 25, 30 * x + 5 : 30 * x + 25] = number
        image = rng.poisson(50 + 10 * mask[None] * np.array([1, 2])[:, None, None]).astype(np.uint16)
        size = {"PhysicalSizeX": pixel_size_um, "PhysicalSizeY": pixel_size_um}
        metadata = {"axes": "CYX", "Channel": {"Name": ["DAPI", "CD3e"]}, **size}
        tifffile.imwrite(tmp_path / f"{name}.ome.tif", image, photometric="minisblack", metadata=metadata, ome=True)
        tifffile.imwrite(tmp_path / f"{name}_mask.tif", mask)
        return tmp_path / f"{name}.ome.tif", tmp_path / f"{name}_mask.tif"

    return written


def options_of(*masks, **more):
    return Options(masks=masks, recipe=RECIPE, only_cells=True, min_area_um2=0, **more)


def test_slides_whose_pixel_sizes_differ_by_a_per_cent_are_embedded_together(write, tmp_path):
    (a, mask_a), (b, mask_b) = write("a", 0.25), write("b", 0.2525)
    options = options_of(mask_a, mask_b, patch_size_um=16.3)

    result = embed_slides([a, b], tmp_path / "ab.mxs", options=options, device="cpu")

    assert load_run(result.run).patch_px == 66
    with open_cells(result.cells) as cells:
        assert cells.obs["slide"].value_counts().to_dict() == {"a": 16, "b": 16}


@pytest.mark.parametrize("given", [None, 16.3])
@pytest.mark.parametrize("sizes", [(0.25, 0.2525), (0.5, 0.477), (0.65, 0.6503), (0.3775, 0.3774)])
def test_a_plan_takes_pixel_sizes_that_differ_by_less_than_five_per_cent(write, tmp_path, sizes, given):
    (a, mask_a), (b, mask_b) = write("a", sizes[0]), write("b", sizes[1])

    plan = plan_slides([a, b], tmp_path / "ab.mxs", options=options_of(mask_a, mask_b, patch_size_um=given))

    assert plan.n_cells == 32


def test_a_model_takes_slides_of_another_calibration_and_appends_them(write, tmp_path):
    (a, mask_a), (b, mask_b) = write("a", 0.25), write("b", 0.2525)
    trained = embed_slides(a, tmp_path / "a.mxs", options=replace(options_of(mask_a), only_cells=False), device="cpu")
    with_model = options_of(mask_b, model=trained.run)

    plan_slides(b, tmp_path / "b.mxs", options=replace(with_model, patch_size_um=6.0))
    alone = embed_slides(b, tmp_path / "b.mxs", options=with_model, device="cpu")
    append_slides([b], trained.path, options=Options(masks=(mask_b,), min_area_um2=0), device="cpu")

    with open_cells(alone.cells) as cells, open_cells(trained.cells) as both:
        np.testing.assert_array_equal(cells.obsm["X_splicer"][:], both.obsm["X_splicer"][16:])


@pytest.mark.parametrize("function", [plan_slides, embed_slides])
def test_slides_of_another_scale_are_refused_before_anything_is_written(write, tmp_path, function):
    (a, mask_a), (b, mask_b) = write("a", 0.25), write("b", 0.5)

    with pytest.raises(InputError, match=r"'a' and 'b' differ in scale: their pixels are 0\.25 and 0\.5 µm"):
        function([a, b], tmp_path / "ab.mxs", options=options_of(mask_a, mask_b))
    assert not (tmp_path / "ab.mxs").exists()


def test_a_patch_size_that_the_model_does_not_take_is_refused_with_the_one_it_takes(write, tmp_path):
    (a, mask_a), (b, mask_b) = write("a", 0.25), write("b", 0.2525)
    trained = embed_slides(a, tmp_path / "a.mxs", options=options_of(mask_a, patch_size_um=8), device="cpu")

    with pytest.raises(InputError, match=r"6 µm are 24 px wide, and the model takes 32 px.*patch_size_um=8`"):
        embed_slides(b, tmp_path / "b.mxs", options=options_of(mask_b, model=trained.run, patch_size_um=6.0))


def test_patches_that_were_cut_too_wide_are_refused_with_the_size_that_fits(write, tmp_path):
    opened = [open_slide(write(name, size)[0]) for name, size in (("a", 0.25), ("b", 0.2525))]
    mask = tifffile.imread(tmp_path / "a_mask.tif")
    stores = [extract_patches(slide, mask, tmp_path / slide.name, patch_size_um=16.3) for slide in opened]
    with pytest.raises(InputError, match=r"Cut the patches of 'b' again with `patch_size_um=16\.665`"):
        train(stores, tmp_path / "run", recipe=RECIPE, device="cpu")

    fitting = extract_patches(opened[1], mask, tmp_path / "b2", patch_size_um=16.665)
    run = train([stores[0], fitting], tmp_path / "run", recipe=RECIPE, device="cpu")
    cells = measure_cells(opened[1], mask, min_area_um2=0)
    with pytest.raises(InputError, match=r"Cut them with `patch_size_um=16\.665`"):
        embed(run, from_slide(opened[1], mask, cells, patch_size_um=16.3), device="cpu")
