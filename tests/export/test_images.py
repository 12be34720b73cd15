"""Outlines, labels and SpatialData: what is written gives the mask back."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
import zarr
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mxsplicer.cells.measure import measure_cells
from mxsplicer.errors import InputError
from mxsplicer.export import outlines, write_labels, write_outlines, write_spatialdata
from mxsplicer.export.outlines import trace
from mxsplicer.images import ngff
from mxsplicer.images.slide import Slide
from mxsplicer.masks.files import open_mask
from mxsplicer.masks.polygons import read_polygons
from mxsplicer.pl import colors


@pytest.fixture(scope="module")
def tissue():
    """Return a slide, a mask of odd cells (a ring, two pieces, one beyond a tile) and their table."""
    rng = np.random.default_rng(0)
    mask = np.zeros((300, 420), np.uint32)
    for number, (y, x) in enumerate(np.ndindex(18, 26)):
        if number % 5:
            mask[16 * y + 4 : 16 * y + 4 + rng.integers(3, 14), 16 * x + 2 : 16 * x + rng.integers(4, 15)] = (
                3 * number + 7
            )
    mask[100:140, 100:140] = 9001
    mask[110:130, 112:128] = 0  # a ring
    mask[115:120, 116:120] = 9002  # a cell in it
    mask[200:204, 20:30] = mask[206:210, 20:30] = 9003  # two pieces
    mask[290:300, 10:410] = 9004  # across all tiles
    slide = Slide("S 1", rng.integers(0, 99, (2, 300, 420), dtype=np.uint16), ("DAPI", "CD4"), pixel_size_um=0.5)
    cells = measure_cells(slide, mask, min_area_um2=0)
    obs = cells.table.assign(slide=pd.Categorical(["S 1"] * len(cells)))
    obs.index = [f"S 1_{cell}" for cell in obs["cell_id"]]
    obs["leiden"] = pd.Categorical([str(i % 3) if i else None for i in range(len(obs))])
    adata = AnnData(
        cells.intensities,
        obs=obs,
        var=pd.DataFrame(index=list(slide.markers)),
        obsm={"spatial": obs[["x", "y"]].to_numpy(), "X_splicer": rng.normal(size=(len(obs), 4))},
        uns={"mxsplicer": {"pixel_size_um": 0.5}, "spatialdata_attrs": {"region": "elsewhere"}},
    )
    return slide, mask, adata


@pytest.mark.parametrize("name", ["cells.geojson", "cells.geojson.gz"])
def test_outlines_drawn_again_are_the_mask_pixel_for_pixel(tissue, tmp_path, monkeypatch, name):
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
def test_any_shape_is_traced_so_that_it_can_be_drawn_again(tmp_path_factory, inside, offset):
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


def test_simpler_outlines_have_fewer_corners_and_about_the_same_pixels(tissue, tmp_path):
    slide, mask, adata = tissue

    exact, simple = (
        write_outlines(adata, tmp_path / f"{px}.geojson", mask, groupby=None, simplify_px=px) for px in (0, 1)
    )

    assert simple.stat().st_size < exact.stat().st_size
    overlap = ((read_polygons(simple, slide.shape_px)[:] > 0) & (mask > 0)).sum() / (mask > 0).sum()
    assert overlap > 0.9


def test_another_mask_and_a_missing_slide_are_refused_and_leave_nothing(tissue, tmp_path):
    _, mask, adata = tissue

    with pytest.raises(InputError, match=r"the mask has no cell \d+ near"):
        write_outlines(adata, tmp_path / "cells.geojson", np.where(mask == 9001, 0, mask))
    with pytest.raises(InputError, match="no cell of slide 'S2'; the slides are S 1"):
        write_outlines(adata, tmp_path / "cells.geojson", mask, slide="S2")
    assert not list(tmp_path.iterdir())


def test_labels_of_cells_and_clusters_are_the_mask_and_its_clusters_at_every_level(tissue, tmp_path, monkeypatch):
    _, mask, adata = tissue
    monkeypatch.setattr("mxsplicer.images.ngff._COARSEST_LABELS_PX", 100)
    monkeypatch.setitem(ngff._LABEL_CHUNK_PX, "0.4", 32)
    monkeypatch.setattr("mxsplicer.export.labels._WINDOW_PX", 64)
    some = adata[adata.obs["cell_id"] != 9001]

    path = write_labels(some, tmp_path / "cells.ome.zarr", mask, pixel_size_um=0.5)

    root = zarr.open_group(path, mode="r")
    expected = np.where(mask == 9001, 0, mask)
    clusters = root["labels/leiden"]
    of_cell = dict(zip(some.obs["cell_id"], some.obs["leiden"].cat.codes + 1, strict=True))
    for level, step in enumerate((1, 2, 4, 8)):
        np.testing.assert_array_equal(root[f"labels/cells/{level}"][:], expected[::step, ::step])
    expected_clusters = np.vectorize(lambda cell: of_cell.get(cell, 0))(expected)
    np.testing.assert_array_equal(clusters["0"][:], expected_clusters)
    scales = [one["coordinateTransformations"][0]["scale"] for one in clusters.attrs["multiscales"][0]["datasets"]]
    assert scales[:2] == [[0.5, 0.5], [1.0, 1.0]]
    assert [one["class"] for one in clusters.attrs["image-label"]["properties"]] == ["0", "1", "2"]
    np.testing.assert_array_equal(open_mask(path / "labels" / "cells" / "0")[:], expected)


def test_a_spatialdata_reads_back_with_its_image_labels_and_table(tissue, tmp_path):
    spatialdata = pytest.importorskip("spatialdata")
    slide, mask, adata = tissue

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of SpatialData's parts
        path = write_spatialdata(adata, tmp_path / "S1.zarr", slides=[slide], masks=[mask])
        data = spatialdata.read_zarr(path)
        image, labels, table = data["S_1_image"], data["S_1"], data["cells"]
        np.testing.assert_array_equal(np.asarray(image), slide.image)
        np.testing.assert_array_equal(np.asarray(labels), mask)
        assert list(image.coords["c"].values) == ["DAPI", "CD4"]
        matched, _ = spatialdata.join_spatialelement_table(sdata=data, spatial_element_names="S_1", table_name="cells")
    assert set(table.obs["slide"]) == {"S_1"}
    assert table.uns["spatialdata_attrs"]["instance_key"] == "cell_id"
    np.testing.assert_array_equal(table.obsm["X_splicer"], adata.obsm["X_splicer"])
    assert "S_1" in matched
    with pytest.raises(InputError, match=r"S1\.zarr exists"):
        write_spatialdata(adata, path, slides=[slide], masks=[mask])
