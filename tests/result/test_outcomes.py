"""How a command on one slide ended is recorded for the commands after it."""

import errno

import pytest

from mxsplicer.errors import InputError
from mxsplicer.result.outcomes import pass_failure_on, read_outcome, read_outcomes, record_outcome, record_output


def test_an_outcome_records_what_was_made(tmp_path):
    with record_outcome(tmp_path / "S1" / "extract.json"):
        record_output(tmp_path / "S1" / "patches.zarr")

    outcome = read_outcome(tmp_path / "S1" / "extract.json")
    assert (outcome.made, outcome.failed) == ("patches.zarr", "")
    assert read_outcomes([tmp_path / "S1" / "extract.json"]) == ([tmp_path / "S1" / "patches.zarr"], {})


def test_a_failure_of_a_slide_ends_in_its_outcome_and_is_passed_on(tmp_path):
    for name in ("S1", "S2"):
        with record_outcome(tmp_path / name / "segment.json", "segment"):
            record_output("elsewhere")
            if name == "S2":
                msg = "a tile is\ndamaged"
                raise ValueError(msg)

    assert not pass_failure_on(tmp_path / "S1" / "segment.json", tmp_path / "S1" / "extract.json")
    assert pass_failure_on(tmp_path / "S2" / "segment.json", tmp_path / "S2" / "extract.json")
    found, failed = read_outcomes([tmp_path / "S1" / "segment.json", tmp_path / "S2" / "extract.json", "given"])
    assert len(found) == 2
    assert failed == {"S2": "segment: ValueError: a tile is damaged"}
    with pytest.raises(InputError, match=r"none of the 1 slides can be used\. The first, S2: segment: ValueError"):
        read_outcomes([tmp_path / "S2" / "extract.json"])


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), MemoryError(), KeyboardInterrupt()])
def test_an_error_that_is_not_the_slides_leaves_no_outcome(tmp_path, error):
    with pytest.raises(type(error)), record_outcome(tmp_path / "segment.json"):
        raise error

    assert list(tmp_path.iterdir()) == []


def test_another_file_is_refused_as_an_outcome(tmp_path):
    (tmp_path / "a.json").write_text("{}x")

    with pytest.raises(InputError, match=r"a.json is not the outcome of a command"):
        read_outcomes([tmp_path / "a.json"])
