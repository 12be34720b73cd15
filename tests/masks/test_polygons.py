"""Outlines of cells as QuPath exports them become the label image that their author saw."""

import gzip
import json
import logging

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline

from mxsplicer.errors import InputError
from mxsplicer.masks import geojson
from mxsplicer.masks.files import open_mask
from mxsplicer.masks.geojson import Polygons, read_classes, read_polygons
from mxsplicer.testing import tiny_slide

SHAPE = (40, 50)


def box(left, top, right, bottom):
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


def feature(*rings, kind="cell", nucleus=None):
    made = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": list(rings)}}
    if kind:
        made["properties"] = {"objectType": kind, "measurements": {"Nucleus: Area": 31.5}}
    if nucleus:
        made["nucleusGeometry"] = {"type": "Polygon", "coordinates": [nucleus]}
    return made


def write(folder, features, name="cells.geojson", wrap=True):
    content = json.dumps({"type": "FeatureCollection", "features": features} if wrap else features)
    path = folder / name
    path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    return path


CELLS = [
    feature(box(2, 3, 10, 9), nucleus=box(4, 4, 6, 7)),
    feature(box(10, 3, 15, 9), box(12, 5, 13, 7)),
    feature(box(-0.5, 20, 4.5, 30.4), nucleus=box(0, 22, 2, 24)),
]


def expected():
    labels = np.zeros(SHAPE, np.uint32)
    labels[3:9, 2:10] = 1
    labels[3:9, 10:15] = 2
    labels[5:7, 12:13] = 0
    labels[20:30, 0:4] = 3
    return labels


@pytest.mark.parametrize("how", [{}, {"wrap": False}, {"name": "cells.json"}, {"name": "cells.geojson.gz"}])
def test_a_cell_is_the_pixels_whose_centres_its_outline_holds(tmp_path, how):
    slide, _ = tiny_slide(shape_px=SHAPE, cells_at=[(20, 30)])

    mask = open_mask(write(tmp_path, CELLS, **how), slide=slide)

    assert (mask.shape, mask.dtype, mask.ndim) == (SHAPE, np.uint32, 2)
    np.testing.assert_array_equal(mask[...], expected())


@pytest.mark.parametrize("key", [0, (3, 4), (slice(5, 25, 3), slice(None, None, -1)), (slice(9, 9), 3), (..., 3)])
def test_it_is_sliced_like_an_array(tmp_path, key):
    mask = read_polygons(write(tmp_path, CELLS), SHAPE)

    np.testing.assert_array_equal(mask[key], expected()[key])


def test_nuclei_have_the_ids_of_their_cells(tmp_path):
    path = write(tmp_path, CELLS)
    slide, _ = tiny_slide(shape_px=SHAPE, cells_at=[(20, 30)])

    nuclei = open_mask(path, slide=slide, outline_of="nucleus")[...]

    assert np.unique(nuclei).tolist() == [0, 1, 3]
    assert (nuclei[4:7, 4:6] == 1).all()
    assert ((nuclei == 0) | (nuclei == expected())).all()


def test_parts_of_a_multipolygon_are_one_cell(tmp_path):
    parts = {"type": "MultiPolygon", "coordinates": [[box(1, 1, 3, 3)], [box(6, 1, 9, 4), box(7, 2, 8, 3)]]}

    mask = read_polygons(write(tmp_path, [{"type": "Feature", "geometry": parts}]), SHAPE)

    assert mask[...].sum() == 4 + 9 - 1
    assert mask[2, 7] == 0


def test_annotations_are_not_cells_where_there_are_cells(tmp_path, caplog):
    caplog.set_level(logging.INFO, "mxsplicer")
    tumour = feature(box(0, 0, 50, 40), kind="annotation")
    point = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [3, 3]}, "properties": {}}

    both = read_polygons(write(tmp_path, [tumour, CELLS[0], point, CELLS[1]]), SHAPE)
    alone = read_polygons(write(tmp_path, [tumour, feature(box(2, 2, 4, 4), kind=None)]), SHAPE)

    assert np.unique(both[...]).tolist() == [0, 1, 2]
    assert "read 2 × cell; left out 1 × Point, 1 × annotation" in caplog.text
    assert np.unique(alone[...]).tolist() == [1, 2]


CORNERS = st.lists(st.tuples(st.floats(-1, 31, width=16), st.floats(-1, 21, width=16)), min_size=3, max_size=9)


@settings(max_examples=60, deadline=None)
@given(outlines=st.lists(CORNERS, min_size=1, max_size=5), row=st.integers(1, 19), column=st.integers(1, 29))
def test_what_is_drawn_does_not_depend_on_the_window(outlines, row, column):
    rings = [np.array([*ring, ring[0]], np.float32) for ring in outlines]
    starts = np.cumsum([0, *map(len, rings)])
    mask = Polygons((20, 30), np.concatenate(rings), starts, np.arange(1, len(rings) + 1, dtype=np.uint32))

    whole = mask[...]

    parts = [[mask[:row, :column], mask[:row, column:]], [mask[row:, :column], mask[row:, column:]]]
    np.testing.assert_array_equal(np.block(parts), whole)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(3, 12), seed=st.integers(0, 999))
