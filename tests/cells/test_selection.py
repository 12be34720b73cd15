import json

import numpy as np
import pytest
from matplotlib.path import Path as Outline

from mxsplicer.cells.measure import measure_cells
from mxsplicer.cells.selection import OUTSIDE, keep_inside
from mxsplicer.errors import InputError
from mxsplicer.images.slide import Slide
from mxsplicer.patches.store import PatchStore
from mxsplicer.testing import tiny_slide

TRIANGLE = [[10.2, 10.3], [180.7, 20.1], [60.4, 110.8], [10.2, 10.3]]
HOLE = [[60.2, 40.1], [100.3, 40.2], [80.7, 60.3], [60.2, 40.1]]


def write(path, *rings):
    polygon = {"type": "Polygon", "coordinates": list(rings)}
    path.write_text(json.dumps({"type": "Feature", "geometry": polygon, "properties": {"objectType": "annotation"}}))
    return path


@pytest.fixture
def tissue():
    """Return a slide of cells of 3 x 3 pixels, on a grid, and the cells."""
    mask = np.zeros((128, 200), np.uint32)
    for number, (y, x) in enumerate(np.ndindex(21, 33), start=1):
        mask[6 * y + 1 : 6 * y + 4, 6 * x + 1 : 6 * x + 4] = number
    slide = Slide("S01", np.ones((1, 128, 200), np.uint8), ("DAPI",), pixel_size_um=0.5)
    return slide, measure_cells(slide, mask, min_area_um2=0)


@pytest.mark.parametrize("window_px", [16, 2048])
def test_cells_are_kept_whose_centroid_lies_in_the_outline_and_the_ledger_closes(
    tissue, tmp_path, monkeypatch, window_px
):
    monkeypatch.setattr("mxsplicer.masks.geojson._WINDOW_PX", window_px)
    slide, cells = tissue

    kept = keep_inside(cells, write(tmp_path / "roi.geojson", TRIANGLE, HOLE), slide)

    centres = cells.table[["x_px", "y_px"]].to_numpy() + 0.5  # of corners, as GeoJSON counts
    inside = Outline(TRIANGLE).contains_points(centres) & ~Outline(HOLE).contains_points(centres)
    assert set(kept.table["cell_id"]) == set(cells.table["cell_id"][inside])
    assert kept.ledger == {"in mask": 693, "kept": inside.sum(), "too small": 0, OUTSIDE: (~inside).sum()}


def test_outlines_that_hold_no_cell_are_refused(tissue, tmp_path):
    slide, cells = tissue
    corner = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]

    with pytest.raises(InputError, match=r"none of the 693 cells of slide 'S01' lies in an outline of roi\.geojson"):
        keep_inside(cells, write(tmp_path / "roi.geojson", corner), slide)


def test_patches_are_cut_of_the_cells_in_the_outline_alone(tmp_path, monkeypatch, capsys):
    import tifffile

    from mxsplicer.cli import main

    monkeypatch.chdir(tmp_path)
    slide, mask = tiny_slide(cells_at=[(20, 30), (40, 70)])
    metadata = {"axes": "CYX", "PhysicalSizeX": 0.5, "Channel": {"Name": list(slide.markers)}}
    tifffile.imwrite("S01.ome.tif", slide.image, photometric="minisblack", metadata=metadata, ome=True)
    tifffile.imwrite("mask.tif", mask)
    write(tmp_path / "roi.geojson", [[0.0, 0.0], [50.0, 0.0], [50.0, 60.0], [0.0, 60.0], [0.0, 0.0]])

    with pytest.raises(SystemExit) as ended:
        main(
            [
                "extract",
                "S01.ome.tif",
                "--out",
                "p.zarr",
                "--mask",
                "mask.tif",
                "--patch-size-um",
                "8",
                "--roi",
                "roi.geojson",
            ]
        )

    assert ended.value.code == 0
    assert "1 outside the regions" in capsys.readouterr().out
    assert PatchStore.open(tmp_path / "p.zarr").cells["cell_id"].tolist() == [1]
