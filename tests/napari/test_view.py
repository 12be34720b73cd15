import sys

import pytest
from typer.testing import CliRunner

from mxsplicer import InputError
from mxsplicer.cli import app


@pytest.mark.filterwarnings("ignore")  # napari's own
def test_a_missing_screen_is_reported_before_qt_aborts_the_process(sample, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    error = CliRunner().invoke(app, ["view", str(sample)]).exception
    assert isinstance(error, InputError)
    assert "No screen found" in str(error)


def test_the_error_without_napari_names_the_extra_to_install(sample, monkeypatch):
    monkeypatch.setitem(sys.modules, "napari", None)
    error = CliRunner().invoke(app, ["view", str(sample)]).exception
    assert isinstance(error, InputError)
    assert "pip install 'mxsplicer[gui]'" in str(error)
