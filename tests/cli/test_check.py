"""`mxsplicer check` says what is wrong with a mask, in words or in JSON, and by its exit code."""

import json

import numpy as np
import pytest
import tifffile

from mxsplicer.testing import tiny_slide

RNG = np.random.default_rng(0)
CELLS_AT = [(y + RNG.integers(-3, 4), x + RNG.integers(-3, 4)) for y in range(20, 150, 17) for x in range(20, 190, 17)]
SLIDE, MASK = tiny_slide(cells_at=CELLS_AT, shape_px=(160, 200))


@pytest.fixture
def slide(saved):
    return saved(SLIDE)


def write_mask(folder, labels=MASK):
    tifffile.imwrite(folder / "mask.tif", labels, photometric="minisblack", metadata=None)
    return "mask.tif"


def test_a_sound_mask_ends_with_0(command, tmp_path, slide):
    outcome = command("check", slide, write_mask(tmp_path))

    assert (outcome.code, outcome.err, outcome.written) == (0, "", [])
    assert "mask mask.tif of slide S01: 80 cells, half of them above 5.08 µm across; nothing is wrong" in outcome.out


def test_a_faulty_mask_ends_with_1_and_the_fault_its_cause_and_its_fix(command, tmp_path, slide):
    outcome = command("check", slide, write_mask(tmp_path, np.roll(MASK, (6, 4), axis=(0, 1))))

    assert outcome.code == 1
    assert "1 thing is wrong" in outcome.out
    for part in (
        "WRONG  shifted",
        "6 px (3 µm) too low and 4 px (2 µm) too far right",
        "cause",
        "Move the mask by -6 rows",
    ):
        assert part in outcome.out


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_remedies_name_options(command, tmp_path, slide, options):
    outcome = command("check", slide, write_mask(tmp_path), "--drop", "DAPI", *options)

    assert "Name the marker by --nuclear-marker." in outcome.out


def test_findings_in_json(command, tmp_path, slide):
    outcome = command("check", slide, write_mask(tmp_path, MASK[::2, ::2]), "--json")

    answer = json.loads(outcome.out)
    assert outcome.code == 1
    assert (answer["slide"], answer["healthy"], answer["n_cells"]) == ("S01", False, 80)
    assert answer["findings"][0]["name"] == "other level"
    assert answer["findings"][0]["figures"]["ratio"] == 2


def test_outlines_serve_as_cells_and_as_nuclei(command, tmp_path, slide):
    def box(left, top, side):
        return [[left, top], [left + side, top], [left + side, top + side], [left, top + side], [left, top]]

    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [box(x - 5, y - 5, 10)]},
            "nucleusGeometry": {"type": "Polygon", "coordinates": [box(x - 2, y - 2, 4)]},
            "properties": {"objectType": "cell"},
        }
        for y, x in np.array(CELLS_AT).tolist()
    ]
    (tmp_path / "cells.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))

    outcome = command("check", slide, "cells.geojson", "--nuclei", "cells.geojson")

    assert outcome.code == 0
    assert "80 nuclei and 80 cells: 0 nuclei have the id of no cell" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["S01.ome.tif", "gone.tif"], "MASK gone.tif not found"),
        (["gone.tif", "mask.tif"], "SLIDE gone.tif not found"),
        (["S01.ome.tif", "mask.tif", "--nuclear-marker", "DAPY"], "Did you mean 'DAPI'"),
        (["S01.ome.tif", "mask.tif", "--drop", "CD4"], "no marker 'CD4'"),
        (["S01.ome.tif", "mask.tif", "--rename", "CD3e"], "'CD3e' is not OLD=NEW"),
        (["S01.ome.tif", "S01.ome.tif"], "Choose one by --mask-page"),
    ],
)
def test_what_cannot_be_looked_at_ends_with_2(command, tmp_path, slide, arguments, sentence):
    write_mask(tmp_path)

    outcome = command("check", *arguments)

    assert (outcome.code, outcome.out) == (2, "")
    assert sentence in outcome.err
    assert outcome.err.count("\n") == 1
