"""Files and folders appear when they are complete."""

import json
import os

import pytest

from mxsplicer.errors import InputError
from mxsplicer.system.files import atomic_write, check_free, partial_path, remove_partial, replace, write_json


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "a.txt"

    with atomic_write(path) as temporary:
        temporary.write_text("whole")
        assert temporary == partial_path(path)
        assert not path.exists()

    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write():
        with atomic_write(path) as temporary:
            temporary.write_text("ha")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()

    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_not_part_of_a_folder(tmp_path):
    path = tmp_path / "a.zarr"
    partial_path(path).mkdir()
    (partial_path(path) / "left").touch()

    with atomic_write(path) as temporary:
        temporary.mkdir()
        (temporary / "new").touch()

    assert [one.name for one in path.iterdir()] == ["new"]


@pytest.mark.parametrize("old", ["file", "folder", "nothing"])
@pytest.mark.parametrize("new", ["file", "folder"])
def test_files_and_folders_replace_each_other(tmp_path, old, new):
    path, temporary = tmp_path / "a", tmp_path / "b"
    for place, kind in ((path, old), (temporary, new)):
        if kind == "folder":
            place.mkdir()
            (place / kind).write_text(place.name)
        elif kind == "file":
            place.write_text(place.name)

    replace(temporary, path)

    assert list(tmp_path.iterdir()) == [path]
    assert (path / new if new == "folder" else path).read_text() == "b"


def test_processes_that_write_the_same_file_have_temporary_names_of_their_own(tmp_path):
    with atomic_write(tmp_path / "a", shared=True) as temporary:
        assert str(os.getpid()) in temporary.name
        temporary.touch()
        assert temporary in tmp_path.glob("*.partial")


def test_leftovers_are_removed_at_any_depth(tmp_path):
    for place in (tmp_path / "a.partial", tmp_path / "deep" / "b.partial", tmp_path / "c"):
        place.parent.mkdir(exist_ok=True)
        place.touch()

    remove_partial(tmp_path)

    assert sorted(one.name for one in tmp_path.rglob("*")) == ["c", "deep"]


def test_what_exists_is_replaced_only_when_asked(tmp_path):
    check_free(tmp_path / "new", overwrite=False)
    check_free(tmp_path, overwrite=True)
    with pytest.raises(InputError, match=r"exists\. Choose another name, or pass `overwrite=True` to replace it"):
        check_free(tmp_path, overwrite=False)


def test_json_keeps_letters_of_every_alphabet(tmp_path):
    write_json(tmp_path / "a.json", {"unit": "µm"})

    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"unit": "µm"}
    assert "µm" in (tmp_path / "a.json").read_text(encoding="utf-8")
