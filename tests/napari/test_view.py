import socket
import sys

import pytest
from typer.testing import CliRunner

from mxsplicer import InputError
from mxsplicer.cli import app
from mxsplicer.cli.view import _answers


@pytest.mark.filterwarnings("ignore")  # napari's own
def test_a_missing_screen_is_reported_before_qt_aborts_the_process(sample, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    error = CliRunner().invoke(app, ["view", str(sample)]).exception
    assert isinstance(error, InputError)
    assert "No screen found" in str(error)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("display", [":4711", "localhost:4711.0", "unix:4711"])
def test_a_screen_that_does_not_answer_is_reported(sample, monkeypatch, display):
    for name in ("WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.setattr(sys, "platform", "linux")
    error = CliRunner().invoke(app, ["view", str(sample)]).exception
    assert isinstance(error, InputError)
    assert f"The screen {display!r} (DISPLAY) does not answer" in str(error)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_screen_that_answers_is_used(monkeypatch, host):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        assert _answers(f"{host}:{server.getsockname()[1] - 6000}.0")


def test_the_error_without_napari_names_the_extra_to_install(sample, monkeypatch):
    monkeypatch.setitem(sys.modules, "napari", None)
    error = CliRunner().invoke(app, ["view", str(sample)]).exception
    assert isinstance(error, InputError)
    assert "pip install 'mxsplicer[gui]'" in str(error)
