"""Labels are joined to the right cells, from tables and from outlines."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest

from mxsplicer.errors import InputError
from mxsplicer.tl.drawn_outlines import join_outlines
from mxsplicer.tl.labels import check_labels, join_labels, obs_name, read_table
from mxsplicer.tl.sample_tables import check_samples, join_samples


def write(path, **columns):
    pd.DataFrame(columns).to_csv(path, index=False, sep="\t" if ".tsv" in path.name else ",")
    return path


@pytest.mark.parametrize("name", ["labels.csv", "labels.tsv", "labels.csv.gz", "labels.tsv.gz"])
@pytest.mark.parametrize("id_column", ["cell_id", "CellID", "label", "Object", "ObjectNumber"])
def test_labels_are_matched_by_the_id_of_the_cell_in_any_order(tmp_path, cells, name, id_column):
    adata = cells(50)
    order = np.random.default_rng(0).permutation(50)
    columns = {"type": adata.obs["kind"].to_numpy()[order], id_column: adata.obs["cell_id"].to_numpy()[order]}

    joined = join_labels(adata, write(tmp_path / name, **columns), [])

    assert joined == ["type"]
    assert adata.obs["type"].tolist() == adata.obs["kind"].tolist()


def test_cells_that_are_not_in_the_table_have_no_label(tmp_path, cells):
    adata = cells(4)

    join_labels(adata, write(tmp_path / "labels.csv", cell_id=[2, 4, 99], type=["T", "B", "T"]), [])

    assert adata.obs["type"].isna().tolist() == [True, False, True, False]
    assert adata.obs["type"].dropna().tolist() == ["T", "B"]


def test_the_slide_distinguishes_cells_with_the_same_id(tmp_path, cells):
    adata = cells(40, n_slides=2)
    adata.obs["cell_id"] = np.uint32(adata.obs.groupby("slide", observed=True).cumcount() + 1)
    table = write(
        tmp_path / "labels.csv",
        fov=adata.obs["slide"].astype(str)[::-1],
        cell_id=adata.obs["cell_id"][::-1],
        type=[f"of {slide}" for slide in adata.obs["slide"]][::-1],
    )

    join_labels(adata, table, ["type"])

    assert adata.obs["type"].tolist() == [f"of {slide}" for slide in adata.obs["slide"]]


def test_one_slide_uses_its_own_rows_of_the_table_of_a_cohort(tmp_path, cells):
    adata = cells(2)
    table = write(
        tmp_path / "labels.csv", slide=["S01", "S00", "S01", "S00"], cell_id=[1, 1, 2, 2], type=["x", "a", "x", "b"]
    )

    join_labels(adata, table, [])

    assert adata.obs["type"].tolist() == ["a", "b"]


def test_measurements_are_not_overwritten_and_names_follow_the_rule(tmp_path, cells):
    adata = cells(3)
    measured = adata.obs["area_um2"].copy()

    joined = join_labels(
        adata,
        write(tmp_path / "labels.csv", cell_id=[1, 2, 3], area_um2=[0, 0, 1], **{"cell type (µ)": list("abc")}),
        ["area_um2", "cell type (µ)"],
    )

    assert joined == ["area_um2_given", "cell_type__µ_"]
    assert obs_name("cell type (µ)") == "cell_type__µ_"
    pd.testing.assert_series_equal(adata.obs["area_um2"], measured)


def test_a_label_that_was_joined_before_is_not_joined_again(tmp_path, cells):
    adata = cells(3)
    table = write(tmp_path / "labels.csv", cell_id=[1, 2], type=["a", "b"], size=[1.5, 2.0])

    first = join_labels(adata, table, ["type", "size"])

    assert join_labels(adata, table, ["type", "size"]) == first == ["type", "size"]
    assert "type_given" not in adata.obs


def test_mixed_columns_can_be_written_and_read(tmp_path, cells):
    adata = cells(4)
    table = write(
        tmp_path / "labels.csv", cell_id=[1, 2, 3], mixed=["T", 7, None], flag=[True, False, True], n=[1, 2, 3]
    )

    join_labels(adata, table, ["mixed", "flag", "n"])
    adata.write_h5ad(tmp_path / "cells.h5ad")

    assert adata.obs["mixed"].tolist()[:2] == ["T", "7"]
    assert adata.obs["flag"].tolist()[:3] == ["True", "False", "True"]
    assert adata.obs["n"].tolist()[:3] == [1, 2, 3]


@pytest.mark.parametrize(
    ("columns", "wanted", "n_slides", "sentence"),
    [
        ({"type": ["a", "b"]}, [], 1, "no column of cell ids"),
        ({"cell_id": [1, 1], "type": ["a", "b"]}, [], 1, "has cell 1 twice"),
        ({"cell_id": [8, 9], "type": ["a", "b"]}, [], 1, "none of the 6 cells was found in table labels.csv"),
        ({"cell_id": [1, 2], "type": ["a", "b"]}, ["typ"], 1, "no column 'typ'. Its columns: cell_id, type"),
        ({"cell_id": [1, 2], "area": [3.5, 4]}, [], 1, "no text column"),
        ({"cell_id": [1, 2], "type": ["a", "b"]}, [], 2, "no column of slides"),
        (
            {"cell_id": [1, 2], "fov": ["X", "X"], "type": ["a", "b"]},
            [],
            2,
            "has cells of 'X' .column fov.",
        ),
    ],
)
def test_a_table_that_does_not_match_raises_when_checked_and_when_joined(
    tmp_path, cells, columns, wanted, n_slides, sentence
):
    adata = cells(6, n_slides=n_slides)
    table = write(tmp_path / "labels.csv", **columns)

    for join in (lambda: check_labels(table, wanted, adata.obs), lambda: join_labels(adata, table, wanted)):
        with pytest.raises(InputError, match=sentence):
            join()


def test_columns_of_slides_are_joined_to_their_cells(tmp_path, cells):
    adata = cells(30, n_slides=3)
    table = write(
        tmp_path / "samples.csv", image=["S02", "S00", "S01", "S07"], patient=["c", "a", "b", "x"], age=[3, 1, 2, 9]
    )

    assert join_samples(adata, table) == ["patient", "age"]

    assert adata.obs["patient"].tolist() == [{"S00": "a", "S01": "b", "S02": "c"}[one] for one in adata.obs["slide"]]
    assert adata.obs["age"].tolist() == [{"S00": 1, "S01": 2, "S02": 3}[one] for one in adata.obs["slide"]]


def test_a_column_whose_name_anndata_cannot_write_is_renamed(tmp_path, cells):
    adata = cells(3, n_slides=1)
    table = write(tmp_path / "samples.csv", slide=["S00"], dtype=["uint8"])

    assert join_samples(adata, table) == ["dtype_given"]
    adata.write_h5ad(tmp_path / "cells.h5ad")


@pytest.mark.parametrize(
    ("columns", "groups", "sentence"),
    [
        ({"slide": ["S00"], "patient": [1]}, None, "it lacks S01"),
        ({"slide": ["S00", "S01", "S01"], "patient": [1, 2, 3]}, None, "it has S01 twice"),
        ({"name": ["S00", "S01"]}, None, "it has no such column"),
        ({"slide": ["S00", "S01"], "patient": [1, 2]}, "donor", "no column 'donor'. Its columns: slide, patient"),
    ],
)
def test_a_table_of_samples_that_does_not_match_raises(tmp_path, columns, groups, sentence):
    with pytest.raises(InputError, match=sentence):
        check_samples(write(tmp_path / "samples.csv", **columns), ["S00", "S01"], groups)


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n3,4,5\n", b"\xff\xfe\x00"])
def test_a_file_that_is_not_a_table_raises(tmp_path, content):
    (tmp_path / "labels.csv").write_bytes(content)

    with pytest.raises(InputError, match=r"labels\.csv cannot be read"):
        read_table(tmp_path / "labels.csv")


def test_a_damaged_compressed_table_raises(tmp_path):
    (tmp_path / "labels.csv.gz").write_bytes(b"cell_id,type\n1,a\n")
    with pytest.raises(InputError, match="cannot be read"):
        read_table(tmp_path / "labels.csv.gz")

    (tmp_path / "short.csv.gz").write_bytes(gzip.compress(b"cell_id,type\n" * 1000)[:-20])
    with pytest.raises(InputError, match="cannot be read"):
        read_table(tmp_path / "short.csv.gz")


def write_outlines(path, *outlines):
    features = []
    for (left, top, right, bottom), name in outlines:
        ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
        geometry = {"type": "Polygon", "coordinates": [ring]}
        features.append({"type": "Feature", "geometry": geometry, "properties": {"classification": {"name": name}}})
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def with_pixels(adata):
    adata.obs["x_px"], adata.obs["y_px"] = 5 * adata.obsm["spatial"].T
    return adata


def test_a_cell_has_the_class_of_the_smallest_outline_around_it_for_every_tile(tmp_path, cells):
    adata = with_pixels(cells(400))  # over 2,500 pixels: nine tiles
    path = write_outlines(tmp_path / "S00.geojson", ((100, 100, 400, 2000), "Gland"), ((0, 0, 1500, 2500), "Tumor"))

    assert join_outlines(adata, path, "region of interest") == "region_of_interest"

    x, y = np.round(adata.obs[["x_px", "y_px"]].to_numpy()).T
    gland = (x >= 100) & (x < 400) & (y >= 100) & (y < 2000)
    expected = np.where(gland, "Gland", np.where((x >= 0) & (x < 1500), "Tumor", None))
    assert [one if isinstance(one, str) else None for one in adata.obs["region_of_interest"]] == expected.tolist()


def test_each_slide_has_its_own_file_of_outlines(tmp_path, cells):
    adata = with_pixels(cells(60, n_slides=2))
    write_outlines(tmp_path / "S01.ome.geojson", ((0, 0, 3000, 3000), "Tumor"))
    write_outlines(tmp_path / "S010.geojson", ((0, 0, 3000, 3000), "other slide"))

    join_outlines(adata, tmp_path, "region")

    assert adata.obs.groupby("slide", observed=True)["region"].apply(lambda of: set(of.dropna())).to_dict() == {
        "S00": set(),
        "S01": {"Tumor"},
    }


@pytest.mark.parametrize(
    ("n_slides", "given", "sentence"),
    [
        (1, "nowhere.geojson", "nowhere.geojson was not found"),
        (2, "S00.geojson", "has the outlines of one slide, but there are 2 slides"),
        (1, "far.geojson", "no cell lies in an outline with a class of far.geojson"),
        (1, "", "has 2 GeoJSON files whose name begins with 'S00'"),
    ],
)
def test_outlines_that_do_not_match_raise(tmp_path, cells, n_slides, given, sentence):
    for name in ("S00.geojson", "S00_again.geojson"):
        write_outlines(tmp_path / name, ((0, 0, 100, 100), "Tumor"))
    write_outlines(tmp_path / "far.geojson", ((9000, 9000, 9100, 9100), "Tumor"))

    with pytest.raises(InputError, match=sentence):
        join_outlines(with_pixels(cells(40, n_slides=n_slides)), tmp_path / given, "region")


def test_cells_without_ids_or_centroids_raise(tmp_path, cells):
    adata = cells(20)
    adata.uns = {}
    del adata.obs["cell_id"]

    with pytest.raises(InputError, match="no ids"):
        join_labels(adata, write(tmp_path / "labels.csv", cell_id=[1, 2], type=["a", "b"]), [])
    with pytest.raises(InputError, match="no centroids in pixels"):
        join_outlines(adata, write_outlines(tmp_path / "S00.geojson", ((0, 0, 9, 9), "Tumor")), "region")
