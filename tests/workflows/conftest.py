"""What the tests of workflows share."""

import runpy
import sys
from pathlib import Path

import pytest

PAPER = Path(__file__).parents[2] / "workflows/paper"


@pytest.fixture
def load(monkeypatch):
    """Return what runs a script of the paper's workflow as its command line does, without a process of its own."""

    def run(name, *words):
        path = PAPER / f"{name}.py"
        monkeypatch.setattr(sys, "argv", [path.name, *map(str, words)])
        monkeypatch.syspath_prepend(str(path.parent))
        runpy.run_path(str(path), run_name="__main__")

    return run
