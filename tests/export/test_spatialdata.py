import warnings
from dataclasses import replace

import numpy as np
import pytest

from mxsplicer.errors import InputError
from mxsplicer.export import write_spatialdata


def test_a_spatialdata_store_is_read_with_its_image_labels_and_table(tissue, tmp_path):
    spatialdata = pytest.importorskip("spatialdata")
    slide, mask, adata = tissue

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations in packages that SpatialData uses
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


@pytest.mark.parametrize(
    ("slides", "elements"),
    [
        (("core A1", "core_A1"), ("core_A1_2", "core_A1")),
        (("Tumor1", "tumor1"), ("Tumor1", "tumor1_2")),
        (("S1", "S1_image"), ("S1", "S1_image_2")),
        (("肿瘤", "正常"), ("肿瘤", "正常")),
        (("cells", "O'Neill 2"), ("cells_2", "O_Neill_2")),
        (("##", "__"), ("x__", "x___2")),
    ],
)
def test_names_of_slides_become_valid_names_one_to_one(tissue, tmp_path, slides, elements):
    spatialdata = pytest.importorskip("spatialdata")
    slide, mask, adata = tissue
    of_slide = np.arange(adata.n_obs) % 2
    adata = adata.copy()
    adata.obs["slide"] = np.array(slides, dtype=object)[of_slide]
    adata.obs["Slide"], adata.obs["my label"], adata.obs["my_label"] = "x", "a", "b"
    adata.obsm["X (other)"] = adata.obsm["X_splicer"]
    ids = adata.obs["cell_id"].to_numpy()
    masks = [np.where(np.isin(mask, ids[of_slide == one]), mask, 0) for one in (0, 1)]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations in packages that SpatialData uses
        named = [replace(slide, name=name) for name in slides]
        path = write_spatialdata(adata, tmp_path / "cells.zarr", slides=named, masks=masks)
        data = spatialdata.read_zarr(path)
        table = data["cells"]
        for name, element, one in zip(slides, elements, masks, strict=True):
            np.testing.assert_array_equal(np.asarray(data[element]), one)
            assert set(table.obs["cell_id"][table.obs["slide"] == element]) == set(np.unique(one)) - {0}
            row = table.uns["mxsplicer_elements"].set_index("slide").loc[name]
            assert row.tolist() == [element, f"{element}_image"]
            assert row["image"] in data.images
