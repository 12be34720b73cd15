import sys

import pytest
from typer.testing import CliRunner

from mxsplicer import InputError
from mxsplicer.cli import app


@pytest.mark.filterwarnings("ignore")  # napari's own
def test_without_a_screen_it_is_said_before_qt_ends_the_process(sample, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    error = CliRunner().invoke(app, ["view", str(sample)]).exception
    assert isinstance(error, InputError)
    assert "there is no screen here" in str(error)


def test_without_napari_the_extra_is_named(sample, monkeypatch):
    monkeypatch.setitem(sys.modules, "napari", None)
    error = CliRunner().invoke(app, ["view", str(sample)]).exception
    assert isinstance(error, InputError)
    assert "pip install 'mxsplicer[gui]'" in str(error)