def test_a_drawn_cell_is_the_polygon(n, seed):
    rng = np.random.default_rng(seed)
    angles, radii = np.sort(rng.uniform(0, 2 * np.pi, n)), rng.uniform(3, 9, n)
    ring = np.stack([12.3 + radii * np.cos(angles), 10.7 + radii * np.sin(angles)], axis=1).astype(np.float32)
    ring = np.concatenate([ring, ring[:1]])
    y, x = np.mgrid[:22, :25] + 0.5

    mask = Polygons((22, 25), ring, np.array([0, len(ring)]), np.array([7], np.uint32))

    inside = Outline(ring).contains_points(np.stack([x.ravel(), y.ravel()], axis=1)).reshape(22, 25)
    np.testing.assert_array_equal(mask[...], np.where(inside, 7, 0))


def test_cells_that_share_an_edge_leave_no_gap_and_do_not_overlap():
    top, corner, rest = [[3.1, 2.2], [27.7, 4.9]], [14.3, 17.2], [[26.3, 18.8], [2.2, 19.1]]
    left = np.array([top[0], corner, rest[1], top[0]], np.float32)
    right = np.array([top[0], top[1], rest[0], corner, top[0]], np.float32)
    points = np.concatenate([left, right])
    apart = [
        Polygons((20, 30), one, np.array([0, len(one)]), np.array([1], np.uint32))[...].astype(int)
        for one in (left, right)
    ]

    both = Polygons((20, 30), points, np.array([0, 4, 9]), np.array([1, 2], np.uint32))[...]

    np.testing.assert_array_equal(apart[0] + 2 * apart[1], both)


def test_a_file_longer_than_a_piece_is_read_feature_by_feature(tmp_path, monkeypatch):
    monkeypatch.setattr(geojson, "_CHARACTERS", 64)

    np.testing.assert_array_equal(read_polygons(write(tmp_path, CELLS), SHAPE)[...], expected())


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "is not readable as GeoJSON"),
        ("cell_id,x,y", "is not readable as GeoJSON"),
        (json.dumps({"type": "FeatureCollection", "features": CELLS})[:-40], "is not readable as GeoJSON"),
        ('{"a": 1}', "holds no polygon"),
        ("[1, 2]", "is JSON but not GeoJSON"),
        ("3", "is JSON but not GeoJSON"),
        ("[]", "holds no polygon"),
        (json.dumps([feature(["ab", "cd", "ef"])]), "is not a list of points"),
        (json.dumps([feature([[1, 2], [1, float("nan")], [3, 3]])]), "holds a coordinate that is not a number"),
        (json.dumps([feature(box(10, 10, 900, 20))]), "reach from .* but the slide is"),
        ("[" * 100_000, "is not readable as GeoJSON"),
    ],
)
def test_a_file_without_outlines_of_cells_is_refused(tmp_path, content, sentence):
    path = tmp_path / "cells.geojson"
    path.write_text(content)

    with pytest.raises(InputError, match=rf"(?s)cells\.geojson.*{sentence}"):
        read_polygons(path, SHAPE)


NUMBERS = st.one_of(st.floats(), st.integers(-5, 60), st.none(), st.text(max_size=2))
ANYTHING = st.recursive(
    NUMBERS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=2)
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(coordinates=ANYTHING, kind=st.sampled_from(["Polygon", "MultiPolygon"]), properties=ANYTHING)
def test_any_json_is_read_or_refused(tmp_path, coordinates, kind, properties):
    features = [{"geometry": {"type": kind, "coordinates": coordinates}, "properties": properties}, CELLS[0]]

    try:
        mask = read_polygons(write(tmp_path, features), SHAPE)
    except InputError:
        return
    assert mask[...].max() >= 1


def test_outlines_without_nuclei_or_without_a_slide_are_refused(tmp_path):
    path = write(tmp_path, CELLS[1:2])

    with pytest.raises(InputError, match="holds no outline of a nucleus"):
        read_polygons(path, SHAPE, outline_of="nucleus")
    with pytest.raises(InputError, match="Give `slide` too"):
        open_mask(path)


def classified(ring, name, **properties):
    geometry = {"type": "Polygon", "coordinates": [ring]}
    return {"type": "Feature", "geometry": geometry, "properties": {"classification": name, **properties}}


def test_the_smallest_outline_with_a_class_is_on_top_whatever_the_order(tmp_path):
    tumour, gland = (
        classified(box(0, 0, 40, 40), {"name": "Tumor"}),
        classified(box(5, 5, 15, 15), {"names": ["Gland"]}),
    )
    unnamed = {**classified(box(0, 0, 2, 2), None), "properties": {"objectType": "annotation"}}
    for features in ([tumour, gland, unnamed], [gland, unnamed, tumour]):
        (tmp_path / "regions.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))

        drawn, classes = read_classes(tmp_path / "regions.geojson", SHAPE)

        assert [classes[drawn[y, x] - 1] for y, x in ((1, 1), (10, 10), (30, 30))] == ["Tumor", "Gland", "Tumor"]
        assert drawn[20, 45] == 0


def test_classes_that_qupath_ignores_hide_what_is_beneath_them(tmp_path):
    features = [classified(box(0, 0, 40, 40), "Tumor"), classified(box(5, 5, 15, 15), {"name": "Ignore*"})]
    (tmp_path / "regions.geojson").write_text(json.dumps(features))

    drawn, classes = read_classes(tmp_path / "regions.geojson", SHAPE)

    assert [classes[drawn[10, 10] - 1], classes[drawn[30, 30] - 1]] == ["", "Tumor"]


def test_outlines_without_a_class_are_refused(tmp_path):
    (tmp_path / "regions.geojson").write_text(json.dumps([feature(box(0, 0, 9, 9), kind="annotation")]))

    with pytest.raises(InputError, match="no polygon with a class"):
        read_classes(tmp_path / "regions.geojson", SHAPE)
