"""What differs on Windows and macOS, where these tests imitate it: names, addresses, files in use and letters."""

import os
import subprocess
import sys
from pathlib import Path, PureWindowsPath

import pytest

from mxsplicer.errors import InputError
from mxsplicer.system.files import atomic_write, check_folder_names
from mxsplicer.system.location import locate


@pytest.fixture(params=["win32", "darwin", "linux"])
def system(request, monkeypatch):
    monkeypatch.setattr(sys, "platform", request.param)
    return request.param


@pytest.mark.parametrize("name", ["a:b", "what?", "CON", "aux.1", "ends.", "ends ", "a|b"])
def test_a_slide_is_not_named_as_windows_forbids(name, system):
    if system == "win32":
        with pytest.raises(InputError, match="cannot name a folder"):
            check_folder_names(["S1", name], "slides")
    else:
        check_folder_names(["S1", name], "slides")


def test_two_slides_do_not_differ_only_in_capitals_where_they_would_share_a_folder(system):
    if system == "linux":
        check_folder_names(["S1", "s1"], "slides")
    else:
        with pytest.raises(InputError, match="'S1' and 's1' differ only in capitals"):
            check_folder_names(["S1", "s1"], "slides")


def test_an_address_is_recognised_after_windows_made_it_a_path():
    assert locate(PureWindowsPath("https://host/slide.ome.zarr")) == "https://host/slide.ome.zarr"
    assert isinstance(locate(PureWindowsPath("C:/slides/S1.ome.tiff")), Path)


def test_a_file_that_a_virus_scanner_holds_for_a_moment_is_replaced(tmp_path, system, monkeypatch):
    refusals, rename = [1, 2], Path.replace

    def refuse_twice(self, target):
        if refusals:
            refusals.pop()
            raise PermissionError(13, "in use", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", refuse_twice)
    if system == "win32":
        with atomic_write(tmp_path / "a.csv") as temporary:
            temporary.write_text("x", encoding="utf-8")
        assert (tmp_path / "a.csv").read_text(encoding="utf-8") == "x"
    else:
        with pytest.raises(PermissionError), atomic_write(tmp_path / "a.csv") as temporary:
            temporary.write_text("x", encoding="utf-8")
    assert not list(tmp_path.glob("*.partial"))


def test_a_letter_that_a_terminal_lacks_does_not_stop_a_command(tmp_path):
    code = "from mxsplicer.cli import main; main(['info', '肿瘤.ome.tiff'])"

    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONIOENCODING": "cp1252", "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )

    assert done.returncode == 2
    assert b"\\u80bf\\u7624.ome.tiff not found" in done.stderr
