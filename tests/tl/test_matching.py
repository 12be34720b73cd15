"""Rows of tables are matched with cells of their own slide only, however slides and cells are named."""

import anndata
import numpy as np
import pandas as pd
import pytest

from mxsplicer.errors import InputError
from mxsplicer.tl.labels import check_labels, join_labels
from mxsplicer.tl.sample_tables import check_samples, join_samples


def two_slides(cells, n=40):
    """Return cells whose ids begin at 1 in each of two slides, with places in pixels."""
    adata = cells(n, n_slides=2)
    adata.obs["cell_id"] = np.uint32(adata.obs.groupby("slide", observed=True).cumcount() + 1)
    adata.obs_names = [f"{slide}_{one}" for slide, one in zip(adata.obs["slide"], adata.obs["cell_id"], strict=True)]
    adata.obs["x_px"], adata.obs["y_px"] = 5 * adata.obsm["spatial"].T
    return adata


def only(adata, slide):
    return adata[adata.obs["slide"] == slide].copy()


def table_of(adata):
    """Return a table whose labels name the slide and the cell."""
    labels = [f"{slide} {one % 3}" for slide, one in zip(adata.obs["slide"], adata.obs["cell_id"], strict=True)]
    return pd.DataFrame({"slide": adata.obs["slide"].astype(str), "cell_id": adata.obs["cell_id"], "type": labels})


def wanted(adata):
    return table_of(adata)["type"].tolist()


def ids_as(spelling, table):
    if spelling == "cell_id":
        return table
    if spelling == "12.0":
        return table.assign(cell_id=table["cell_id"].astype(str) + ".0")
    if spelling == "names":
        return table.assign(cell_id=table["slide"] + "_" + table["cell_id"].astype(str)).drop(columns="slide")
    if spelling == "scimap":
        return table.assign(CellID=table["slide"] + ".ome.tif_" + table["cell_id"].astype(str)).drop(columns="cell_id")
    if spelling == "index":
        names = table["slide"] + "_" + table["cell_id"].astype(str)
        return table.set_index(names).drop(columns=["slide", "cell_id"])
    return table.rename(columns={"cell_id": "Name"}).assign(Name=table["slide"] + "_" + table["cell_id"].astype(str))


@pytest.mark.parametrize("n_slides", [1, 2])
@pytest.mark.parametrize("spelling", ["cell_id", "12.0", "names", "scimap", "index", "QuPath"])
def test_ids_are_matched_as_the_mask_or_the_program_wrote_them(tmp_path, cells, spelling, n_slides):
    every = two_slides(cells)
    adata = every if n_slides == 2 else only(every, "S01")
    path = tmp_path / "labels.csv"
    table = ids_as(spelling, table_of(every))
    table.to_csv(path, index=spelling == "index")

    check_labels(path, ["type"], adata.obs[["slide", "cell_id", "x_px", "y_px"]])
    join_labels(adata, path, ["type"])

    assert adata.obs["type"].tolist() == wanted(adata)


@pytest.mark.parametrize(
    "column", ["Image", "imageid", "fov", "SLIDE", "library_id", "Slide ID", "slide_name", "filename", "ROI", "core"]
)
@pytest.mark.parametrize("spelling", ["{}.ome.tiff", "{}.TIF", "/a/{}.tif", "C:\\a\\{}.qptiff", "{}.tif - Image0"])
def test_a_slide_is_known_by_its_file(tmp_path, cells, column, spelling):
    every = two_slides(cells)
    table = table_of(every)
    table[column] = [spelling.format(slide) for slide in table.pop("slide")]
    table.to_csv(tmp_path / "labels.csv", index=False)

    for adata in (every, only(every, "S00"), only(every, "S01")):
        join_labels(adata, tmp_path / "labels.csv", ["type"])
        assert adata.obs["type"].tolist() == wanted(adata)


