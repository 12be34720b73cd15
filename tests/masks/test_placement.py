"""Outlines are read where they lie, whatever program wrote them; each has an outcome in the ledger."""

import json
import logging

import anndata
import numpy as np
import pytest
import tifffile
import torch

from mxsplicer.cells.measure import measure_cells
from mxsplicer.errors import InputError
from mxsplicer.images.slide import Slide
from mxsplicer.masks.doctor import warn_of_faults
from mxsplicer.masks.files import open_mask, open_nuclei
from mxsplicer.masks.geojson import read_polygons
from mxsplicer.result.options import Options
from mxsplicer.result.pipeline import embed_slides
from mxsplicer.splicer.recipe import Recipe
from mxsplicer.tl.labels import join_labels

ANGLES = np.linspace(0, 2 * np.pi, 17)
TUMOUR = [[10, 10], [290, 10], [290, 230], [10, 230], [10, 10]]


def ring(y, x, radius):
    return np.column_stack([x + radius * np.cos(ANGLES), y + radius * np.sin(ANGLES)])


def tissue(shape=(240, 300)):
    """Return outlines of cells and of their nuclei (x, y), and an image of the nuclei."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: shape[0], : shape[1]]
    nuclei, cells, inner = np.zeros(shape, bool), [], []
    for row in range(14, shape[0] - 10, 20):
        for column in range(14, shape[1] - 10, 20):
            at = row + rng.integers(-5, 6), column + rng.integers(-5, 6)
            nuclei |= np.hypot(y - at[0], x - at[1]) < 4
            cells.append(ring(*at, 7))
            inner.append(ring(*at, 4))
    image = rng.poisson(50 + 900 * nuclei)[None].repeat(2, axis=0).astype(np.uint16)
    return cells, inner, image


CELLS, NUCLEI, IMAGE = tissue()


def slide_of(pixel_size_um=0.5, image=IMAGE, markers=("DAPI", "CD4")):
    return Slide("S1", image, markers, pixel_size_um)


def feature(points, kind="cell", *, nucleus=None, **more):
    made = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [np.asarray(points).tolist()]}}
    made["properties"] = {} if kind is None else {"objectType": kind}
    if nucleus is not None:
        made["nucleusGeometry"] = {"type": "Polygon", "coordinates": [np.asarray(nucleus).tolist()]}
    return made | more


def write(path, features):
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


READINGS = {
    "pixels": lambda points, _: points,
    "micrometres": lambda points, um: points * um,
    "pixels with y before x": lambda points, _: points[:, ::-1],
    "micrometres with y before x": lambda points, um: points[:, ::-1] * um,
}


@pytest.mark.parametrize("pixel_size_um", [0.25, 0.5, 0.65])
@pytest.mark.parametrize("reading", READINGS)
def test_outlines_in_another_unit_or_order_give_the_same_mask(tmp_path, reading, pixel_size_um, caplog):
    def convert(one):
        return READINGS[reading](one, pixel_size_um)

    both = [feature(convert(cell), nucleus=convert(nucleus)) for cell, nucleus in zip(CELLS, NUCLEI, strict=True)]
    right = write(tmp_path / "right.geojson", [feature(one, nucleus=n) for one, n in zip(CELLS, NUCLEI, strict=True)])
    given, slide = write(tmp_path / "given.geojson", both), slide_of(pixel_size_um)

    mask, nuclei = open_mask(given, slide=slide), open_nuclei(given, slide)

    assert (mask[...] != open_mask(right, slide=slide)[...]).mean() < 1e-4  # corners are float32
    assert (nuclei[...] != open_nuclei(right, slide)[...]).mean() < 1e-4
    assert (f"are read as {reading}" in caplog.text) == (reading != "pixels")


def test_outlines_stay_in_pixels_where_the_nuclei_show_nothing(tmp_path, caplog):
    path = write(tmp_path / "cells.geojson", [feature(one * 0.5) for one in CELLS])
    flat = np.full_like(IMAGE, 7)

    for slide in (slide_of(image=flat), slide_of(markers=("CD8", "CD4"))):
        assert np.flatnonzero(open_mask(path, slide=slide)[...].any(axis=1)).max() < 120
    assert "read as" not in caplog.text


def test_outlines_that_do_not_fit_are_refused_with_the_unit_in_which_they_would(tmp_path):
    path = write(tmp_path / "cells.geojson", [feature(one * 2) for one in CELLS[-3:]])

    with pytest.raises(InputError, match=r"the slide is \(240, 300\).*They would fit as micrometres\. Export them in"):
        open_mask(path, slide=slide_of(pixel_size_um=2.0))


OLD = {"measurements": [{"name": "Nucleus: Area", "value": 31.5}]}
COLLECTION = {
    "type": "GeometryCollection",
    "geometries": [
        {"type": "Polygon", "coordinates": [CELLS[0].tolist()]},
        {"type": "LineString", "coordinates": [[1, 1], [2, 2]]},
    ],
}
POINT = {"type": "Feature", "properties": {"objectType": "cell"}, "geometry": {"type": "Point", "coordinates": [3, 3]}}
PROGRAMS = {  # features, and entries of the ledger that are not of cells
    "cells": ([feature(one) for one in CELLS], {}),
    "cells and the tumour": ([feature(TUMOUR, "annotation"), *(feature(one) for one in CELLS)], {"not a cell": 1}),
    "QuPath 0.2": (
        [*(feature(one, None, id="PathCellObject") for one in CELLS), feature(TUMOUR, None, id="PathAnnotationObject")],
        {"not a cell": 1},
    ),
    "annotations, the tumour first": (
        [feature(TUMOUR, "annotation"), *(feature(one, "annotation") for one in CELLS)],
        {"not a cell": 1},
    ),
    "annotations, the tumour last": (
        [*(feature(one, None) for one in CELLS), feature(TUMOUR, None)],
        {"not a cell": 1},
    ),
    "a geometry collection": (
        [feature(CELLS[0]) | {"geometry": COLLECTION}, *(feature(one) for one in CELLS[1:])],
        {},
    ),
    "points": ([*(feature(one) for one in CELLS), POINT], {"not a cell": 1}),
    "cells twice": ([feature(one) for one in [*CELLS[:30], *CELLS]], {"without a pixel": 30}),
    "specks": ([*(feature(one) for one in CELLS), feature(ring(1.0, 1.0, 0.2))], {"without a pixel": 1}),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_outline_has_an_outcome_and_the_cells_are_the_same(tmp_path, program):
    features, others = PROGRAMS[program]
    path = write(tmp_path / "cells.geojson", features)

    cells = measure_cells(slide_of(), open_mask(path, slide=slide_of()), min_area_um2=0)

    assert cells.ledger == {"in mask": len(features), "kept": len(CELLS), "too small": 0} | others
    alone = open_mask(write(tmp_path / "alone.geojson", PROGRAMS["cells"][0]), slide=slide_of())
    np.testing.assert_allclose(cells.intensities, measure_cells(slide_of(), alone, min_area_um2=0).intensities)


def test_many_hidden_outlines_are_reported_and_regions_serve_as_regions(tmp_path, caplog):
    twice = open_mask(write(tmp_path / "twice.geojson", PROGRAMS["cells twice"][0]), slide=slide_of())
    regions = [feature(TUMOUR, "annotation"), *(feature(one, "annotation") for one in CELLS[:9])]

    measure_cells(slide_of(), twice)
    tumour = read_polygons(write(tmp_path / "regions.geojson", regions), (240, 300), of_cells=False)

    assert f"30 of {30 + len(CELLS)} outlines of slide 'S1' have no pixel of their own" in caplog.text
    assert tumour[10:230, 10:290].all()


def test_overlapping_parts_of_a_cell_are_joined_and_holes_stay(tmp_path):
    def box(left, top, right, bottom):
        return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]

    parts = [[box(10, 10, 20, 20), box(12, 12, 14, 14)], [box(16, 10, 26, 20)]]
    given = feature(CELLS[0]) | {"geometry": {"type": "MultiPolygon", "coordinates": parts}}

    mask = open_mask(write(tmp_path / "cells.geojson", [given]), slide=slide_of())[...]

    assert mask.sum() == 160 - 4
    assert mask[15, 17] == 1
    assert mask[13, 13] == 0


@pytest.mark.parametrize("fault", ["none", "transposed", "another slide"])
def test_a_mask_that_check_would_refuse_is_reported_before_cells_are_measured(tmp_path, fault, caplog):
    cells, _, image = tissue((240, 240))
    path = write(tmp_path / "cells.geojson", [feature(one) for one in cells])
    mask = open_mask(path, slide=slide_of(image=image))[...]
    given = {"none": mask, "transposed": mask.T, "another slide": np.roll(mask, (61, 97), axis=(0, 1))[::-1]}[fault]

    faults = warn_of_faults(slide_of(image=image), np.ascontiguousarray(given))

    assert bool(faults) == (fault != "none")
    assert ("the mask of slide S1 may be wrong" in caplog.text) == (fault != "none")
    assert caplog.text.count("Run `mxsplicer check` on it") == len(faults)


def test_the_object_ids_of_qupath_are_kept_and_labels_are_matched_by_them(tmp_path, caplog):
    torch.set_num_threads(1)
    caplog.set_level(logging.INFO, "mxsplicer")
    names = [f"8f2c0000-0000-4000-9144-{number:012d}" for number in range(len(CELLS))]
    order = np.random.default_rng(1).permutation(len(CELLS))
    write(tmp_path / "cells.geojson", [feature(CELLS[i], id=names[i]) for i in order])
    kinds = ["Tumor" if one[:, 0].mean() > 150 else "Immune cells" for one in CELLS]
    rows = ["Image\tObject ID\tObject type\tClassification"]
    rows += [f"S1.ome.tif\t{name}\tCell\t{kind}" for name, kind in zip(names, kinds, strict=True)]
    (tmp_path / "measurements.tsv").write_text("\n".join(rows))
    metadata = {"axes": "CYX", "Channel": {"Name": ["DAPI", "CD4"]}, "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    tifffile.imwrite(tmp_path / "S1.ome.tif", IMAGE, ome=True, photometric="minisblack", metadata=metadata)
    recipe = Recipe(encoder="resnet18", batch_size=64, encoder_width=4, component_width=2, chunk_width=2, max_steps=2)
    options = Options(masks=(tmp_path / "cells.geojson",), recipe=recipe, only_cells=True)

    result = embed_slides(tmp_path / "S1.ome.tif", tmp_path / "S1.mxs", options=options, device="cpu")

    adata = anndata.read_h5ad(result.cells)
    join_labels(adata, tmp_path / "measurements.tsv", ["Classification"])
    obs = adata.obs
    of_name = dict(zip(names, kinds, strict=True))
    assert sorted(obs["object_id"]) == names
    assert [of_name[one] for one in obs["object_id"]] == obs["Classification"].tolist()
    assert max(len(record.getMessage()) for record in caplog.records) < 2000
