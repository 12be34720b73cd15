"""`mxsplicer embed` and `train` on the command line."""

import json

import pytest

from mxsplicer.simulation import simulate_slide


@pytest.mark.parametrize("name", ["embed", "train"])
def test_help_groups_the_options_under_headings(command, name):
    outcome = command(name, "--help-all").out

    headings = (
        ["Input", "Cells", "Patches", "Model", "Scores", "Running"]
        if name == "embed"
        else ["Model", "Scores", "Running"]
    )
    places = [outcome.index(f" {heading} ") for heading in headings]
    assert places == sorted(places)


def test_a_plan_is_printed_as_text_or_json_and_nothing_is_written(command, tmp_path):
    slide = simulate_slide(tmp_path / "S01.ome.tiff", size_px=256)
    arguments = ("embed", slide.image, "--mask", slide.mask, "--plan", "--train", "--patch-size-um", 8)

    outcome = command(*arguments)
    as_json = command(*arguments, "--json", "--max-memory", "3G")

    assert (outcome.code, as_json.code, outcome.written + as_json.written) == (0, 0, [])
    assert outcome.out.startswith("cells   about ")
    assert "training" in outcome.out
    plan = json.loads(as_json.out)
    assert plan["n_features"] == 171  # moments of 19 markers, and 16 learned
    assert set(plan["seconds"]) >= {"patches", "embedding", "correlation and clusters"}
