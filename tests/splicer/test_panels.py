"""Slides that lack markers: what they do not show is left out, and nothing else changes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mxsplicer.errors import InputError
from mxsplicer.patches.extraction import extract_patches
from mxsplicer.splicer.encoders import make_encoder
from mxsplicer.splicer.losses import LOSSES
from mxsplicer.splicer.losses.chunks import Chunks
from mxsplicer.splicer.normalization import measure_normalization
from mxsplicer.splicer.panels import known_markers, on_one_panel
from mxsplicer.splicer.recipe import Recipe
from mxsplicer.splicer.training import train
from mxsplicer.testing import tiny_slide

CELLS = [(y, x) for y in range(8, 60, 8) for x in range(8, 60, 8)]
SMALL = Recipe(epochs=2, batch_size=14, encoder_width=4, component_width=2, chunk_width=4, deconstruction="marker")


@pytest.fixture
def stores(tmp_path):
    """Return the patches of two slides that share one marker of three."""
    panels = {"A": ["DAPI", "CD3e"], "B": ["CD20", "DAPI"]}
    return [cut(tmp_path / f"{name}.zarr", name, panel, seed=ord(name)) for name, panel in panels.items()]


def cut(path, name, markers, *, seed=0):
    slide, mask = tiny_slide(cells_at=CELLS, markers=markers, seed=seed)
    return extract_patches(replace(slide, name=name), mask, path, patch_size_um=8)


def test_stores_have_the_markers_of_all_or_of_any(stores):
    first, second = stores
    shared, union = (on_one_panel(stores, panel) for panel in ("shared", "union"))

    assert [store.markers for store in shared] == [("DAPI",)] * 2
    np.testing.assert_array_equal(shared[1].read_block(0).patches[:, 0], second.read_block(0).patches[:, 1])
    assert shared[1].patches.dtype == second.patches.dtype
    assert [store.markers for store in union] == [("DAPI", "CD3e", "CD20")] * 2
    rows = np.array([3, 1])
    np.testing.assert_array_equal(union[0].read_rows(rows)[0][:, :2], first.read_rows(rows)[0])
    np.testing.assert_array_equal(known_markers(union[1].read_rows(rows)[0]), [[True, False, True]] * 2)
    assert on_one_panel([first], "union") == [first]


def test_a_marker_is_normalised_by_the_slides_that_have_it(stores):
    together, varies = measure_normalization(on_one_panel(stores, "union"))
    alone, _ = measure_normalization(stores[:1])

    assert varies == [True, True, True]
    assert together.mean[1] == pytest.approx(float(alone.mean[1]), rel=0.02)
    shown = together(on_one_panel(stores, "union")[1].read_rows(np.arange(4))[0])
    assert torch.count_nonzero(shown[:, 1]) == 0, "a marker that is missing is shown at its mean"
    assert shown[:, 2].std() > 0.1


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_of_a_chunk_is_that_of_the_cells_that_know_it(name):
    e_a, e_b = torch.randn(2, 12, 12, generator=torch.Generator().manual_seed(0))
    chunks = Chunks((4, 4, 4), (LOSSES[name](),) * 3, (1.0, 2.0, 1.0))
    known = np.ones((12, 3), bool)
    known[5:, 1] = known[1:, 2] = False

    torch.manual_seed(1)
    found = chunks(e_a, e_b, known)
    torch.manual_seed(1)
    whole = chunks(e_a, e_b)
    torch.manual_seed(1)
    part = chunks(e_a[:5], e_b[:5])

    for term in found:
        if "sigreg" not in name:  # which draws new directions in every call
            torch.testing.assert_close(found[term][0], whole[term][0])
            torch.testing.assert_close(found[term][1], part[term][1] * 5 / 12)
        assert found[term][2] == 0, "one cell has no loss"


def test_a_marker_that_a_slide_lacks_has_no_loss(stores):
    union = on_one_panel(stores, "union")
    components = SMALL.components(union[0].markers)
    encoder = make_encoder("resnet18", 3, union[0].patch_px, width=4)
    objective = SMALL.objective(encoder, components, patch_px=union[0].patch_px)
    patches, regions = union[1].read_rows(np.arange(8))  # none of them knows CD3e
    normalization, _ = measure_normalization(union)
    shown = normalization(patches)
    views = SMALL.view_plan()(
        *objective.view_inputs(shown, shown, torch.from_numpy(regions)), generator=torch.Generator().manual_seed(0)
    )
    arguments = objective.step_arguments(0, known_markers(patches))

    terms = objective(*views, **arguments)

    names = list(objective.chunk_names)
    for name, of_chunks in terms.items():
        if name not in ("covariance", "redundancy"):
            assert of_chunks[names.index("CD3e")] == 0
            assert of_chunks[names.index("CD20")] != 0
    assert all(len(a) == len(b) for a, b in objective.pairs(*objective.embed(*views, **arguments), **arguments))


@pytest.mark.parametrize(
    ("method", "normalization"),
    [("splicer", "common"), ("splicer", "gain"), ("joint", "common"), ("sigma", "common"), ("trident", "common")],
)
def test_a_model_of_any_marker_is_trained_and_takes_slides_that_lack_some(stores, tmp_path, method, normalization):
    recipe = replace(SMALL, method=method, normalization=normalization)

    run = train(stores, tmp_path / "run", recipe=recipe, panel="union", device="cpu")

    assert run.markers == ("DAPI", "CD3e", "CD20")
    assert run.fills_missing
    assert all(torch.isfinite(weight).all() for weight in run.encoder.state_dict().values())


def test_panels_that_differ_are_refused_without_a_rule_for_them(stores, tmp_path):
    with pytest.raises(InputError, match=r"differ in their markers: CD20, CD3e.* `panel='shared'`, .* `panel='union'`"):
        train(stores, tmp_path / "run", recipe=SMALL, device="cpu")
    with pytest.raises(InputError, match="panel 'all' not found"):
        train(stores, tmp_path / "run", recipe=SMALL, panel="all", device="cpu")
    alien = cut(tmp_path / "C.zarr", "C", ["X", "Y"])
    with pytest.raises(InputError, match="no marker is on all 3 slides"):
        train([*stores, alien], tmp_path / "run", recipe=SMALL, panel="union", device="cpu")
