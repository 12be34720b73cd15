"""The outlines that are written reproduce the mask."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mxsplicer.errors import InputError
from mxsplicer.export import outlines, write_outlines
from mxsplicer.export.outlines import trace
from mxsplicer.masks.geojson import read_polygons
from mxsplicer.pl import colors


@pytest.mark.parametrize("name", ["cells.geojson", "cells.geojson.gz"])
def test_outlines_reproduce_the_mask_pixel_by_pixel(tissue, tmp_path, monkeypatch, name):
    slide, mask, adata = tissue
    monkeypatch.setattr(outlines, "_TILE_PX", 64)
    monkeypatch.setattr(outlines, "_MARGIN_PX", 4)

    path = write_outlines(adata, tmp_path / name, mask)

    drawn = read_polygons(path, slide.shape_px)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    features = sorted({(mask[drawn[:] == number].min(), number) for number in range(1, len(adata) + 1)})
    assert [cell for cell, _ in features] == sorted(adata.obs["cell_id"])
    back = np.zeros(len(adata) + 1, np.uint32)
    back[[number for _, number in features]] = [cell for cell, _ in features]
    np.testing.assert_array_equal(back[drawn[:]], mask)


@settings(max_examples=60, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))).filter(np.any), st.integers(0, 50))
def test_the_outline_of_any_shape_reproduces_it(tmp_path_factory, inside, offset):
    feature = {"type": "Feature", "geometry": trace(inside, top=offset, left=offset + 1), "properties": {}}
    path = tmp_path_factory.mktemp("shape") / "one.geojson"
    path.write_text(json.dumps(feature))

    drawn = read_polygons(path, (80, 80))[:]

    expected = np.zeros((80, 80), bool)
    expected[offset : offset + inside.shape[0], offset + 1 : offset + 1 + inside.shape[1]] = inside
    np.testing.assert_array_equal(drawn > 0, expected)


def test_clusters_are_coloured_classes_with_their_names(tissue, tmp_path):
    _, mask, adata = tissue
    named = adata.copy()
    named.obs["leiden_name"] = named.obs["leiden"].map({"0": "0: CD4+", "1": "1: DAPI-", "2": "2: x"})

    write_outlines(named, tmp_path / "cells.geojson", mask)

    features = json.loads((tmp_path / "cells.geojson").read_text())["features"]
    by_name = {one["properties"]["name"]: one["properties"]["classification"] for one in features}
    assert by_name[adata.obs_names[0]]["name"] == "no cluster"
    assert by_name[adata.obs_names[3]]["name"] == "0: CD4+"
    assert by_name[adata.obs_names[4]]["color"] == [round(255 * one) for one in colors.rgb(colors.QUALITATIVE[1])]


def test_predicted_names_are_classes_and_their_confidence_a_measurement(tissue, tmp_path):
    _, mask, adata = tissue
    named = adata.copy()
    named.obs["predicted"] = pd.Categorical(np.where(named.obs["leiden"] == "1", "B cell", "unknown"))
    named.obs["predicted_confidence"] = np.float32(0.87654)

    write_outlines(named, tmp_path / "cells.geojson", mask, groupby="predicted")

    features = json.loads((tmp_path / "cells.geojson").read_text())["features"]
    found = {one["properties"]["name"]: one["properties"]["classification"]["name"] for one in features}
    assert found == named.obs["predicted"].astype(str).to_dict()
    assert {json.dumps(one["properties"]["measurements"]) for one in features} == {'{"confidence": 0.8765}'}


def test_simpler_outlines_have_fewer_corners_and_about_the_same_pixels(tissue, tmp_path):
    slide, mask, adata = tissue

    exact, simple = (
        write_outlines(adata, tmp_path / f"{px}.geojson", mask, groupby=None, simplify_px=px) for px in (0, 1)
    )

    assert simple.stat().st_size < exact.stat().st_size
    overlap = ((read_polygons(simple, slide.shape_px)[:] > 0) & (mask > 0)).sum() / (mask > 0).sum()
    assert overlap > 0.9


def test_a_wrong_mask_and_an_unknown_slide_are_refused_and_no_file_is_left(tissue, tmp_path):
    _, mask, adata = tissue

    with pytest.raises(InputError, match=r"the mask has no cell \d+ near"):
        write_outlines(adata, tmp_path / "cells.geojson", np.where(mask == 9001, 0, mask))
    with pytest.raises(InputError, match="slide 'S2' has no cells; the slides are S 1"):
        write_outlines(adata, tmp_path / "cells.geojson", mask, slide="S2")
    assert not list(tmp_path.iterdir())


def ragged(shape, seed, steps):
    """Return a connected shape that grew at random, with holes and thin arms."""
    rng = np.random.default_rng(seed)
    inside = np.zeros(shape, bool)
    at = np.array(shape) // 2
    for _ in range(steps):
        inside[tuple(at)] = True
        at = np.clip(at + [(0, 1), (1, 0), (0, -1), (-1, 0)][rng.integers(4)], 0, np.array(shape) - 1)
    return inside


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 400), st.sampled_from([0.5, 1.0, 2.0, 5.0, 50.0]))
def test_outlines_are_valid_polygons_however_much_they_are_simplified(seed, steps, simplify_px):
    shapely = pytest.importorskip("shapely")
    inside = ragged((18, 18), seed, steps)
    inside[0, 0] = True  # a second piece

    exact, simple = (
        shapely.geometry.shape(trace(inside)),
        shapely.geometry.shape(trace(inside, simplify_px=simplify_px)),
    )

    assert shapely.is_valid_reason(exact) == shapely.is_valid_reason(simple) == "Valid Geometry"
    assert simple.area > 0
    assert shapely.get_num_coordinates(simple) <= shapely.get_num_coordinates(exact)
    assert len(getattr(simple, "geoms", [simple])) == len(getattr(exact, "geoms", [exact]))


def test_an_island_in_a_hole_has_its_own_hole():
    inside = np.ones((15, 15), bool)
    inside[2:13, 2:13] = False
    inside[4:11, 4:11] = True
    inside[6:9, 6:9] = False

    assert sorted(len(rings) for rings in trace(inside)["coordinates"]) == [2, 2]
