"""The result folder: what is written to it, whatever the number of cells."""

import h5py
import numpy as np
import zarr

from mxsplicer.result.features import open_features, write_features


def test_features_of_any_number_of_cells_are_stored_one_after_the_other(tmp_path, caplog):
    z = np.random.default_rng(0).normal(size=(600_001, 17)).astype(np.float32)  # more than one chunk either way
    names = [f"S1_{number}" for number in range(len(z))]
    with h5py.File(tmp_path / "z.h5", "w") as file:
        write_features(tmp_path / "features.zarr", file.create_dataset("z", data=z, chunks=(4096, 16)), names)

    features = open_features(tmp_path, names)
    assert open_features(tmp_path, names[::-1]) is None
    assert "is not of the cells as they are sorted now" in caplog.text

    caplog.clear()
    zarr.open_array(tmp_path / "features.zarr").attrs.clear()
    assert open_features(tmp_path, names) is None, "it may be of other cells"
    assert "does not record its cells" in caplog.text
    assert "sorted" not in caplog.text
    assert features.chunks == (1, 1 << 19)
    np.testing.assert_array_equal(features[:], z.T)
