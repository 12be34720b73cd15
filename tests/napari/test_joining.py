"""Joining a table with a label image: where ids are found, and what is refused before napari starts."""

import subprocess
import sys

import anndata
import numpy as np
import pandas as pd
import pytest
import tifffile
from napari_mxsplicer.layers import PAINT
from napari_mxsplicer.opening import read_layers
from napari_mxsplicer.study import open_study

from mxsplicer import InputError

IDS = np.array([3, 8, 5])


@pytest.fixture
def mask(tmp_path):
    """Return the file of a label image with three cells of 10 by 10 pixels, from left to right."""
    labels = np.zeros((20, 60), dtype=np.uint32)
    for place, one in enumerate(IDS):
        labels[5:15, 5 + 20 * place : 15 + 20 * place] = one
    tifffile.imwrite(tmp_path / "mask.tif", labels)
    return tmp_path / "mask.tif"


def write(path, *, names=("a", "b", "c"), obs=None, z=True, spatial=None):
    """Write a table of the three cells."""
    table = pd.DataFrame(obs or {}, index=list(names))
    obsm = {"X_splicer": np.float32([[1, 0], [2, 1], [3, 0]])} if z else {}
    obsm |= {} if spatial is None else {"spatial": np.asarray(spatial, dtype=float)}
    var = pd.DataFrame(index=["DAPI", "CD3e"])
    anndata.AnnData(np.float32([[1, 4], [2, 5], [3, 6]]), obs=table, var=var, obsm=obsm).write_h5ad(path)
    return path


def painted(path, mask, values=(10, 20, 30)):
    """Return the value that each label of the mask is coloured by, from left to right."""
    layer = read_layers(path, mask=mask)[-1]
    opened = layer[1]["metadata"][PAINT]
    opened.paint.set(np.asarray(values))
    return np.asarray(layer[0][:, :])[10, [10, 30, 50]].tolist(), opened


@pytest.mark.parametrize(
    ("names", "pattern"),
    [(("3", "8", "5"), "12"), (("S1_3", "S1_8", "S1_5"), "slide_12"), (("3-0", "8-0", "5-0"), "12-0")],
)
def test_ids_are_read_from_names_of_cells_where_obs_has_none(tmp_path, mask, names, pattern):
    path = write(tmp_path / "cells.h5ad", names=names)
    assert painted(path, mask)[0] == [10, 20, 30], pattern
    study = open_study(path)
    assert study.id_column == ""
    found = pd.Index(names).str.extract(study.id_pattern, expand=False).astype(int)
    assert found.tolist() == IDS.tolist()


def test_a_column_of_types_called_label_is_not_taken_for_ids(tmp_path, mask):
    path = write(tmp_path / "cells.h5ad", names=("3", "8", "5"), obs={"label": ["T cell", "B cell", "T cell"]})
    assert painted(path, mask)[0] == [10, 20, 30]
    assert "label" in open_study(path).paintable_columns


def test_row_numbers_are_not_taken_for_ids(tmp_path, mask):
    path = write(tmp_path / "cells.h5ad", names=("0", "1", "2"))
    with pytest.raises(InputError, match=r"cells.h5ad has no cell ids.*row numbers from 0.*obs\['cell_id'\]"):
        read_layers(path, mask=mask)


def test_names_without_numbers_are_refused_by_name(tmp_path, mask):
    path = write(tmp_path / "cells.h5ad")
    with pytest.raises(InputError, match=r"cells.h5ad has no cell ids.*such as 'a'"):
        read_layers(path, mask=mask)


def test_positions_of_squidpy_in_pixels_are_used_where_they_lie_in_the_cells(tmp_path, mask):
    path = write(tmp_path / "cells.h5ad", names=("3", "8", "5"), spatial=[(10, 10), (30, 10), (50, 10)])
    layer = read_layers(path, mask=mask)[-1]
    np.testing.assert_array_equal(layer[1]["metadata"]["mxsplicer"].xy_px[:, 0], [10, 30, 50])


