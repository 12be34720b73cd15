import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from napari_mxsplicer.reader import get_reader

from mxsplicer import InputError
from mxsplicer.system.fingerprints import fingerprint


def test_a_result_is_read_by_its_folder_and_by_its_index(sample):
    for path in (sample, sample / "mxsplicer.json"):
        names = [options["name"] for _, options, _ in get_reader(str(path))(str(path))]
        assert names[-2:] == ["cells", "mxsplicer coloured cells"]
        assert "CD8a" in names


@pytest.mark.parametrize("name", ["slide.ome.tiff", "slide.zarr", "other.json", "mxsplicer.json", "folder"])
def test_other_files_are_left_to_other_readers(name, tmp_path):
    path = tmp_path / name
    path.mkdir() if name in ("folder", "slide.zarr") else path.write_text("{}")
    assert get_reader(str(path)) is None
    assert get_reader([str(path), str(path)]) is None


def test_layers_are_lazy_and_aligned_in_micrometres(sample):
    layers = get_reader(str(sample))(str(sample))
    assert {tuple(options["scale"]) for _, options, _ in layers} == {(0.5, 0.5)}
    assert {tuple(options["units"]) for _, options, _ in layers} == {("micrometer", "micrometer")}
    assert not any(
        isinstance(level, np.ndarray) for data, _, _ in layers for level in (data if isinstance(data, list) else [data])
    )
    shown = [options["name"] for _, options, kind in layers if kind == "image" and options.get("visible", True)]
    assert 1 <= len(shown) <= 4


def test_the_error_for_a_moved_slide_names_its_path(sample, tmp_path):
    index = json.loads((sample / "mxsplicer.json").read_text())
    index["slides"][0]["image"] = "/gone/sample.ome.tiff"
    moved = tmp_path / "moved.mxs"
    moved.mkdir()
    (moved / "mxsplicer.json").write_text(json.dumps(index))
    (moved / "cells.h5ad").symlink_to(sample / "cells.h5ad")
    with pytest.raises(InputError, match=r"/gone/sample.ome.tiff"):
        get_reader(str(moved))(str(moved))


def test_a_slide_that_was_copied_with_the_result_is_found(sample, tmp_path):
    index = json.loads((sample / "mxsplicer.json").read_text())
    entry = index["slides"][0]
    image = Path(entry["image"])
    entry["fingerprints"] = {kind: fingerprint(entry[kind]) for kind in ("image", "mask")}
    entry["image"] = f"/gone/{image.name}"
    moved = tmp_path / "moved.mxs"
    moved.mkdir()
    (moved / "mxsplicer.json").write_text(json.dumps(index))
    (moved / "cells.h5ad").symlink_to(sample / "cells.h5ad")
    (tmp_path / image.name).write_bytes(b"another image of this name")
    with pytest.raises(InputError, match="/gone/"):
        get_reader(str(moved))(str(moved))
    (tmp_path / image.name).write_bytes(image.read_bytes())
    assert len(get_reader(str(moved))(str(moved))) > 2


def test_library_reader_and_sample_are_imported_without_qt_napari_or_torch():
    blocked = ("napari", "qtpy", "PyQt6", "PySide6", "pyqtgraph", "torch", "scanpy")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked!r}));"
        "import mxsplicer, napari_mxsplicer.reader, napari_mxsplicer.sample, napari_mxsplicer.study"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
