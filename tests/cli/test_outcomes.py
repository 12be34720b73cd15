"""`mxsplicer --outcome`: a slide that cannot be used ends without the others."""

from pathlib import Path

from mxsplicer.result.outcomes import read_outcome
from mxsplicer.simulation import simulate_slide


def test_the_command_line_keeps_outcomes_and_passes_failures_on(command, tmp_path):
    simulate_slide(tmp_path / "S1.ome.tiff", size_px=256)
    Path("S2.ome.tiff").write_text("no slide")

    good, bad = (
        command("--outcome", f"{name}/segment.json", "segment", f"{name}.ome.tiff", "--out", f"{name}/mask.zarr")
        for name in ("S1", "S2")
    )
    outcome = ("--outcome", "S2/extract.json", "--after", "S2/segment.json")
    passed = command(*outcome, "extract", "x", "--out", "y", "--mask", "z")
    alone = command("--after", "S2/segment.json", "info", "x")

    assert (good.code, bad.code, passed.code, alone.code) == (0, 0, 0, 2)
    assert "Pass --outcome" in alone.err
    assert read_outcome("S1/segment.json").made == "mask.zarr"
    assert read_outcome("S2/segment.json").failed.startswith("segment: S2.ome.tiff ")
    assert read_outcome("S2/extract.json").failed == read_outcome("S2/segment.json").failed


def test_a_folder_without_results_has_no_status(command):
    Path("empty").mkdir()

    outcome = command("status", "empty")

    assert outcome.code == 2
    assert "empty is neither a result nor the folder of a workflow" in outcome.err