@pytest.mark.parametrize("column", ["Slide ID", "slide_name", "File Name", "filename", "image_id", "sample_name"])
def test_a_table_that_names_other_slides_in_any_known_column_is_refused(tmp_path, cells, column):
    every = two_slides(cells)
    table_of(only(every, "S01")).rename(columns={"slide": column}).to_csv(tmp_path / "labels.csv", index=False)

    with pytest.raises(InputError, match=rf"has cells of 'S01' \(column {column}\), and none of 'S00'"):
        join_labels(only(every, "S00"), tmp_path / "labels.csv", ["type"])


def test_a_message_about_long_names_is_short(tmp_path, cells):
    adata = only(two_slides(cells), "S00")
    table = table_of(adata)
    table["slide"] = [f"{number}-{'x' * 100_000}" for number in range(len(table))]
    table.to_csv(tmp_path / "labels.csv", index=False)

    with pytest.raises(InputError, match="and none of 'S00'") as caught:
        join_labels(adata, tmp_path / "labels.csv", ["type"])
    assert len(str(caught.value)) < 1000


def test_a_slide_is_known_by_a_file_of_another_name(tmp_path, cells):
    every = two_slides(cells)
    images = {"S00": "/raw/core_7.ome.tif", "S01": "core_8.ome.tif"}
    table = table_of(every).assign(slide=lambda of: of["slide"].map({"S00": "core_7", "S01": "core_8.ome.tif"}))
    table.to_csv(tmp_path / "labels.csv", index=False)

    with pytest.raises(InputError, match=r"has cells of .*'core_[78]"):
        join_labels(every.copy(), tmp_path / "labels.csv", ["type"])
    join_labels(every, tmp_path / "labels.csv", ["type"], images=images)

    assert every.obs["type"].tolist() == wanted(every)


def test_two_slides_with_one_name_of_file_are_not_guessed(tmp_path, cells):
    every = two_slides(cells)
    table_of(every).assign(slide="core.tif").to_csv(tmp_path / "labels.csv", index=False)

    with pytest.raises(InputError, match=r"'core\.tif' in the table may be slide 'S0.' or 'S0"):
        join_labels(every, tmp_path / "labels.csv", ["type"], images={"S00": "a/core.tif", "S01": "b/core.tif"})


@pytest.mark.parametrize("spelling", ["cell_id", "names", "index"])
def test_a_table_of_another_slide_labels_no_cell(tmp_path, cells, spelling):
    every = two_slides(cells)
    path = tmp_path / "labels.csv"
    ids_as(spelling, table_of(only(every, "S00"))).to_csv(path, index=spelling == "index")
    adata = only(every, "S01")

    with pytest.raises(InputError, match=r"has cells of 'S00' .*none of 'S01'|none of the .* cells"):
        join_labels(adata, path, ["type"])
    assert "type" not in adata.obs


def test_the_column_that_names_these_slides_is_used_of_several(tmp_path, cells):
    every = two_slides(cells)
    table = table_of(every).rename(columns={"slide": "image"}).assign(fov="1", sample="patient 7")
    table.to_csv(tmp_path / "labels.csv", index=False)

    join_labels(every, tmp_path / "labels.csv", ["type"])

    assert every.obs["type"].tolist() == wanted(every)


def test_regions_of_one_slide_are_not_slides(tmp_path, cells):
    adata = only(two_slides(cells), "S00")
    table_of(adata).drop(columns="slide").assign(region="stroma").to_csv(tmp_path / "labels.csv", index=False)

    join_labels(adata, tmp_path / "labels.csv", ["type"])

    assert adata.obs["type"].tolist() == wanted(adata)


PLACES = {
    "mcmicro": lambda x, y: {"X_centroid": x, "Y_centroid": y},
    "QuPath": lambda x, y: {"Centroid X µm": x / 4, "Centroid Y µm": y / 4},
    "scikit-image": lambda x, y: {"centroid-0": y, "centroid-1": x},
    "cut from a larger image": lambda x, y: {"x": x + 5000, "y": y - 300},
    "y before x": lambda x, y: {"X_centroid": y, "Y_centroid": x},
}


