import numpy as np
import pytest
import zarr

from mxsplicer.errors import InputError
from mxsplicer.export import write_labels
from mxsplicer.images import ngff
from mxsplicer.masks.files import open_mask


def test_labels_of_cells_and_clusters_equal_the_mask_at_every_level(tissue, tmp_path, monkeypatch):
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


def test_a_folder_that_is_not_a_zarr_group_is_kept_despite_overwrite(tissue, tmp_path):
    _, mask, adata = tissue
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")

    with pytest.raises(InputError, match=r"mine exists and is not a zarr group"):
        write_labels(adata, tmp_path / "mine", mask, pixel_size_um=0.5, overwrite=True)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"
