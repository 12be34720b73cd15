"""Fingerprints are stored in results: their values must stay the same from version to version."""

import numpy as np

from mxsplicer.cells.measure import measure_cells
from mxsplicer.system.fingerprints import fingerprint, fingerprint_arrays
from mxsplicer.testing import tiny_slide


def test_the_fingerprint_of_a_file_stays_the_same(tmp_path):
    (tmp_path / "a.bin").write_bytes(bytes(range(256)) * 40_000)  # larger than the parts that are sampled

    assert fingerprint(tmp_path / "a.bin") == "fb954fed1228adea"


def test_the_fingerprint_of_a_folder_stays_the_same(tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "zarr.json").write_text("{}")
    (tmp_path / "c" / "0").write_bytes(b"12345")

    assert fingerprint(tmp_path) == "3dbe3aa6fe1e3dca"


def test_the_fingerprint_of_cells_stays_the_same():
    assert measure_cells(*tiny_slide()).fingerprint() == "8eecee607de4907b"


def test_the_fingerprint_of_weights_stays_the_same():
    weights = [b"weight", np.full((3, 2), 1.5, np.float32), b"bias", np.full(3, -1, np.float32)]

    assert fingerprint_arrays(weights) == "ce704e018cc17f6d"