@pytest.mark.parametrize("maker", PLACES)
def test_places_are_compared(tmp_path, cells, maker):
    every = two_slides(cells)
    for slide in ("S00", "S01"):
        source, path = only(every, slide), tmp_path / f"{slide}.csv"
        places = PLACES[maker](*source.obs[["x_px", "y_px"]].to_numpy().T)
        table_of(source).drop(columns="slide").assign(**places).to_csv(path, index=False)
    adata = only(every, "S00")

    join_labels(adata, tmp_path / "S00.csv", ["type"])
    assert adata.obs["type"].tolist() == wanted(adata)

    with pytest.raises(InputError, match=r"at other places .* another slide or another mask"):
        join_labels(adata, tmp_path / "S01.csv", ["type"])


def test_the_measurements_of_qupath_are_matched_by_object_id(tmp_path, cells):
    every = two_slides(cells)
    every.obs["object_id"] = [f"1b9d6bcd-bbfd-4b2d-9b5d-{i:012d}" for i in range(every.n_obs)]
    table = pd.DataFrame(
        {
            "Image": [f"{slide}.ome.tiff" for slide in every.obs["slide"]],
            "Object ID": every.obs["object_id"].to_numpy(),
            "Object type": "Cell",
            "Name": "",
            "Classification": wanted(every),
            "Parent": "Root object (Image)",
            "Centroid X µm": every.obs["x_px"].to_numpy() / 2,
            "Centroid Y µm": every.obs["y_px"].to_numpy() / 2,
        }
    ).sample(frac=1, random_state=0)
    table.to_csv(tmp_path / "measurements.tsv", index=False, sep="\t")

    assert join_labels(every, tmp_path / "measurements.tsv", []) == ["Classification"]
    assert every.obs["Classification"].tolist() == wanted(every)


def test_labels_and_names_that_look_like_numbers_stay_text(tmp_path, cells):
    every = two_slides(cells)
    every.obs["slide"] = every.obs["slide"].cat.rename_categories({"S00": "001", "S01": "002"})
    table = table_of(every).assign(type=np.where(every.obs["slide"] == "001", "1E2", "100"))
    table.to_csv(tmp_path / "labels.csv", index=False)
    (tmp_path / "samples.csv").write_text("slide;Patient;age\n001;1E2;61\n002;100;48\n")

    join_labels(every, tmp_path / "labels.csv", ["TYPE"])
    assert join_samples(every, tmp_path / "samples.csv") == ["patient", "age"]

    first = every.obs["slide"] == "001"
    assert every.obs["type"].tolist() == every.obs["patient"].tolist() == np.where(first, "1E2", "100").tolist()
    assert every.obs["age"].tolist() == np.where(first, 61, 48).tolist()


def test_a_slide_of_which_the_table_has_no_cell_is_named(tmp_path, cells, caplog):
    every = two_slides(cells)
    table_of(only(every, "S00")).to_csv(tmp_path / "labels.csv", index=False)

    join_labels(every, tmp_path / "labels.csv", ["type"])

    assert every.obs["type"].notna().equals(every.obs["slide"] == "S00")
    assert "has no cell of slide S01" in caplog.text


def test_a_table_of_samples_may_name_slides_by_their_image_files(tmp_path):
    adata = anndata.AnnData(obs=pd.DataFrame({"slide": ["one", "two", "one"]}, index=list("abc")))
    (tmp_path / "samples.csv").write_text("image,patient\nscan 7.ome.tiff,P7\nscan 8.ome.tiff,P8\n")
    images = {"one": "scan 8.ome.tiff", "two": "scan 7.ome.tiff"}

    check_samples(tmp_path / "samples.csv", ["two"], "patient", images)
    join_samples(adata, tmp_path / "samples.csv", images=images)

    assert adata.obs["patient"].tolist() == ["P8", "P7", "P8"]
    with pytest.raises(InputError, match="lacks one, two"):
        check_samples(tmp_path / "samples.csv", ["one", "two"], None)
