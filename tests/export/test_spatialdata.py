import warnings

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
