import json

import numpy as np
import pytest
import tifffile

from mxsplicer.patches.store import PatchStore
from mxsplicer.testing import tiny_slide


@pytest.fixture
def slide(tmp_path):
    """Write a tiny slide of two cells, and its mask."""
    made, mask = tiny_slide()
    described = {"axes": "CYX", "Channel": {"Name": list(made.markers)}, "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    tifffile.imwrite(tmp_path / "s.ome.tiff", made.image, metadata=described, photometric="minisblack")
    np.save(tmp_path / "mask.npy", mask)
    return ["extract", "s.ome.tiff", "--out", "p.zarr", "--mask", "mask.npy", "--patch-size-um", "16"]


def test_a_plan_writes_nothing_and_is_printed_as_text_or_json(command, slide):
    text = command(*slide, "--plan")
    as_json = command(*slide, "--plan", "--json", "--cells", "1")

    assert text.code == as_json.code == 0, text.err
    assert text.written == as_json.written == []
    assert "about 2 of 2, in 1 blocks" in text.out
    plan = json.loads(as_json.out)
    assert (plan["n_cells"], plan["patch_shape"]) == (1, [3, 32, 32])


def test_cells_from_a_list(command, slide, tmp_path):
    (tmp_path / "cells.csv").write_text("CellID,type\n2,T\n")
    (tmp_path / "wrong.txt").write_text("2\n5\n")

    ended = command(*slide, "--cells-from", "cells.csv", "--drop", "CD20")
    refused = command(*slide, "--out", "q.zarr", "--cells-from", "wrong.txt")

    assert ended.code == 0, ended.err
    store = PatchStore.open(tmp_path / "p.zarr")
    assert store.cells["cell_id"].tolist() == [2]
    assert store.markers == ("DAPI", "CD3e")
    assert refused.code == 2
    assert "1 of the 2 cells asked for are not among the 2 cells" in refused.err.replace("\n", " ")
    assert refused.written == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--max-memory", "much"], "is not an amount of memory"),
        (["--max-memory", "1M"], "too little"),
        (["--executor", "elves"], "'elves' is not a kind of worker. Set --executor to threads"),
        (["--executor", "tcp://127.0.0.1:1"], "no dask scheduler answers"),
    ],
)
def test_an_impossible_option_is_refused_in_one_sentence(command, slide, options, sentence, monkeypatch):
    monkeypatch.setattr("mxsplicer.system.dask_cluster._TIMEOUT", 0.3)

    refused = command(*slide, *options)

    assert refused.code == 2
    assert sentence in " ".join(refused.err.split())
    assert "Traceback" not in refused.err


def test_the_chosen_image_of_a_file_is_cut(command, slide, tmp_path):
    made, _ = tiny_slide()
    described = {"axes": "CYX", "Channel": {"Name": list(made.markers)}, "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    with tifffile.TiffWriter(tmp_path / "s.ome.tiff", ome=True) as writer:
        for name, factor in (("first", 1), ("second", 3)):
            meta = described | {"Name": name}
            writer.write((made.image * factor).astype(np.uint16), metadata=meta, photometric="minisblack")

    by_default = command(*slide)
    chosen = command(*slide, "--image", "second", "--out", "q.zarr")

    assert (by_default.code, chosen.code) == (0, 0), chosen.err
    first, second = (PatchStore.open(tmp_path / store).patches[:] for store in ("p.zarr", "q.zarr"))
    np.testing.assert_array_equal(second, 3 * first)
    assert "no image 'third'" in command(*slide, "--image", "third", "--out", "r.zarr").err.replace("\n", " ")