def test_numbers_in_names_that_lie_elsewhere_are_refused(tmp_path, mask):
    path = write(tmp_path / "cells.h5ad", names=("8", "5", "3"), obs={"x_px": [10, 30, 50], "y_px": [10, 10, 10]})
    with pytest.raises(InputError, match=r"do not lie where mask mask.tif has their ids"):
        read_layers(path, mask=mask)


def test_positions_elsewhere_are_left_out_with_a_note(tmp_path, mask):
    obs = {"cell_id": IDS, "x_px": [50, 10, 30], "y_px": [10, 10, 10]}
    values, opened = painted(write(tmp_path / "cells.h5ad", obs=obs), mask)
    assert values == [10, 20, 30]
    assert "check that both belong together" in opened.note


def test_ids_that_match_no_cell_are_refused(tmp_path, mask):
    path = write(tmp_path / "cells.h5ad", obs={"cell_id": IDS + 100})
    needed = r"none of the 3 cell ids of cells.h5ad \(103 to 108\) occurs in mask mask.tif, which has labels 3 to 8"
    with pytest.raises(InputError, match=needed):
        read_layers(path, mask=mask)


def test_cells_that_every_coarse_level_misses_are_found(tmp_path):
    labels = np.zeros((20, 5000), dtype=np.uint32)
    labels[1, 1] = 3
    tifffile.imwrite(tmp_path / "mask.tif", labels)
    path = write(tmp_path / "cells.h5ad", obs={"cell_id": IDS})
    assert read_layers(path, mask=tmp_path / "mask.tif")


def test_another_slide_of_a_table_is_refused(tmp_path, mask):
    path = write(tmp_path / "cells.h5ad", obs={"cell_id": IDS, "slide": ["A", "A", "B"]})
    with pytest.raises(InputError, match=r"cells.h5ad has no slide 'C'; it has A, B"):
        read_layers(path, mask=mask, slide="C")


def damage(path, how):
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "text": b"hello", "truncated": whole[: len(whole) // 2]}[how])


@pytest.mark.parametrize(
    ("how", "why"), [("empty", "is empty"), ("text", "is not an HDF5 file"), ("truncated", "is damaged or incomplete")]
)
def test_a_damaged_table_is_named(tmp_path, mask, how, why):
    path = write(tmp_path / "cells.h5ad", obs={"cell_id": IDS})
    damage(path, how)
    with pytest.raises(InputError, match=rf"cells.h5ad {why}"):
        read_layers(path, mask=mask)


def test_errors_come_before_napari_is_started(tmp_path, mask):
    path = write(tmp_path / "cells.h5ad", obs={"cell_id": IDS})
    damage(path, "truncated")
    code = (
        "import sys\nfrom mxsplicer.cli import app\nfrom mxsplicer import InputError\n"
        f"try: app(['view', {str(path)!r}, '--mask', {str(mask)!r}], standalone_mode=False)\n"
        "except InputError as error: print(error)\n"
        "print(*[name for name in ('napari', 'qtpy', 'vispy', 'pyqtgraph') if name in sys.modules], sep=',')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    message, imported = done.stdout.splitlines()
    assert "cells.h5ad is damaged or incomplete" in message
    assert imported == ""


def test_a_table_without_features_says_so_and_shows_markers(tmp_path):
    study = open_study(write(tmp_path / "cells.h5ad", z=False))
    assert study.missing == (
        "cells.h5ad has no features in obsm, so there is nothing to correlate. "
        "Markers and columns of obs can colour the cells."
    )
    assert study.marker("CD3e").tolist() == [4, 5, 6]


def test_layers_are_described_without_napari(tmp_path, mask):
    path = write(tmp_path / "cells.h5ad", obs={"cell_id": IDS, "leiden": pd.Categorical(["0", "1", "0"])})
    code = (
        "import sys\nfrom napari_mxsplicer.opening import read_layers\n"
        f"layer = read_layers({str(path)!r}, mask={str(mask)!r})[-1]\n"
        "print(layer[1]['contrast_limits'], 'napari' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "(-0.5, 1.5) False"
